"""Vectors that were made of an image when it was accepted, kept until it is placed.

    generated/vectors/{sha256}.safetensors    float16 [d] per embedding; header `encoder`: what they were made with

A model gives other bits on another machine, or with another number of threads. Who accepts an image and shows where it
falls (the service) keeps its vectors, and the asset places those: its coordinates are the same, bit for bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latent_assets.storage import Storage

VECTORS = "generated/vectors"
_SUFFIX = ".safetensors"


def write_vectors(storage: Storage, row_id: str, encoder: str, vectors: Mapping[str, np.ndarray]) -> None:
    """Keep the vectors float16 [d] of an image by embedding, atomically."""
    arrays = {name: np.ascontiguousarray(vector, np.float16) for name, vector in vectors.items()}
    storage.write_bytes(_name(row_id), save(arrays, {"encoder": encoder}))


def read_vectors(storage: Storage, row_id: str, encoder: str) -> dict[str, np.ndarray] | None:
    """The kept vectors of an image; None without any, or with such of another encoder, or damaged ones."""
    if not storage.exists(_name(row_id)):
        return None
    data = storage.read_bytes(_name(row_id))
    try:
        length = int.from_bytes(data[:8], "little")
        made_with = json.loads(data[8 : 8 + length])["__metadata__"]["encoder"]
        found = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    sound = all(values.dtype == np.float16 and np.isfinite(values).all() for values in found.values())
    return found if made_with == encoder and sound else None


def known_ids(storage: Storage) -> set[str]:
    """The images whose vectors are kept."""
    return {name.removesuffix(_SUFFIX) for name in storage.list(VECTORS, _SUFFIX)}


def drop_vectors(storage: Storage, row_id: str) -> None:
    """Keep the vectors of an image no longer: they are in the table."""
    storage.delete(_name(row_id))


def _name(row_id: str) -> str:
    return f"{VECTORS}/{row_id}{_SUFFIX}"
