"""An atlas large enough to be calibrated, from a folder of scenes: its ids, and so its held-out rows, never change.

The models have random weights: distances are those of real encoders only for small changes of an image.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from latent_assets.profile import Profile, parse_profile

SCENES, HELD_OUT = 504, 100
CATEGORIES = ("fields", "shores", "towns")


def scene(seed: int, size: int = 64) -> Image.Image:
    """A picture unlike itself when turned or mirrored: a smooth ground of one palette, forms on it, a little grain."""
    rng = np.random.default_rng(seed)
    palette = np.array([[90, 140, 60], [60, 110, 170], [150, 110, 90]][seed % 3])
    coarse = np.clip(palette + rng.normal(0, 45, (5, 5, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 8))):
        x, y, w, h = rng.integers(0, size, 4)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        form = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        form((int(x), int(y), int(x + 4 + w // 2), int(y + 4 + h // 2)), fill=colour)
    grain = rng.normal(0, 3, (size, size, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_scenes(folder: Path) -> None:
    """`SCENES` files in the folders of their categories, with a caption and an aesthetic score each; every 12th twice,
    as an upload of poorer quality."""
    for seed in range(SCENES):
        place = folder / CATEGORIES[seed % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{seed:04}.png").write_bytes(file_of(scene(seed)))
        values = {"caption": f"scene {seed}", "aesthetic": 4.0 + 3.0 * (seed % 3) / 2 + (seed % 10) / 20}
        (place / f"{seed:04}.json").write_text(json.dumps(values))
        if seed % 12 == 0:
            (place / f"{seed:04} again.jpg").write_bytes(file_of(scene(seed), "JPEG", quality=60))
            (place / f"{seed:04} again.json").write_text(json.dumps(values))


def calibrated_profile(folder: Path, models: dict[str, dict[str, Any]]) -> Profile:
    """An atlas of the scenes in `folder`/scenes."""
    values: dict[str, Any] = {
        "name": "scenes",
        "root": str(folder / "root"),
        "source": {"kind": "folder", "path": str(folder / "scenes")},
        "shards": {"rows": 273},
        "fetch": {"resize": "none", "format": "png"},
        "models": {name: dict(spec) for name, spec in models.items()},
        "projection": {"n_neighbors": 5, "n_epochs": 20, "calibration_rows": HELD_OUT},
    }
    return parse_profile(values, folder / "scenes.toml", folder)
