"""Draws infra/pictures/paths.png: twelve prompts of the demo, and the way of each from noise to picture on two maps.

    .venv/bin/python infra/pictures/paths.py [--seed N] [--out FILE]

The demo has to be built (`make demo SERVE=0`). Nothing is put into its inbox.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from latent_assets.atlas.pictures import release_maps
from latent_assets.generated.diffusion.generate import GeneratedImage, ImageGenerator
from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.plots import oblique
from latent_assets.profile import load_profile
from latent_assets.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

PROMPTS = (
    *("a red apple", "soccer ball", "smiling face", "red heart", "cat face", "pizza"),
    *("flag of France", "alarm clock", "house", "rocket", "waving hand", "sailboat"),
)
SPACES = {"clip": "meaning (CLIP)", "vae": "colour and layout (VAE latents)"}
# told apart in hue and lightness; paths that begin together part in both
COLOURS = (
    *("#ff5a4f", "#e8ecf4", "#ffd23f", "#ff4f9a", "#f29e4c", "#c98bff"),
    *("#5fd068", "#4cc9f0", "#b08d57", "#ff8fab", "#7a8cff", "#2fe0c0"),
)
_ASPECT, _THUMBNAIL = 1.12, np.array([0.062, 0.062 * 1.12])  # of a panel; a picture's share of it
GROUND, INK, FAINT = "#0f1420", "#e8ecf4", "#5d687d"


def main() -> None:
    """Generate, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("paths.png"))
    chosen = parser.parse_args()
    profile = load_profile("demo")
    storage = Storage(profile.root)
    placer = ImagePlacer.open(storage)
    generator = ImageGenerator.open(profile, placer)
    spec = diffusion_model(profile)
    images = [generator.generate(GenerationRequest.of(spec, prompt, seed=chosen.seed)) for prompt in PROMPTS]
    maps, _ = release_maps(storage.lance_uri, placer.version)
    chosen.out.write_bytes(picture(maps, images))


def picture(maps: dict[str, np.ndarray], images: Sequence[GeneratedImage]) -> bytes:
    """The maps with all paths, and below each prompt's predicted images; PNG."""
    figure = Figure(figsize=(13.0, 10.2), facecolor=GROUND)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.0, 0.72), left=0.01, right=0.99, top=0.925, bottom=0.01)
    grid.update(hspace=0.06, wspace=0.02)
    for column, space in enumerate(SPACES):
        draw_map(figure.add_subplot(grid[0, column]), maps[space], space, images)
        half = images[column * len(images) // 2 : (column + 1) * len(images) // 2]
        draw_sheet(figure.add_subplot(grid[1, column]), half, COLOURS[column * len(images) // 2 :])
    figure.text(0.012, 0.972, "From noise to picture", color=INK, fontsize=15, fontweight="bold", va="center")
    told = "each point is the image predicted at a step of denoising, placed as any image is; the last is the result"
    figure.text(0.225, 0.971, told, color=FAINT, fontsize=10.5, va="center")
    FigureCanvasAgg(figure)
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=110, facecolor=GROUND)
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def draw_map(panel: Axes, coords: np.ndarray, space: str, images: Sequence[GeneratedImage]) -> None:
    """The atlas as a faint ground around the paths; each from its first point (ring) to the result (square)."""
    paths = [
        np.stack(oblique(np.array([point.places[space] for point in image.path], np.float32))[:2], axis=1)
        for image in images
    ]
    low, high = np.min([path.min(axis=0) for path in paths], axis=0), np.max([p.max(axis=0) for p in paths], axis=0)
    width = max(high[0] - low[0], (high[1] - low[1]) * _ASPECT) * 1.3
    middle, extent = (low + high) / 2.0, np.array([width, width / _ASPECT])
    x, y, near = oblique(coords)
    panel.scatter(x, y, s=2.5 + 5.0 * near, c=FAINT, alpha=0.6, linewidths=0)
    ends = np.array([path[-1] for path in paths])
    shown = apart(ends, np.vstack(paths), extent * _THUMBNAIL, middle - extent / 2.0, middle + extent / 2.0)
    for image, path, place, colour in zip(images, paths, shown, COLOURS, strict=True):
        panel.plot(*path.T, color=colour, linewidth=1.8, alpha=0.95, solid_joinstyle="round", zorder=4)
        panel.scatter(*path[1:-1].T, s=15, c=colour, linewidths=0, zorder=5)
        panel.scatter(*path[:1].T, s=42, facecolors=GROUND, edgecolors=colour, linewidths=1.6, zorder=5)
        panel.plot(*np.array([path[-1], place]).T, color=colour, linewidth=1.0, linestyle=":", zorder=6)
        panel.scatter(*path[-1:].T, s=38, marker="s", c=colour, edgecolors=GROUND, linewidths=0.8, zorder=7)
        half = extent * _THUMBNAIL * 0.46
        box = (place[0] - half[0], place[0] + half[0], place[1] - half[1], place[1] + half[1])
        panel.imshow(np.asarray(image.image), extent=box, zorder=8, interpolation="bilinear")
        corner, size = place - half, 2 * half
        panel.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6, zorder=9))  # type: ignore[misc]
    bare(panel)
    panel.set_aspect("auto")
    panel.set_xlim(middle[0] - extent[0] / 2.0, middle[0] + extent[0] / 2.0)
    panel.set_ylim(middle[1] - extent[1] / 2.0, middle[1] + extent[1] / 2.0)
    panel.set_title(SPACES[space], color=INK, fontsize=11, pad=3)


