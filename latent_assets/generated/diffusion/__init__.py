"""Images from text: the profile's diffusion model, and the way of each image from noise to picture through the maps.

request.py    what is asked for, checked
pipeline.py   the text-to-image pipeline, loaded once a process
denoising.py  the predicted clean latent of every step, for any scheduler
latents.py    from latents to pictures and vectors, and whose space they are in
generate.py   a request becomes an image with its path and its place, step by step
writing.py    the PNG with its parameters, the JSON beside it, both into the inbox
"""
