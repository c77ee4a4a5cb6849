"""From images to vectors, latents and thumbnails: one decode feeds all. The models themselves are in `models`."""