def apart(places: np.ndarray, points: np.ndarray, size: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Centres [n, 2] of boxes of one size near `places`, all between the corners: none over another, nor over `points`
    [m, 2] where that can be had."""
    found = places + np.random.default_rng(0).normal(0.0, 0.3, places.shape) * size
    for turn in range(3_000):
        hidden = found[:, None] - points[None]
        covers = (np.abs(hidden) < size * 0.62).all(axis=2)
        if turn < 2_000:
            found += 0.02 * size * np.sign(np.where(covers[:, :, None], hidden, 0.0).sum(axis=1))
            found += 0.004 * (places - found)
        offset = found[:, None] - found[None]
        overlap = size * 1.12 - np.abs(offset)
        touching = (overlap > 0).all(axis=2) & ~np.eye(len(found), dtype=bool)
        axis = (overlap / size).argmin(axis=2)  # the shorter way out
        for row, column in np.argwhere(np.triu(touching)):
            way = axis[row, column]
            push = 0.3 * overlap[row, column, way] * (1.0 if offset[row, column, way] >= 0 else -1.0)
            found[row, way] += push
            found[column, way] -= push
        found = np.clip(found, low + size / 2.0, high - size / 2.0)
    return found


def draw_sheet(panel: Axes, images: Sequence[GeneratedImage], colours: Sequence[str]) -> None:
    """A row for each prompt: what its path's points look like."""
    for row, (image, colour) in enumerate(zip(images, colours, strict=False)):
        panel.text(-0.15, -row, image.request.prompt, color=colour, fontsize=11, ha="right", va="center")
        for column, point in enumerate(image.path):
            pixels = np.asarray(point.preview)
            panel.imshow(pixels, extent=(column + 0.03, column + 0.97, -row - 0.47, -row + 0.47), zorder=3)
            if row == 0:
                label = "result" if column == len(image.path) - 1 else f"step {point.step}"
                panel.text(column + 0.5, 0.58, label, color=FAINT, fontsize=8.5, ha="center", va="bottom")
    panel.set_xlim(-1.9, max(len(image.path) for image in images))
    panel.set_ylim(-len(images) + 0.5, 0.85)
    panel.set_aspect("equal")
    bare(panel)


def bare(panel: Axes) -> None:
    """No axes: map units mean nothing to a reader."""
    panel.set_facecolor(GROUND)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
