"""The training pictures as arrays, and their augmentation.

Here: render once, keep 64 px and 128 px copies on disk, draw augmented batches. Not here: models and losses.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from latent_assets.openmoji.dataset import emoji_table, render_all

SIZE = 64


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and strengths; strengths are the largest deviation drawn."""

    affine: float = 0.3
    scale: float = 0.15
    shift: float = 0.08
    degrees: float = 10.0
    flip: float = 0.0
    colour: float = 0.2
    colour_strength: float = 0.1
    jpeg: float = 0.05


@dataclass(frozen=True)
class Pictures:
    """The captioned pictures in table order: uint8 [n, 3, 64, 64] and uint8 [n, 3, 128, 128], RGB on white."""

    small: Tensor
    large: Tensor

    def plain(self, indices: Tensor) -> Tensor:
        """Unaugmented pictures, float32 [b, 3, 64, 64] in [-1, 1]."""
        return self.small[indices].float().div_(127.5).sub_(1.0)

    def augmented(self, indices: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
        """Augmented pictures, float32 [b, 3, 64, 64] in [-1, 1]."""
        pictures = self.plain(indices)
        count = len(indices)
        moved = _drawn(how.affine, count, generator)
        if moved.any():
            large = self.large[indices[moved]].float().div_(127.5).sub_(1.0)
            pictures[moved] = _moved(large, how, generator)
        flipped = _drawn(how.flip, count, generator)
        pictures[flipped] = pictures[flipped].flip(-1)
        tinted = _drawn(how.colour, count, generator)
        if tinted.any():
            pictures[tinted] = _tinted(pictures[tinted], how.colour_strength, generator)
        for index in _drawn(how.jpeg, count, generator).nonzero().flatten().tolist():
            quality = int(torch.randint(60, 96, (), generator=generator))
            pictures[index] = _through_jpeg(pictures[index], quality)
        return pictures


def load_pictures(directory: Path) -> Pictures:
    """Render what is missing below `directory` and return the arrays (about 250 MB in memory)."""
    small_path, large_path = directory / "pictures-64.npy", directory / "pictures-128.npy"
    if not (small_path.exists() and large_path.exists()):
        renders = directory / "png256"
        render_all(renders)
        codes = emoji_table()["hexcode"].to_list()
        images = [Image.open(renders / f"{code}.png").convert("RGB") for code in codes]
        for path, size in ((small_path, SIZE), (large_path, 2 * SIZE)):
            array = np.stack([_resized(image, size) for image in images])
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, array)
            temporary.replace(path)
    return Pictures(torch.from_numpy(np.load(small_path)), torch.from_numpy(np.load(large_path)))


def to_image(picture: Tensor) -> Image.Image:
    """float [3, h, w] in [-1, 1] -> RGB image."""
    array = picture.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def _resized(image: Image.Image, size: int) -> np.ndarray:
    """open_clip's own reduction: bicubic with antialiasing; uint8 [3, size, size]."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def _drawn(probability: float, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit


def _moved(large: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    count = len(large)
    angle = torch.deg2rad(_uniform(count, how.degrees, generator))
    zoom = torch.exp(_uniform(count, how.scale, generator))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = (_uniform(count, 2 * how.shift, generator) for _ in range(2))
    theta = torch.stack([torch.stack([cos, -sin, shift_x], dim=1), torch.stack([sin, cos, shift_y], dim=1)], dim=1)
    grid = functional.affine_grid(theta, list(large.shape), align_corners=False)
    sampled = functional.grid_sample(large, grid, padding_mode="border", align_corners=False)
    return functional.avg_pool2d(sampled, 2)


def _tinted(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    shape = (len(pictures), 1, 1, 1)
    contrast = 1 + _uniform(len(pictures), strength, generator).view(shape)
    brightness = _uniform(len(pictures), strength, generator).view(shape)
    saturation = 1 + _uniform(len(pictures), 2 * strength, generator).view(shape)
    grey = pictures.mean(dim=1, keepdim=True)
    return ((grey + (pictures - grey) * saturation) * contrast + brightness).clamp(-1, 1)


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer)).astype(np.float32)
    return torch.from_numpy(decoded).permute(2, 0, 1) / 127.5 - 1
