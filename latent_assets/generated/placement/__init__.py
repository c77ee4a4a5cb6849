"""Where an image falls, what is near, and how usual that is.

placing.py        an image's place, its neighbours and what can be said of them
groups.py  copies.py  background.py
                  near-duplicates, pictures that show another, what stands behind neighbours
calibration.py  calibrating.py
                  what is usual between real images of a release, and measuring it
"""
