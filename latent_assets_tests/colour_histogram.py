"""A third embedding in one file: the colours of an image, counted. It has no weights; a profile names this module.

extensions = ["latent_assets_tests.colour_histogram"]

[models.histogram]
bins = 4
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from latent_assets.errors import ProfileError
from latent_assets.spaces import Embedding, Space, register

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from latent_assets.models.weights import ModelFiles

_CODE_VERSION = "1"
_SIDE = 32


class HistogramModel(BaseModel):
    """[models.histogram]: `bins` of each of red, green and blue."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bins: Annotated[int, Field(ge=2)] = 4
    batch_size: Annotated[int, Field(ge=1)] = 32


@dataclass(frozen=True)
class HistogramEncoder:
    """Share of each of bins^3 colours among 32 x 32 pixels, as the root: vectors of length 1."""

    bins: int

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    @property
    def columns(self) -> Mapping[str, int]:
        return {"counts": self.bins**3}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"bins": str(self.bins)}

    def pixels(self, image: Image.Image) -> np.ndarray:
        import numpy as np

        return np.asarray(image.resize((_SIDE, _SIDE)))

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        levels = (pixels.long() * self.bins) // 256
        colour = (levels[..., 0] * self.bins + levels[..., 1]) * self.bins + levels[..., 2]
        counts = torch.nn.functional.one_hot(colour.flatten(1), self.bins**3).float().mean(dim=1)
        return {"counts": counts.sqrt()}


def histogram_files(settings: HistogramModel) -> ModelFiles:
    """There are no files: the digest is that of the code's version."""
    from latent_assets.models.weights import ModelFiles

    digest = hashlib.sha256(f"colour histogram {_CODE_VERSION} {settings.bins}".encode()).hexdigest()[:32]
    return ModelFiles("colour histogram", digest, 0, 0)


def load_histogram(settings: HistogramModel) -> HistogramEncoder:
    return HistogramEncoder(settings.bins)


def check_histogram(settings: HistogramModel) -> None:
    if 256 % settings.bins:
        raise ProfileError(f"models.histogram.bins: {settings.bins} does not divide 256: 2, 4 and 8 do.")


register(
    Embedding(
        name="histogram",
        stage="colour_histograms",
        source="histogram_code",
        settings=f"{__name__}:HistogramModel",
        decides=("bins",),
        files=f"{__name__}:histogram_files",
        load=f"{__name__}:load_histogram",
        check=f"{__name__}:check_histogram",
        features=("counts",),
        whole=None,
        metric="cosine",
        unit=True,
        meaning="share of each colour, as the root, unit length; compare by cosine",
        shows="colours",
        model_description="Code that counts colours.",
        stage_description="Histograms of the images' colours (float16, unit length).",
        kinds=frozenset({"pytorch"}),
    ),
    Space("histogram", ("histogram",), "cosine", "colours"),
    Space("meaning_and_colour", ("clip", "histogram"), "euclidean", "meaning and colours", weights=(0.75, 0.25)),
)
