"""Exact nearest neighbours that do not depend on how the queries were batched.

Used by the fit's graph, by placement and by the quality figures. Approximate search is not needed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.spaces import Metric

_CHUNK_VALUES = 32 * 1024 * 1024  # float32 values of one block of the distance matrix: 128 MiB


@dataclass(frozen=True)
class Neighbors:
    """Neighbours of each query, nearest first: `indices` int64 [m, k], `distances` float64 [m, k]."""

    indices: np.ndarray
    distances: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` [n, d] scaled to length 1, float32; a zero vector stays zero."""
    wide = np.asarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
    return (wide / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


class ExactIndex:
    """Brute-force search over `points` float32 [n, d] (unit length for the cosine metric).

    A matrix product proposes candidates; each candidate's distance is then recomputed row by row in float64.
    Every point that the rounding of the product could have hidden is a candidate, and equal distances are
    ordered by index, so a query has the same answer alone, in a batch, or in another order.
    """

    def __init__(self, points: np.ndarray, metric: Metric) -> None:
        self.points = np.ascontiguousarray(points, dtype=np.float32)
        self.metric = metric
        self._squares = np.einsum("ij,ij->i", self.points, self.points, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.points)

    def search(self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None) -> Neighbors:
        """The `k` nearest points of each query float32 [m, d]; `exclude` int64 [m] is a point to leave out per query.

        Distances: cosine is 1 - cos (0 to 2), euclidean is L2. `k` must not exceed the points that remain.
        """
        available = len(self.points) - (exclude is not None)
        if not 1 <= k <= available:
            raise ValueError(
                f"k={k}: between 1 and {available} neighbours can be found among {len(self.points)} points"
            )
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
        exact = self._exact(queries, row, column)
        order = np.lexsort((column, exact, row))
        counts = np.bincount(row, minlength=len(queries))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        picked = order[starts[:, None] + np.arange(k)]
        return column[picked], exact[picked]

    def _exact(self, queries: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        out = np.empty(len(row), np.float64)
        step = max(1, _CHUNK_VALUES // 8 // max(1, queries.shape[1]))
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            difference = queries[row[part]].astype(np.float64) - self.points[column[part]]
            out[part] = np.sum(difference * difference, axis=-1)
        # for unit vectors 1 - cos = |x - y|^2 / 2, which is exact near zero where 1 - cos is not
        return out / 2.0 if self.metric == "cosine" else np.sqrt(out)


def self_neighbors(points: np.ndarray, k: int, metric: Metric) -> Neighbors:
    """The `k` nearest other points of every point, nearest first."""
    index = ExactIndex(points, metric)
    return index.search(index.points, k, exclude=np.arange(len(index)))
