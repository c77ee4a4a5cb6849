"""Copies of a picture as they are met: what a release is calibrated by. What recognises them is in `copies`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageOps

from latent_assets.images.decode.image import decode_image

Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(side: float) -> Alter:
    """The part of `side` of a picture, anywhere in it."""

    def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
        x, y = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
        return image.crop((x, y, x + width, y + height))

    return cropped


def halved(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half as wide and high."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Saved as a poor JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return decode_image(buffer.getvalue())


def mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left for right."""
    return ImageOps.mirror(image)


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by 2 to 5 degrees; the corners that are empty then are cut off."""
    degrees = float(rng.uniform(2, 5) * rng.choice([-1, 1]))
    found = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))
    margin_x, margin_y = (round(length * 0.05) for length in image.size)
    return found.crop((margin_x, margin_y, image.width - margin_x, image.height - margin_y))


def framed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """In a border of 8 % of one colour."""
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    return ImageOps.expand(image, max(1, round(0.08 * max(image.size))), colour)


ALTERATIONS: Mapping[str, Alter] = {
    "crop to 80 %": crop(0.8),
    "crop to 60 %": crop(0.6),
    "half the size": halved,
    "JPEG 50": jpeg,
    "mirrored": mirrored,
    "turned": turned,
    "border": framed,
}
