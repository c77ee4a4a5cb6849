"""Which index serves how many points: all compared while that is cheap, an inverted file beyond."""

from __future__ import annotations

import numpy as np

from latent_assets.projection.distances import Points
from latent_assets.projection.inverted import InvertedIndex
from latent_assets.projection.neighbors import ExactIndex, Index
from latent_assets.spaces import Metric

EXACT_ROWS = 20_000  # up to here an index is not worth its making: infra/bench/placement.py


def make_index(points: Points | np.ndarray, metric: Metric, seed: int = 0) -> Index:
    """An index over `points` [n, d] (unit length for the cosine metric)."""
    held = Points.of(points)
    if len(held) <= EXACT_ROWS:
        return ExactIndex(held.rows(slice(None)), metric)
    return InvertedIndex.build(held, metric, seed)
