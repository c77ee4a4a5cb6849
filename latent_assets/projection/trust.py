"""Whether what a map draws around a place is near in the space as well. Nothing is placed here; `placement` asks."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from latent_assets.projection.distances import Points, in_threads


class LocalTrust:
    """Whether what is drawn around a place is near in the space as well.

    points, coords: fitted rows and their places float [n, 3]. typical: mean squared distance of two of them (L2).
    """

    def __init__(self, points: Points, coords: np.ndarray, typical: float) -> None:
        self._points, self._typical = points, typical
        # building it so costs a third of the time, and queries hardly more
        self._tree = KDTree(coords, balanced_tree=False, compact_nodes=False)

    def of(self, queries: np.ndarray, places: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """float32 [m] of rows float32 [m, d] that lie at `places` [m, 3].

        squares: float64 [m, k], squared distances (L2) to their k nearest fitted rows. With a the mean of these, b that
        of the k rows that lie nearest on the map, and t the typical one: (t - b) / (t - a), between 0 and 1. 1: what is
        drawn around the row is as near as its true neighbours; 0: no nearer than any two rows, or nothing is near at
        all.
        """
        k = squares.shape[1]
        drawn = np.asarray(self._tree.query(places, k)[1], np.int64).reshape(len(places), k)
        found = np.empty(len(places), np.float64)

        def compare(rows: slice) -> None:
            row = np.repeat(np.arange(len(queries[rows])), k)
            found[rows] = (
                self._points.squared_distances(queries[rows], row, drawn[rows].reshape(-1)).reshape(-1, k).mean(1)
            )

        in_threads(compare, len(queries))
        nearest = squares.mean(axis=1)
        possible = self._typical - nearest
        trust = np.where(possible > 0, (self._typical - found) / np.where(possible > 0, possible, 1.0), 0.0)
        return np.clip(trust, 0.0, 1.0).astype(np.float32)
