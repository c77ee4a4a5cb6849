"""Generating, text to images with the profile's diffusion model, and what generated images say of themselves.

pipeline.py       the text-to-image pipeline, through diffusers
generation.py     what is known of how an image was generated
metadata.py       prompts and parameters, read from the files of all common tools and written into our own
embedded_text.py  the texts that image files carry
comfyui.py        ComfyUI's graphs
"""
