"""Generated images: made from text, taken from the inbox, and placed on the maps of a release.

diffusion/        images from text, through diffusers, and their path through the maps
metadata/         prompts and parameters, read from the files of all common tools and written into our own
placement/        where an image falls, what is near, and how usual that is
inbox.py          files that were dropped, accepted, put aside
intake.py         from the inbox to kept originals
projecting.py     what is to be placed, and the rows of it
known_vectors.py  vectors that were made when an image was accepted
table.py          the LanceDB table `generated`
checks.py  pictures.py
                  for whoever looks
"""
