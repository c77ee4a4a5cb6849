"""Which index serves how many points: all compared while that is cheap, an inverted file beyond. And that file, stored.

projection/{fingerprint}/index_{space}.safetensors, beside the fitted maps of more than `EXACT_ROWS` rows
  the arrays of `inverted.InvertedFile`; header `index`: JSON of its figures and the version of the maps
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np

from latent_assets.layout import index_name
from latent_assets.projection.distances import Points
from latent_assets.projection.inverted import InvertedFile, InvertedIndex
from latent_assets.projection.mapped import map_arrays, write_arrays
from latent_assets.projection.neighbors import ExactIndex, Index
from latent_assets.spaces import Metric
from latent_assets.storage import Storage

EXACT_ROWS = 20_000  # up to here an index is not worth its making: infra/bench/placement.py


def make_index(points: Points | np.ndarray, metric: Metric, seed: int = 0) -> Index:
    """An index over `points` [n, d] (unit length for the cosine metric)."""
    held = Points.of(points)
    if len(held) <= EXACT_ROWS:
        return ExactIndex(held.rows(slice(None)), metric)
    return InvertedIndex.build(held, metric, seed)


def store_index(storage: Storage, fingerprint: str, space: str, version: str, points: Points, metric: Metric) -> Index:
    """Make the index of a fitted map and store it; where all points are compared, what was stored before goes.

    version: that of the maps (`model.MapModel.version`).
    """
    name = index_name(fingerprint, space)
    index = make_index(points, metric)
    if not isinstance(index, InvertedIndex):
        storage.delete(name)
        return index
    figures = {field.name: getattr(index.file, field.name) for field in fields(InvertedFile)}
    arrays = {key: value for key, value in figures.items() if isinstance(value, np.ndarray)}
    facts = {key: value for key, value in figures.items() if key not in arrays} | {"version": version}
    with storage.writing(name) as path:
        write_arrays(path, arrays, {"index": json.dumps(facts, sort_keys=True)})
    return index


def open_index(storage: Storage, fingerprint: str, space: str, version: str, points: Points, metric: Metric) -> Index:
    """The index of a fitted map as it was stored; made anew where it is not there, damaged or of other maps."""
    name = index_name(fingerprint, space)
    if len(points) <= EXACT_ROWS or not storage.exists(name):
        return make_index(points, metric)
    try:
        with storage.local(name) as path:
            arrays, metadata = map_arrays(path)
        facts: dict[str, Any] = json.loads(metadata["index"])
        if facts.pop("version") == version:
            return InvertedIndex(points, metric, InvertedFile(**(facts | arrays)))
    except (ValueError, KeyError, TypeError):  # damaged
        pass
    return make_index(points, metric)
