"""Vectors of a few images in memory: a question, a generated image. Shards are the business of `shard`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.models.encoder import Encoder


def encode_images(encoder: Encoder, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
    """Every column of `encoder`, float16 [n, width], of RGB images as `decode_image` and `decode_as_stored` give them.

    They are what a pass over a shard stores of the same images, to rounding.
    """
    import torch

    batch = torch.from_numpy(np.stack([encoder.pixels(image) for image in images]))
    return {name: values.half().cpu().numpy() for name, values in encoder.encode(batch).items()}
