"""The way between two images, or between two prompts, in even steps: each frame decoded, encoded again and placed.

Between images the latents of the release's VAE are mixed linearly. Its posterior means are no samples of a Gaussian:
they have no shell of constant length that a spherical path would keep to, and a linear one is the same for every part
of the picture. Between prompts it is the other way round: start noise is Gaussian and its length is what the model was
trained on, so noises of two seeds are mixed spherically (Shoemake, SIGGRAPH 1985; White, arXiv:1609.04468), and the
text encoder's outputs linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latent_assets.errors import LatentAssetsError
from latent_assets.generated.synthesis.latents import StoredLatents, latent_embedding
from latent_assets.images.decode.image import decode_as_stored
from latent_assets.models.vae import load_vae_decoder

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.diffusion.generate import ImageGenerator
    from latent_assets.generated.diffusion.request import GenerationRequest
    from latent_assets.generated.placement.neighborhood import Near
    from latent_assets.generated.placement.placing import ImagePlacer
    from latent_assets.models.vae import VaeDecoder
    from latent_assets.storage import Storage

Xyz = tuple[float, float, float]

BETWEEN_IMAGES = "latents of the release's VAE, mixed linearly and decoded"
BETWEEN_PROMPTS = "text vectors mixed linearly, start noises spherically, every frame drawn by the diffusion model"


class WalkCancelledError(LatentAssetsError):
    """Whoever asked for a walk wants it no longer."""


@dataclass(frozen=True)
class Frame:
    """A picture on the way. share: 0 at its start, 1 at its end. places: by space, map units. near: what is around."""

    share: float
    image: Image.Image
    places: Mapping[str, Xyz]
    near: Mapping[str, Near]


@dataclass(frozen=True, eq=False)
class Synthesizer:
    """Decodes latents on one release and places what comes out. The decoder loads at the first picture."""

    storage: Storage
    placer: ImagePlacer

    @cached_property
    def stored(self) -> StoredLatents:
        """Latents of the release's rows."""
        return StoredLatents(self.storage, self.placer.table, self.placer)

    @cached_property
    def decoder(self) -> VaeDecoder:
        """The decoder of the release's VAE. Raises NotBuiltError or ModelError without one."""
        name, _ = latent_embedding(self.placer)
        return load_vae_decoder(self.placer.info.model_settings(name))

    def latents_of(self, image: Image.Image) -> np.ndarray:
        """Latents float32 [C, h, w] of a picture, as those of the release's images were made."""
        import torch

        _, encoder = latent_embedding(self.placer)
        stored = decode_as_stored(image, self.placer.info.how_stored)
        latents = encoder.encode_pixels(torch.from_numpy(np.stack([encoder.pixels(stored)])))
        found: np.ndarray = latents[0].float().cpu().numpy()
        return found

    def frame(self, share: float, image: Image.Image) -> Frame:
        """A picture with its place on every map, and what is near."""
        (vectors,) = self.placer.encode([decode_as_stored(image, self.placer.info.how_stored)])
        located = self.placer.locate([vectors])
        places = {space: _xyz(found.coords[0]) for space, found in located.items()}
        return Frame(share, image, places, self.placer.neighborhoods.around(vectors))

    def between_images(
        self, start: np.ndarray, end: np.ndarray, frames: int, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Frame]:
        """`frames` evenly spaced pictures from the latents `start` to `end`, float32 [C, h, w] each, both included.

        Raises WalkCancelledError between two frames.
        """
        for share in shares(frames):
            if cancelled():
                raise WalkCancelledError("The walk is not wanted any more.")
            (image,) = self.decoder.decode(((1.0 - share) * start + share * end)[None])
            yield self.frame(share, image)

    def between_prompts(
        self,
        generator: ImageGenerator,
        start: GenerationRequest,
        end: GenerationRequest,
        frames: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Frame]:
        """`frames` evenly spaced pictures from one prompt to another; the first and the last are what `generate` draws.

        Steps and guidance are those of `start`. Raises WalkCancelledError after a step of denoising.
        """
        from latent_assets.generated.diffusion.denoising import watching

        def step(made: object) -> None:
            if cancelled():
                raise WalkCancelledError("The walk is not wanted any more.")

        for share in shares(frames):
            with generator.drawing.lock, watching(generator.drawing.pipeline.scheduler, step):
                image = generator.drawing.draw_between(start, end, share)
            yield self.frame(share, image)


def shares(frames: int) -> list[float]:
    """`frames` numbers from 0 to 1, evenly spaced."""
    return [float(share) for share in np.linspace(0.0, 1.0, frames)]


def _xyz(coords: np.ndarray) -> Xyz:
    x, y, z = (float(value) for value in coords)
    return x, y, z
