"""Placing rows that were not in the fit: UMAP's membership weights over exact neighbours.

A row's coordinates depend on that row and the fitted model alone, never on the batch it came in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.errors import DataError
from latent_assets.projection.neighbors import ExactIndex
from latent_assets.spaces import Metric

_BISECTIONS = 64
_TOLERANCE = 1e-5
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class Placement:
    """Where rows fall on a map.

    coords: float32 [m, 3], map units.
    spread: float32 [m], weighted standard deviation of the neighbours' coordinates around `coords` (map units):
        how far apart the row's neighbours lie, hence how uncertain its place is.
    distance: float32 [m], distance to the nearest fitted row in the space's own metric.
    neighbors: int64 [m, k], indices of the fitted rows used, nearest first.
    """

    coords: np.ndarray
    spread: np.ndarray
    distance: np.ndarray
    neighbors: np.ndarray


def membership(distances: np.ndarray) -> np.ndarray:
    """Fuzzy membership of each row's neighbours, float64 [m, k] in (0, 1]; `distances` [m, k], nearest first.

    w_j = exp(-max(0, d_j - rho) / sigma), with rho the smallest distance above zero and sigma such that the
    weights sum to log2(k): McInnes, Healy, Melville, UMAP (arXiv:1802.03426), section 3.1 and algorithm 3, with the
    floor on sigma of umap-learn (0.001 of the mean distance). umap-learn's own `smooth_knn_dist` is not used: where
    rho is 0 it takes the mean over the whole batch, so that a row's place would depend on its company.
    """
    distances = np.asarray(distances, dtype=np.float64)
    target = np.log2(distances.shape[1])
    positive = np.where(distances > 0, distances, np.inf).min(axis=1)
    rho = np.where(np.isfinite(positive), positive, 0.0)
    beyond = np.maximum(distances - rho[:, None], 0.0)
    low, high, sigma = np.zeros(len(distances)), np.full(len(distances), np.inf), np.ones(len(distances))
    for _ in range(_BISECTIONS):
        total = np.exp(-beyond / sigma[:, None]).sum(axis=1)
        settled = np.abs(total - target) < _TOLERANCE
        too_wide = (total > target) & ~settled
        too_narrow = (total < target) & ~settled
        high = np.where(too_wide, sigma, high)
        low = np.where(too_narrow, sigma, low)
        middle = np.where(np.isinf(high), sigma * 2.0, (low + high) / 2.0)
        sigma = np.where(settled, sigma, middle)
        if settled.all():
            break
    floor = _SMALLEST_SCALE * distances.mean(axis=1)
    sigma = np.maximum(sigma, np.where(floor > 0, floor, 1.0))
    return np.asarray(np.exp(-beyond / sigma[:, None]))


class Placer:
    """Places rows on one fitted map: `points` float32 [n, d] features, `coords` float32 [n, 3], same order."""

    def __init__(self, points: np.ndarray, coords: np.ndarray, metric: Metric, n_neighbors: int) -> None:
        if len(points) == 0:
            raise ValueError("nothing was fitted: no row can be placed")
        self.index = ExactIndex(points, metric)
        self._coords = np.asarray(coords, dtype=np.float64)
        self._k = min(n_neighbors, len(points))

    def place(self, features: np.ndarray) -> Placement:
        """Place `features` float32 [m, d]. A row equal to fitted rows is put where they are (their mean).

        Raises DataError when a value is not finite.
        """
        if not np.isfinite(features).all():
            broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
            raise DataError(f"{len(broken)} rows cannot be placed, the first at position {broken[0]}: NaN or infinity.")
        if len(features) == 0:
            none = np.zeros(0, np.float32)
            return Placement(np.zeros((0, 3), np.float32), none, none, np.zeros((0, self._k), np.int64))
        found = self.index.search(features, self._k)
        weights = membership(found.distances)
        same = found.distances == 0.0
        weights = np.where(same.any(axis=1)[:, None], same.astype(np.float64), weights)
        weights /= weights.sum(axis=1, keepdims=True)
        around = self._coords[found.indices]
        coords = (weights[:, :, None] * around).sum(axis=1)
        variance = (weights * ((around - coords[:, None, :]) ** 2).sum(axis=2)).sum(axis=1)
        return Placement(
            coords.astype(np.float32),
            np.sqrt(variance).astype(np.float32),
            found.distances[:, 0].astype(np.float32),
            found.indices,
        )
