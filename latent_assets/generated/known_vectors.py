"""Vectors that were made of an image when it was accepted, kept until it is placed.

Arrays float16 [d] by embedding; the header's `encoder` says what they were made with.

A model gives other bits on another machine, or with another number of threads. Who accepts an image and shows where it
falls (the service) keeps its vectors, and the asset places those: its coordinates are the same, bit for bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from latent_assets.layout import VECTORS, vectors_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latent_assets.storage import Storage


def write_vectors(storage: Storage, row_id: str, encoder: str, vectors: Mapping[str, np.ndarray]) -> None:
    """Keep the vectors float16 [d] of an image by embedding, atomically."""
    arrays = {name: np.ascontiguousarray(vector, np.float16) for name, vector in vectors.items()}
    storage.write_bytes(vectors_name(row_id), save(arrays, {"encoder": encoder}))


def read_vectors(storage: Storage, row_id: str, encoder: str) -> dict[str, np.ndarray] | None:
    """The kept vectors of an image; None without any, or with such of another encoder, or damaged ones."""
    if not storage.exists(vectors_name(row_id)):
        return None
    data = storage.read_bytes(vectors_name(row_id))
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
    return {name.partition(".")[0] for name in storage.list(VECTORS)}


def drop_vectors(storage: Storage, row_id: str) -> None:
    """Keep the vectors of an image no longer: they are in the table."""
    storage.delete(vectors_name(row_id))
