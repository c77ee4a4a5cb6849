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
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
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
    *("a red apple", "soccer ball", "sun", "red heart", "cat face", "pizza"),
    *("green leaf", "alarm clock", "house", "rocket", "umbrella", "sailboat"),
)
SPACES = {"clip": "meaning (CLIP)", "vae": "colour and layout (VAE latents)"}
# told apart in hue and lightness; paths that begin together part in both
COLOURS = (
    *("#ff5a4f", "#e8ecf4", "#ffd23f", "#ff4f9a", "#f29e4c", "#c98bff"),
    *("#5fd068", "#4cc9f0", "#b08d57", "#ff8fab", "#7a8cff", "#2fe0c0"),
)
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
    figure.text(0.205, 0.971, told, color=FAINT, fontsize=10.5, va="center")
    FigureCanvasAgg(figure)
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=110, facecolor=GROUND)
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def draw_map(panel: Axes, coords: np.ndarray, space: str, images: Sequence[GeneratedImage]) -> None:
    """The atlas as a faint ground, paths from their first point (ring) to the picture."""
    x, y, near = oblique(coords)
    panel.scatter(x, y, s=1.5 + 3.0 * near, c=FAINT, alpha=0.55, linewidths=0)
    for image, colour in zip(images, COLOURS, strict=True):
        places = np.array([point.places[space] for point in image.path], np.float32)
        across, up, _ = oblique(places)
        panel.plot(across, up, color=colour, linewidth=1.8, alpha=0.95, solid_joinstyle="round", zorder=4)
        panel.scatter(across[1:-1], up[1:-1], s=15, c=colour, linewidths=0, zorder=5)
        panel.scatter(across[:1], up[:1], s=42, facecolors=GROUND, edgecolors=colour, linewidths=1.6, zorder=5)
        thumbnail = OffsetImage(np.asarray(image.image), zoom=0.36)
        frame = {"edgecolor": colour, "facecolor": "white", "linewidth": 1.6, "boxstyle": "square,pad=0.05"}
        panel.add_artist(AnnotationBbox(thumbnail, (across[-1], up[-1]), bboxprops=frame, pad=0.1, zorder=6))
    bare(panel)
    panel.set_aspect("equal", adjustable="datalim")
    panel.margins(0.05)
    panel.set_title(SPACES[space], color=INK, fontsize=11, pad=3)


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
