"""Encoding: images to CLIP vectors and VAE latents. Models, preprocessing, the decode-once pass, its files."""
