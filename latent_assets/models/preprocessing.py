"""Pixels for the encoders: a square at each model's size. Decoding is the business of `images.decode`.

How an image becomes a square is what open_clip's own transforms do with PIL images: torchvision's Resize of the
shortest side and CenterCrop, or Resize of both sides, or the whole image on a ground. Only normalisation is left to the
model's device.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# beyond this ratio of the sides only the middle is resized: a 10 x 10,000 image must not become 512 x 512,000
_WIDEST = 16
MODES = ("shortest", "squash", "longest")


def squared(image: Image.Image, size: int, mode: str, resample: Image.Resampling, fill: int = 0) -> np.ndarray:
    """An RGB image as a model was trained to see it: uint8 [size, size, 3].

    mode: `shortest` crops the centre, `squash` changes the ratio of the sides, `longest` shows all of it on a ground of
    the grey `fill`.
    """
    if mode == "shortest":
        return square(image, size, resample)
    if mode == "squash":
        return np.asarray(image if image.size == (size, size) else image.resize((size, size), resample))
    width, height = image.size
    ratio = max(width, height) / size
    scaled = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    shown = image if image.size == scaled else image.resize(scaled, resample)
    ground = Image.new("RGB", (size, size), (fill, fill, fill))
    ground.paste(shown, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
    return np.asarray(ground)


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
