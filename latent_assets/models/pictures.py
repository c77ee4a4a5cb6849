"""Built-in pictures: what models are tried on where nobody's images are at hand. The same on every machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

_SIZE = 256
_SEED = 20_261_128


def pictures(count: int) -> Iterator[Image.Image]:
    """`count` RGB pictures of 256 x 256 pixels: waves of several colours, with discs, bars and grain, each another."""
    rng = np.random.Generator(np.random.Philox(_SEED))
    y, x = np.mgrid[0:_SIZE, 0:_SIZE].astype(np.float64) / _SIZE
    for number in range(count):
        ground = rng.random((2, 3)) * 255
        angle, pitch, phase = rng.random(3)
        wave = np.sin(2 * np.pi * ((1 + 9 * pitch) * (x * np.cos(6.3 * angle) + y * np.sin(6.3 * angle)) + phase))
        shown = ground[0] + (ground[1] - ground[0]) * ((wave + 1) / 2)[..., None]
        for _ in range(1 + number % 5):
            place, size, colour = rng.random(2), 0.05 + 0.25 * rng.random(), rng.random(3) * 255
            across, along = np.abs(x - place[0]), np.abs(y - place[1])
            inside = across**2 + along**2 < size**2 if rng.random() < 0.5 else (across < size) & (along < size / 3)
            shown = np.where(inside[..., None], colour, shown)
        shown = shown + (rng.random((_SIZE, _SIZE, 3)) - 0.5) * 40 * rng.random()
        yield Image.fromarray(np.clip(np.rint(shown), 0, 255).astype(np.uint8))
