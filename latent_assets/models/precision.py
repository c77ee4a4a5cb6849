"""Which number format an encoder runs in: the fastest that its vectors bear.

A processor that multiplies bfloat16 by itself encodes large models two to four times as fast as in float32
(`infra/bench/encode.py`). How well the vectors then agree with those of float32 is measured once for each model, on
built-in pictures, and kept in the home directory of atlases; below the bars `auto` stays with float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets import spaces
from latent_assets.errors import LatentAssetsError
from latent_assets.layout import precision_name
from latent_assets.models.device import device_kind, native_bfloat16
from latent_assets.models.pictures import pictures
from latent_assets.models.weights import weight_bytes
from latent_assets.profile import home
from latent_assets.progress import tell
from latent_assets.storage import Storage

if TYPE_CHECKING:
    from latent_assets.models.encoder import Encoder

# smaller models gain nothing
_SMALL = 64_000_000  # bytes of weights
_PICTURES = 48
_NEAREST = 10


@dataclass(frozen=True)
class Bar:
    """What vectors of another format must keep of float32's: the lowest cosine of an image's two vectors, and the share
    of ten nearest images. column: of the encoder; the one that maps are made from."""

    column: str
    cosine: float
    neighbours: float


BARS: Mapping[str, Bar] = {"clip": Bar("vector", 0.9999, 0.99), "vae": Bar("pooled", 0.0, 0.98)}
# what `auto` is on a GPU
ACCELERATED: Mapping[str, str] = {"clip": "float16", "vae": "bfloat16"}


@dataclass(frozen=True)
class Agreement:
    """How vectors of `dtype` agree with float32's on `pictures` built-in pictures; see `Bar`."""

    dtype: str
    cosine: float
    neighbours: float
    pictures: int

    def keeps(self, bar: Bar) -> bool:
        """Whether it is not below a bar."""
        return self.cosine >= bar.cosine and self.neighbours >= bar.neighbours


@dataclass(frozen=True)
class Arithmetic:
    """How an encoder computes here: kind of device, number format, and for a format that was measured how it agrees."""

    device: str
    dtype: str
    agreement: Agreement | None = None

    def __str__(self) -> str:
        return f"{self.dtype} on {native_bfloat16() or self.device if self.dtype == 'bfloat16' else self.device}"


def arithmetic(name: str, spec: Any) -> Arithmetic:
    """How the model of the embedding `name` runs on this machine, by its settings.

    `auto` is float16 (CLIP) or bfloat16 (VAE) on a CUDA GPU; on a CPU bfloat16, where the processor multiplies it and
    the vectors agree (measured at the first question: it takes a minute for a large model), else float32.
    """
    kind = device_kind()
    if (wanted := getattr(spec, "dtype", "auto")) != "auto":
        return Arithmetic(kind, wanted)
    if kind == "cuda":
        return Arithmetic(kind, ACCELERATED.get(name, "float32"))
    if kind != "cpu" or name not in BARS or native_bfloat16() is None or weight_bytes(spec) < _SMALL:
        return Arithmetic(kind, "float32")
    found = _agreement(name, spec, spaces.resolve(spaces.embeddings()[name].files)(spec).digest)
    return Arithmetic(kind, "bfloat16" if found.keeps(BARS[name]) else "float32", found)


def fingerprint_of(name: str, spec: Any) -> str:
    """The number format as fingerprints of vectors have it.

    `auto` stands for what it was before there was a choice: float32 on a CPU, ACCELERATED on a GPU.
    """
    chosen = arithmetic(name, spec)
    usual = ACCELERATED.get(name, "float32") if chosen.device == "cuda" else "float32"
    return "auto" if getattr(spec, "dtype", "auto") == "auto" and chosen.dtype == usual else chosen.dtype


@lru_cache(maxsize=8)
def _agreement(name: str, spec: Any, digest: str) -> Agreement:
    """From the note of an earlier measurement of these weights, or measured now."""
    note = precision_name(digest)
    with suppress(OSError, ValueError, TypeError):
        return Agreement(**json.loads((home() / note).read_text(encoding="utf-8")))
    tell("models", f"{name}: measuring once how its vectors in bfloat16 agree with those in float32")
    found = measured(name, spec, "bfloat16")
    with suppress(OSError, LatentAssetsError):  # measured anew next time
        Storage(str(home())).write_json(note, asdict(found))
    return found


def measured(name: str, spec: Any, dtype: str, count: int = _PICTURES) -> Agreement:
    """How the vectors of a model in `dtype` agree with those in float32."""
    row = spaces.embeddings()[name]
    load = spaces.resolve(row.load)
    column = BARS[name].column
    exact, other = (
        _vectors(load(spec.model_copy(update={"dtype": each})), column, count) for each in ("float32", dtype)
    )
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((exact * other).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    return Agreement(dtype, round(cosine, 7), round(kept_neighbours(exact, other), 5), count)


def kept_neighbours(exact: np.ndarray, other: np.ndarray, nearest: int = _NEAREST) -> float:
    """The share of the `nearest` nearest rows (L2) of each row of `exact` that are among those of `other`, too."""

    def near(vectors: np.ndarray) -> np.ndarray:
        squares = np.square(vectors).sum(axis=1)
        distances = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
        np.fill_diagonal(distances, np.inf)
        return np.argsort(distances, axis=1, kind="stable")[:, :nearest]

    pairs = zip(near(exact.astype(np.float64)), near(other.astype(np.float64)), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in pairs]))


def _vectors(encoder: Encoder, column: str, count: int) -> np.ndarray:
    import torch

    rows = []
    for image in pictures(count):
        pixels = torch.from_numpy(encoder.pixels(image)[None].copy())
        rows.append(encoder.encode(pixels)[column].float().cpu().numpy()[0])
    return np.stack(rows)
