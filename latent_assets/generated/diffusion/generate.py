"""From a request to an image with its path through the maps and its place, told step by step.

The path is the predicted clean latent (x0) of chosen steps: decoded, encoded with the models of the release, placed. It
ends with the finished image itself, exactly where that image is placed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from latent_assets.embeddings.encoding import encode_images
from latent_assets.errors import LatentAssetsError
from latent_assets.generated.diffusion.denoising import DenoisingStep, sampler_name, tells_x0, watching
from latent_assets.generated.diffusion.latents import decode, decodes, same_space
from latent_assets.generated.diffusion.pipeline import load_text_to_image
from latent_assets.generated.diffusion.request import diffusion_model
from latent_assets.generated.diffusion.writing import WrittenImage, write_image
from latent_assets.generated.metadata.generation import Generation
from latent_assets.generated.metadata.reading import TOOL
from latent_assets.images.decode.image import decode_as_stored

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.diffusion.pipeline import TextToImage
    from latent_assets.generated.diffusion.request import GenerationRequest
    from latent_assets.generated.placement.placed import Placed
    from latent_assets.generated.placement.placing import ImagePlacer
    from latent_assets.profile import Profile

Xyz = tuple[float, float, float]

# of the steps are placed, besides the finished image: more cost more than they show (infra/bench/generate.py)
_SHARE, _FEWEST, _MOST = 0.25, 2, 12
_TOGETHER = 2  # decoded and encoded at once; the first alone, so that it is seen at once


class GenerationCancelledError(LatentAssetsError):
    """Whoever asked for an image wants it no longer."""


@dataclass(frozen=True)
class PathPoint:
    """Where the image would be after `step` of `steps`, by space, in map units. preview: what it would look like."""

    step: int
    steps: int
    places: Mapping[str, Xyz]
    preview: Image.Image


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image.

    written: its files, as they go into the inbox. path: from noise to picture; the last point is the image, where
    `placed` has it. Both are empty without a release to place it on. notes: what whoever asked should know.
    """

    request: GenerationRequest
    image: Image.Image
    generation: Generation
    written: WrittenImage
    path: tuple[PathPoint, ...]
    placed: Placed | None
    notes: tuple[str, ...] = ()


