"""How far the place of a row can be believed: what it lies between, what it rests on, what is drawn beside it.

Nothing is placed here; `placement` asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import KDTree

from latent_assets.projection.distances import Points, compiled, in_threads

GHOSTS = 32


def halves(k: int) -> np.ndarray:
    """bool [32, k]: which of k neighbours each ghost of a row keeps, half of them, drawn once and for all."""
    rng = np.random.default_rng(k)
    kept = np.zeros((GHOSTS, k), dtype=bool)
    for ghost in kept:
        ghost[rng.permutation(k)[: (k + 1) // 2]] = True
    return kept


@compiled
def interpolate(weights: Any, around: Any, kept: Any, coords: Any, spread: Any, jitter: Any) -> None:
    """Places, spreads and jitters, all float64, of rows between the places `around` [m, k, 3] of their neighbours.

    weights [m, k] sum to 1. coords [m, 3]: weighted mean. spread [m]: weighted standard deviation around it. jitter
    [m]: root mean square distance from there to the means over each half `kept` bool [g, k] of the neighbours, which
    estimates the standard error of the place (delete-half jackknife; Shao and Wu, 1989); 0 for one neighbour. A half
    without weight says nothing. One row after the other, in one order.
    """
    k = weights.shape[1]
    for row in range(weights.shape[0]):
        for axis in range(3):
            total = 0.0
            for j in range(k):
                total += weights[row, j] * around[row, j, axis]
            coords[row, axis] = total
        variance = 0.0
        for j in range(k):
            square = 0.0
            for axis in range(3):
                away = around[row, j, axis] - coords[row, axis]
                square += away * away
            variance += weights[row, j] * square
        spread[row] = np.sqrt(variance)
        moved, counted = 0.0, 0
        for ghost in range(kept.shape[0]):
            weight, x, y, z = 0.0, 0.0, 0.0, 0.0
            for j in range(k):
                if kept[ghost, j]:
                    weight += weights[row, j]
                    x += weights[row, j] * around[row, j, 0]
                    y += weights[row, j] * around[row, j, 1]
                    z += weights[row, j] * around[row, j, 2]
            if weight > 0.0:
                x, y, z = x / weight - coords[row, 0], y / weight - coords[row, 1], z / weight - coords[row, 2]
                moved += x * x + y * y + z * z
                counted += 1
        jitter[row] = np.sqrt(moved / max(counted, 1))


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
