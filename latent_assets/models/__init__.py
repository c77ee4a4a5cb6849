"""Models: where weights are and what their digest is, devices and number formats, preprocessing, loading.

What is encoded, and where the results go, is decided in `embeddings`.
"""
