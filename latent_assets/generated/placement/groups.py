"""Near-duplicates among the neighbours of an image: skin tones, re-uploads, sizes of one picture count once."""

from __future__ import annotations

import numpy as np

from latent_assets.projection.neighbors import unit
from latent_assets.spaces import Metric


def distances_to(vector: np.ndarray, points: np.ndarray, metric: Metric) -> np.ndarray:
    """Distances float64 [n] of `vector` float [d] to `points` float [n, d]: cosine is 1 - cos, euclidean is L2.

    Row by row in float64: the same bits whatever else is asked, as `projection.neighbors.ExactIndex` gives them.
    """
    query, rows = np.atleast_2d(vector), np.asarray(points)
    if metric == "cosine":
        query, rows = unit(query), unit(rows)
    difference = np.asarray(query, np.float32).astype(np.float64) - np.asarray(rows, np.float32)
    squares = np.sum(difference * difference, axis=-1)
    return np.asarray(squares / 2.0 if metric == "cosine" else np.sqrt(squares))


def near_duplicates(points: np.ndarray, radius: float, metric: Metric) -> np.ndarray:
    """The group int64 [n] of each of `points` float [n, d], numbered in order of appearance.

    A point joins the first group whose first member is within `radius`; otherwise it begins one. Groups are therefore
    never wider than twice the radius, however many points lie in a chain.
    """
    groups = np.zeros(len(points), np.int64)
    leaders: list[int] = []
    for row in range(len(points)):
        apart = distances_to(points[row], points[leaders], metric) if leaders else np.zeros(0)
        within = np.flatnonzero(apart <= radius)
        if len(within):
            groups[row] = within[0]
        else:
            groups[row] = len(leaders)
            leaders.append(row)
    return groups
