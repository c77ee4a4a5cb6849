"""Pixels for the encoders: a square crop at each model's size. Decoding is the business of `images.decode`.

The crop is torchvision's Resize (shortest side) and CenterCrop on PIL images, which is what open_clip's
own transform does; only normalisation is left to the model's device.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# beyond this ratio of the sides only the middle is resized: a 10 x 10,000 image must not become 512 x 512,000
_WIDEST = 16


def square(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Of an RGB image, resize the shortest side to `size` and crop the centre: uint8 [size, size, 3]."""
    width, height = image.size
    if min(width, height) != size:
        if max(width, height) > _WIDEST * min(width, height):
            image = _middle(image, _WIDEST * min(width, height))
            width, height = image.size
        # torchvision truncates the long side; the same here, so that the pixels are the same
        scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
        image = image.resize(scaled, resample)
        width, height = image.size
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _middle(image: Image.Image, long: int) -> Image.Image:
    """The middle `long` pixels of the longer side."""
    width, height = image.size
    if width > height:
        return image.crop(((width - long) // 2, 0, (width - long) // 2 + long, height))
    return image.crop((0, (height - long) // 2, width, (height - long) // 2 + long))
