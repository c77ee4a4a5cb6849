"""Projection: embeddings to 3D maps. Features of each space, the UMAP fit, its quality, placing further rows."""
