"""Nearest neighbours that do not depend on how the queries were batched: all points compared.

Used by the fit's graph, by placement on small maps and by the quality figures; for many points see `inverted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latent_assets.projection.distances import Points, unit
from latent_assets.spaces import Metric

__all__ = ["ExactIndex", "Index", "Neighbors", "check_k", "nearest_of", "self_neighbors", "unit"]

_CHUNK_VALUES = 32 * 1024 * 1024  # float32 values of one block of the distance matrix: 128 MiB


@dataclass(frozen=True)
class Neighbors:
    """Neighbours of each query, nearest first: `indices` int64 [m, k], `distances` float64 [m, k]."""

    indices: np.ndarray
    distances: np.ndarray


class Index(Protocol):
    """Nearest neighbours among fixed points."""

    metric: Metric

    def __len__(self) -> int: ...

    def search(self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None) -> Neighbors:
        """The `k` nearest points of each query float32 [m, d], ties by index; see `ExactIndex.search`."""
        ...


class ExactIndex:
    """Brute-force search over `points` float32 [n, d] (unit length for the cosine metric).

    A matrix product proposes candidates; each candidate's distance is then recomputed row by row in float64.
    Every point that the rounding of the product could have hidden is a candidate, and equal distances are
    ordered by index, so a query has the same answer alone, in a batch, or in another order.
    """

    def __init__(self, points: np.ndarray, metric: Metric) -> None:
        self.points = np.ascontiguousarray(points, dtype=np.float32)
        self.metric = metric
        self._held = Points.of(self.points)
        self._squares = np.einsum("ij,ij->i", self.points, self.points, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.points)

    def search(self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None) -> Neighbors:
        """The `k` nearest points of each query float32 [m, d]; `exclude` int64 [m] is a point to leave out per query.

        Distances: cosine is 1 - cos (0 to 2), euclidean is L2. `k` must not exceed the points that remain.
        """
        check_k(k, len(self.points), exclude)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        indices = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float64)
        step = max(1, _CHUNK_VALUES // max(1, len(self.points)))
        for start in range(0, len(queries), step):
            rows = slice(start, min(start + step, len(queries)))
            left_out = None if exclude is None else exclude[rows]
            indices[rows], distances[rows] = self._search_chunk(queries[rows], k, left_out)
        return Neighbors(indices, distances)

    def _search_chunk(self, queries: np.ndarray, k: int, exclude: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
        near = (-2.0 * queries) @ self.points.T
        near += self._squares.astype(np.float32)
        if exclude is not None:
            near[np.arange(len(queries)), exclude] = np.inf
        # the product's rounding error, bounded as in Higham, Accuracy and Stability, 3.1: |error| <= d u |x||y|
        largest = np.sqrt(self._squares.max(initial=0.0) * squares) + self._squares.max(initial=0.0)
        slack = 4.0 * (queries.shape[1] + 4) * 2.0**-24 * largest
        threshold = np.partition(near, k - 1, axis=1)[:, k - 1] + 2.0 * slack
        row, column = np.nonzero(near <= threshold[:, None])
        return nearest_of(self._held, queries, row, column, k, self.metric)


def check_k(k: int, points: int, exclude: np.ndarray | None) -> None:
    """Raises ValueError when `k` neighbours cannot be found among `points` points."""
    available = points - (exclude is not None)
    if not 1 <= k <= available:
        raise ValueError(f"k={k}: between 1 and {available} neighbours can be found among {points} points")


def nearest_of(
    points: Points, queries: np.ndarray, row: np.ndarray, column: np.ndarray, k: int, metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest of each query's candidates: indices int64 [m, k], distances float64 [m, k], ties by index.

    `row`, `column` int64 [p]: query and point of each pair; `row` ascends and every query has at least `k` pairs.
    """
    squares = points.squared_distances(queries, row, column)
    # for unit vectors 1 - cos = |x - y|^2 / 2, which is exact near zero where 1 - cos is not
    exact = squares / 2.0 if metric == "cosine" else np.sqrt(squares)
    order = np.lexsort((column, exact, row))
    starts = np.searchsorted(row, np.arange(len(queries)))
    picked = order[starts[:, None] + np.arange(k)]
    return column[picked], exact[picked]


def self_neighbors(points: np.ndarray, k: int, metric: Metric) -> Neighbors:
    """The `k` nearest other points of every point, nearest first."""
    index = ExactIndex(points, metric)
    return index.search(index.points, k, exclude=np.arange(len(index)))
