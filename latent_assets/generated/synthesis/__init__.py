"""Pictures that nobody made: the way between two images through latent space, and what a place of a map stands for.

latents.py    the latents that a release's rows were made from
walks.py      evenly spaced frames between two images, or between two prompts
places.py     the mean of what is around a place of a map

What comes out of a decoder here is a synthesis, and is said to be one: it is in no data set, and nobody drew it.
"""
