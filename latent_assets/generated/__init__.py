"""Generating: text to images with the profile's diffusion model."""
