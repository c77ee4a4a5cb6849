"""Placing rows that were not in the fit: the mean of their neighbours' places by UMAP's membership weights.

A row's coordinates depend on that row and the fitted model alone, never on the batch it came in. Why nothing is added
to the mean (attraction, repulsion) is measured by infra/bench/placement.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latent_assets.errors import DataError
from latent_assets.projection.distances import Points
from latent_assets.projection.index import make_index
from latent_assets.projection.inverted import InvertedIndex
from latent_assets.projection.neighbors import Index, Neighbors
from latent_assets.projection.uncertainty import LocalTrust, halves, interpolate
from latent_assets.spaces import Metric

_BISECTIONS = 64
_TOLERANCE = 1e-5
_SMALLEST_SCALE = 1e-3
_LEFT_OUT = 2_000


@dataclass(frozen=True)
class Placement:
    """Where rows fall on a map.

    coords: float32 [m, 3], map units.
    spread: float32 [m], weighted standard deviation of the neighbours' coordinates around `coords` (map units):
        how far apart the row's neighbours lie, hence how uncertain its place is.
    jitter: float32 [m], standard error of the place (map units): how far it moves when half of the neighbours are left
        out (`uncertainty.interpolate`).
    trust: float32 [m], 0 to 1: whether what is drawn around the place is near in the space as well
        (`uncertainty.LocalTrust`).
    distance: float32 [m], distance to the nearest fitted row in the space's own metric.
    neighbors: int64 [m, k], indices of the fitted rows used, nearest first.
    """

    coords: np.ndarray
    spread: np.ndarray
    jitter: np.ndarray
    trust: np.ndarray
    distance: np.ndarray
    neighbors: np.ndarray


@dataclass(frozen=True)
class PlacementFigures:
    """How well rows are placed on a map.

    typical: mean squared distance (L2) of two fitted rows. left_out: fitted rows that were placed as if they had not
    been fitted. error, error_p95: how far from where they lie they fell, median and 95th percentile, as a share of the
    map's diameter (of the sphere around its mean that holds 99 % of it); None where there is nothing to compare.
    index_recall: share of the 15 nearest fitted rows that the index finds, 1 where all are compared.
    """

    typical: float
    left_out: int
    error: float | None
    error_p95: float | None
    index_recall: float


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
    """Places rows on one fitted map: `points` float [n, d] features, `coords` float32 [n, 3], same order.

    index: over `points`, made where none is given. typical: mean squared distance (L2) of two fitted rows, measured
    where it is not given.
    """

    def __init__(
        self,
        points: Points | np.ndarray,
        coords: np.ndarray,
        metric: Metric,
        n_neighbors: int,
        index: Index | None = None,
        typical: float | None = None,
    ) -> None:
        if len(points) == 0:
            raise ValueError("nothing was fitted: no row can be placed")
        self.points = Points.of(points)
        self.index = make_index(self.points, metric) if index is None else index
        self._coords = coords
        self._metric = metric
        self._k = min(n_neighbors, len(points))
        self._halves = halves(self._k)
        self._given = typical

    @cached_property
    def typical(self) -> float:
        """Mean squared distance (L2) of two fitted rows."""
        return self.points.typical_square() if self._given is None else self._given

    @cached_property
    def _trust(self) -> LocalTrust:
        return LocalTrust(self.points, self._coords, self.typical)

    def coordinates(self, features: np.ndarray) -> np.ndarray:
        """The places float32 [m, 3] of `features` float32 [m, d], as `place` gives them, without what else it tells."""
        return self._between(self._found(features))[0]

    def place(self, features: np.ndarray) -> Placement:
        """Place `features` float32 [m, d]. A row equal to fitted rows is put where they are (their mean).

        Raises DataError when a value is not finite.
        """
        found = self._found(features)
        coords, spread, jitter = self._between(found)
        squares = 2.0 * found.distances if self._metric == "cosine" else found.distances**2
        trust = self._trust.of(features, coords, squares) if len(features) else np.zeros(0, np.float32)
        return Placement(coords, spread, jitter, trust, found.distances[:, 0].astype(np.float32), found.indices)

    def leave_one_out(self, rows: np.ndarray) -> np.ndarray:
        """How far fitted rows (int64 [m]) would be placed from where they lie, were they not there: float64 [m]."""
        found = self.index.search(self.points.rows(rows), min(self._k, len(self.points) - 1), rows)
        apart = self._between(found)[0].astype(np.float64) - self._coords[rows]
        return np.asarray(np.sqrt((apart**2).sum(axis=1)))

    def figures(self) -> PlacementFigures:
        """How well rows are placed, measured on 2,000 fitted rows, or all."""
        count = len(self.points)
        recall = self.index.file.recall if isinstance(self.index, InvertedIndex) else 1.0
        if count < 2:
            return PlacementFigures(self.typical, 0, None, None, recall)
        rows = np.unique(np.linspace(0, count - 1, min(count, _LEFT_OUT)).astype(np.int64))
        radii = np.linalg.norm(self._coords - self._coords.mean(axis=0, dtype=np.float64), axis=1)
        diameter = 2.0 * float(np.percentile(radii, 99.0))
        errors = self.leave_one_out(rows) / (diameter if diameter > 0 else 1.0)
        median, p95 = (round(float(value), 6) for value in np.percentile(errors, (50.0, 95.0)))
        return PlacementFigures(self.typical, len(rows), median, p95, recall)

    def _found(self, features: np.ndarray) -> Neighbors:
        if not np.isfinite(features).all():
            broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
            raise DataError(f"{len(broken)} rows cannot be placed, the first at position {broken[0]}: NaN or infinity.")
        if len(features) == 0:
            return Neighbors(np.zeros((0, self._k), np.int64), np.zeros((0, self._k)))
        return self.index.search(features, self._k)

    def _between(self, found: Neighbors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates, spread and jitter, float32, of rows between their neighbours."""
        weights = membership(found.distances)
        same = found.distances == 0.0
        weights = np.where(same.any(axis=1)[:, None], same.astype(np.float64), weights)
        weights /= weights.sum(axis=1, keepdims=True)
        rows, k = weights.shape
        coords, spread, jitter = np.empty((rows, 3)), np.empty(rows), np.empty(rows)
        kept = self._halves if k == self._k else halves(k)
        interpolate(weights, self._coords[found.indices].astype(np.float64), kept, coords, spread, jitter)
        return coords.astype(np.float32), spread.astype(np.float32), jitter.astype(np.float32)
