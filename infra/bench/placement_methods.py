"""Ways to place a row on a fitted map that were compared; the one that is used is `projection.placement.Placer`.

Each takes the neighbours of rows (indices [m, k] and distances, nearest first) and the places of the fitted rows, and
depends on nothing else: no method here knows which rows came together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latent_assets.projection.between import between
from latent_assets.projection.distances import compiled
from latent_assets.projection.neighbors import Neighbors
from latent_assets.projection.placement import membership

_EPOCHS, _ALPHA, _NEGATIVES, _CLIP = 100, 0.25, 5, 4.0  # those of umap-learn's transform


@dataclass(frozen=True)
class Map:
    """A map: places float64 [n, 3] and the two constants of its curve, as umap-learn fitted them."""

    coords: np.ndarray
    a: float
    b: float


@compiled
def _descend(start: Any, indices: Any, weights: Any, coords: Any, a: float, b: float, negatives: int, out: Any) -> None:
    """The optimisation of umap-learn's `transform`, the fitted places frozen, with what depends on its batch fixed.

    Edges lighter than 1/epochs are left out, an edge of weight w is followed every 1/w epochs, there are always 100
    epochs. negatives: repelling rows an edge, drawn by a generator of each row's own; 0: attraction alone.
    """
    rows, k = indices.shape
    for row in range(rows):
        x = start[row].copy()
        state = np.uint64(0x9E3779B97F4A7C15)
        for j in range(k):  # seeded by the row's neighbours
            state = (state ^ np.uint64(indices[row, j])) * np.uint64(0xBF58476D1CE4E5B9)
        due = np.empty(k)
        for j in range(k):
            due[j] = 1.0 / weights[row, j] if weights[row, j] >= 1.0 / _EPOCHS else 1e9
        for epoch in range(_EPOCHS):
            alpha = _ALPHA * (1.0 - epoch / _EPOCHS)
            for j in range(k):
                if due[j] > epoch:
                    continue
                due[j] += 1.0 / weights[row, j]
                square = 0.0
                for axis in range(3):
                    square += (x[axis] - coords[indices[row, j], axis]) ** 2
                if square > 0.0:
                    pull = -2.0 * a * b * square ** (b - 1.0) / (a * square**b + 1.0)
                    for axis in range(3):
                        step = pull * (x[axis] - coords[indices[row, j], axis])
                        x[axis] += alpha * min(max(step, -_CLIP), _CLIP)
                for _ in range(negatives):
                    state ^= state << np.uint64(13)
                    state ^= state >> np.uint64(7)
                    state ^= state << np.uint64(17)
                    other = np.int64((state >> np.uint64(33)) % np.uint64(coords.shape[0]))
                    square = 0.0
                    for axis in range(3):
                        square += (x[axis] - coords[other, axis]) ** 2
                    if square > 0.0:
                        push = 2.0 * b / ((0.001 + square) * (a * square**b + 1.0))
                        for axis in range(3):
                            step = push * (x[axis] - coords[other, axis])
                            x[axis] += alpha * min(max(step, -_CLIP), _CLIP)
        out[row] = x


def weighted_mean(found: Neighbors, drawn: Map) -> np.ndarray:
    """The mean of the neighbours' places by UMAP's membership weights: where `transform` begins."""
    weights = membership(found.distances)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights[:, :, None] * drawn.coords[found.indices]).sum(axis=1))


def plain_mean(found: Neighbors, drawn: Map) -> np.ndarray:
    """The mean of the neighbours' places."""
    return np.asarray(drawn.coords[found.indices].mean(axis=1))


def median(found: Neighbors, drawn: Map) -> np.ndarray:
    """The median of the neighbours' places on each axis, as openTSNE begins."""
    return np.asarray(np.median(drawn.coords[found.indices], axis=1))


def nearest(found: Neighbors, drawn: Map) -> np.ndarray:
    """Where the nearest neighbour lies."""
    return np.asarray(drawn.coords[found.indices[:, 0]])


def attraction(found: Neighbors, drawn: Map) -> np.ndarray:
    """From the weighted mean downhill, drawn to the neighbours and pushed away by nothing."""
    return _descended(found, drawn, 0)


def transform(found: Neighbors, drawn: Map) -> np.ndarray:
    """umap-learn's `transform` with the three constants that depend on its batch fixed."""
    return _descended(found, drawn, _NEGATIVES)


def _descended(found: Neighbors, drawn: Map, negatives: int) -> np.ndarray:
    weights = membership(found.distances)
    start, out = weighted_mean(found, drawn), np.empty((len(weights), 3))
    _descend(start, found.indices, weights, drawn.coords, drawn.a, drawn.b, negatives, out)
    return out


def geometric_median(found: Neighbors, drawn: Map) -> np.ndarray:
    """The place with the least weighted sum of distances to the neighbours' places: what `Placer` does."""
    weights = membership(found.distances)
    weights /= weights.sum(axis=1, keepdims=True)
    coords, count = np.empty((len(weights), 3)), len(weights)
    kept = np.zeros((0, weights.shape[1]), dtype=bool)
    between(weights, drawn.coords[found.indices], kept, coords, np.empty(count), np.empty(count))
    return coords


METHODS: dict[str, Callable[[Neighbors, Map], np.ndarray]] = {
    "geometric median": geometric_median,
    "weighted mean": weighted_mean,
    "plain mean": plain_mean,
    "median": median,
    "nearest neighbour": nearest,
    "attraction only": attraction,
    "transform, constants fixed": transform,
}
