"""Pixels for the encoders: one decode, then a square crop at each model's size.

The crop is torchvision's Resize (shortest side) and CenterCrop on PIL images, which is what open_clip's
own transform does; only normalisation is left to the model's device. Fetching decides what is an image;
here a file that cannot be decoded is an error of that row.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# beyond this ratio of the sides only the middle is resized: a 10 x 10,000 image must not become 512 x 512,000
_WIDEST = 16


def decode(data: bytes) -> Image.Image:
    """The RGB image in `data`; transparent pixels become white. Raises OSError when it is not an image."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB, laid on white where it is transparent."""
    if image.mode == "RGB":
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Resize the shortest side to `size` and crop the centre: uint8 [size, size, 3]."""
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
