"""Generated images: made from text, taken from the inbox, and placed on the maps of a release.

pipeline.py       the text-to-image pipeline, through diffusers
generation.py     what is known of how an image was generated
metadata.py       prompts and parameters, read from the files of all common tools and written into our own
embedded_text.py  the texts that image files carry
comfyui.py        ComfyUI's graphs
inbox.py          files that were dropped, accepted, put aside
intake.py         from the inbox to kept originals
placing.py        where an image falls, what is near, how usual that is
groups.py  copies.py  background.py
                  near-duplicates, pictures that show another, what stands behind neighbours
calibration.py  calibrating.py
                  what is usual between real images of a release, and measuring it
projecting.py     what is to be placed, and the rows of it
table.py          the LanceDB table `generated`
checks.py  pictures.py
                  for whoever looks
"""