OnPoint = Callable[[PathPoint], None]


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """Makes images with a profile's pipeline and places them on a release (`placer`; None: no release yet)."""

    drawing: TextToImage
    placer: ImagePlacer | None

    @classmethod
    def open(cls, profile: Profile, placer: ImagePlacer | None) -> ImageGenerator:
        """The generator of a profile. Raises ModelError when the profile has none, or it cannot be loaded."""
        return cls(load_text_to_image(diffusion_model(profile)), placer)

    def generate(
        self,
        request: GenerationRequest,
        on_point: OnPoint = lambda point: None,
        cancelled: Callable[[], bool] = lambda: False,
        with_path: bool = True,
    ) -> GeneratedImage:
        """The first image of `request`; `on_point` is told each point of its path as it happens, but the last.

        `cancelled` is asked after every step. One image at a time is drawn in a process: others wait. Raises
        GenerationCancelledError, and what `TextToImage.draw` and `ImagePlacer.place` raise.
        """
        image, points = self.draw(request, on_point, cancelled, with_path)
        generation = Generation(
            tool=TOOL,
            prompt=request.prompt,
            negative_prompt=request.negative,
            seed=request.seed,
            steps=request.steps,
            guidance=request.guidance,
            sampler=sampler_name(self.drawing.pipeline.scheduler),
            model=self.drawing.files.name,
            model_hash=self.drawing.files.digest[:10],
            width=image.width,
            height=image.height,
        )
        png = write_image(image, generation)
        placed = self._placed(png)
        if placed is not None:
            last = {space: place.position for space, place in placed.placements.items()}
            points = (*points, PathPoint(request.steps, request.steps, last, image))
        written = WrittenImage.of(
            png,
            generation,
            [(point.step, point.places) for point in points],
            placed.release if placed is not None else None,
            self.latents,
        )
        return GeneratedImage(request, image, generation, written, points, placed, self._notes(request))

    def draw(
        self,
        request: GenerationRequest,
        on_point: OnPoint = lambda point: None,
        cancelled: Callable[[], bool] = lambda: False,
        with_path: bool = True,
    ) -> tuple[Image.Image, tuple[PathPoint, ...]]:
        """The image of `generate` and its path, without the image's own place at the end."""
        with self.drawing.lock:
            if cancelled():
                raise GenerationCancelledError("The image is not wanted any more.")
            path = _Path(self, request, on_point) if with_path and self._can_place_steps else None

            def step(made: DenoisingStep) -> None:
                if cancelled():
                    raise GenerationCancelledError(f"Stopped after step {made.index + 1} of {made.calls}.")
                if path is not None:
                    path.add(made)

            with watching(self.drawing.pipeline.scheduler, step):
                image = self.drawing.draw(request)
            if path is not None:
                path.flush()
        return image, tuple(path.points) if path is not None else ()

    @cached_property
    def latents(self) -> str:
        """How the steps came onto the maps, in words."""
        if self.placer is None:
            return "no release to place them on"
        if not self._can_place_steps:
            return "the steps of this pipeline are not known: only the finished image is placed"
        how = "each step's predicted image, decoded and encoded with the models of the release"
        if self.shares_latents:
            return f"{how}; the pipeline's latents are in the space of the release's VAE"
        return f"{how}; the pipeline's own latents are of another space than the release's VAE"

    @cached_property
    def shares_latents(self) -> bool:
        """Whether the pipeline's latents are in the space of the release's VAE."""
        from latent_assets.models.vae import VaeEncoder

        encoder = self.placer.encoders.get("vae") if self.placer is not None else None
        return isinstance(encoder, VaeEncoder) and same_space(self.drawing.pipeline, encoder)

    @cached_property
    def _can_place_steps(self) -> bool:
        pipeline = self.drawing.pipeline
        return self.placer is not None and tells_x0(pipeline.scheduler) and decodes(pipeline)

    def _placed(self, png: bytes) -> Placed | None:
        """Where the file is placed, as the asset `generated_projection` places it."""
        if self.placer is None:
            return None
        return self.placer.place_file(png)

    def _notes(self, request: GenerationRequest) -> tuple[str, ...]:
        found = []
        if self.drawing.is_cut(request.prompt):
            found.append("The prompt is longer than the model reads: its end was left out.")
        if self.placer is not None and not self._can_place_steps:
            scheduler = type(self.drawing.pipeline.scheduler).__name__
            found.append(f"The steps of {scheduler} in this pipeline are not known: the path is the finished image.")
        return tuple(found)

    def locate(self, previews: list[Image.Image]) -> list[Mapping[str, Xyz]]:
        """The places of pictures by space. Encoded together: equal to places of single images but for rounding."""
        assert self.placer is not None
        stored = [decode_as_stored(preview, self.placer.info.how_stored) for preview in previews]
        features = self.placer.model.features
        columns = {
            name: encode_images(encoder, stored)[features[name]] for name, encoder in self.placer.encoders.items()
        }
        rows = [{name: columns[name][row] for name in columns} for row in range(len(stored))]
        located = self.placer.locate(rows)
        return [{space: xyz(found.coords[row]) for space, found in located.items()} for row in range(len(rows))]


@dataclass(eq=False)
class _Path:
    """The points of a path, as they become known: chosen steps wait until some can be encoded together."""

    generator: ImageGenerator
    request: GenerationRequest
    on_point: OnPoint
    points: list[PathPoint] = field(default_factory=list)
    _waiting: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    _chosen: frozenset[int] | None = None

    def add(self, made: DenoisingStep) -> None:
        if self._chosen is None:
            self._chosen = chosen_steps(made.calls)
        if made.index not in self._chosen:
            return
        step = max(1, (made.index + 1) * self.request.steps // made.calls)
        x0 = made.predicted()
        if bool(torch.isfinite(x0).all()):  # at pure noise the formula may divide by nothing
            self._waiting.append((step, x0.clone()))
        if len(self._waiting) >= (_TOGETHER if self.points else 1):
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        latents = torch.cat([x0 for _, x0 in waiting])
        drawing = self.generator.drawing
        previews = decode(drawing.pipeline, latents, drawing.spec.size)
        for (step, _), preview, places in zip(waiting, previews, self.generator.locate(previews), strict=True):
            point = PathPoint(step, self.request.steps, places, preview)
            self.points.append(point)
            self.on_point(point)


def xyz(coords: np.ndarray) -> Xyz:
    """A place, float32 [3], in Python's numbers."""
    x, y, z = (float(value) for value in coords)
    return x, y, z


def chosen_steps(calls: int) -> frozenset[int]:
    """Which of the steps 0 to `calls` - 1 are placed: the first, and so on evenly. The finished image is the last."""
    if calls < 2:
        return frozenset()
    count = min(max(round(_SHARE * calls), _FEWEST), _MOST, calls - 1)
    return frozenset(np.linspace(0, calls - 2, count).round().astype(int).tolist())
