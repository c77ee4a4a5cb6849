"""Where an image falls, what is near, and how usual that is.

placed.py         what is said of an image: types and their words
placing.py        an image's place, its neighbours and what can be said of them
neighborhood.py   the rows around an image, in every space
groups.py  copies.py  background.py
                  near-duplicates, pictures that show another, what stands behind neighbours
calibration.py  calibrating.py
                  what is usual between real images of a release, and measuring it
"""
