"""Where a row lies between its neighbours' places, how far apart these are, and how much hangs on which they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from latent_assets.projection.distances import compiled

_GHOSTS = 32
_STEPS = 60
_SETTLED = 1e-6  # of the distance to the places


def halves(k: int) -> np.ndarray:
    """bool [32, k]: which of k neighbours each ghost of a row keeps, half of them, drawn once and for all."""
    rng = np.random.default_rng(k)
    kept = np.zeros((_GHOSTS, k), dtype=bool)
    for ghost in kept:
        ghost[rng.permutation(k)[: (k + 1) // 2]] = True
    return kept


@compiled
def _median(weights: Any, places: Any, kept: Any, out: Any) -> float:
    """Weighted geometric median of the places [k, 3] that are kept, by Weiszfeld's algorithm from their mean.

    Returns the weight of what is kept; 0 leaves `out` [3] as it is.
    """
    total, x, y, z = 0.0, 0.0, 0.0, 0.0
    for j in range(places.shape[0]):
        if kept[j]:
            total += weights[j]
            x += weights[j] * places[j, 0]
            y += weights[j] * places[j, 1]
            z += weights[j] * places[j, 2]
    if not total > 0.0:
        return 0.0
    x, y, z = x / total, y / total, z / total
    for _ in range(_STEPS):
        sum_of, to_x, to_y, to_z, cost = 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(places.shape[0]):
            if kept[j]:
                a, b, c = places[j, 0] - x, places[j, 1] - y, places[j, 2] - z
                cost += weights[j] * np.sqrt(a * a + b * b + c * c)
        smallest = _SETTLED * cost / total  # where it lies on a place, that one does not hold it by itself
        if not smallest > 0.0:
            break
        for j in range(places.shape[0]):
            if kept[j]:
                a, b, c = places[j, 0] - x, places[j, 1] - y, places[j, 2] - z
                pull = weights[j] / np.sqrt(a * a + b * b + c * c + smallest * smallest)
                sum_of += pull
                to_x += pull * a
                to_y += pull * b
                to_z += pull * c
        a, b, c = to_x / sum_of, to_y / sum_of, to_z / sum_of
        x, y, z = x + a, y + b, z + c
        if np.sqrt(a * a + b * b + c * c) <= smallest:
            break
    out[0], out[1], out[2] = x, y, z
    return total


@compiled
def between(weights: Any, places: Any, kept: Any, coords: Any, spread: Any, jitter: Any) -> None:
    """Coordinates, spread and jitter, all float64, of rows among the places [m, k, 3] of their neighbours.

    weights [m, k] sum to 1. coords [m, 3]: weighted geometric median, the point with the least sum of distances to
    them; a minority of neighbours on another island does not draw it into the void between. spread [m]: weighted
    standard deviation around it. jitter [m]: root mean square distance from there to the medians of each half `kept`
    bool [g, k] of the neighbours, which estimates the standard error of the place (delete-half jackknife; Shao and Wu,
    A general theory for jackknife variance estimation, 1989); a half without weight says nothing, and no half
    (g = 0) gives 0. One row after the other, in one order.
    """
    k = weights.shape[1]
    everything = np.ones(k, np.bool_)
    ghost_at = np.empty(3)
    for row in range(weights.shape[0]):
        _median(weights[row], places[row], everything, coords[row])
        variance = 0.0
        for j in range(k):
            square = 0.0
            for axis in range(3):
                away = places[row, j, axis] - coords[row, axis]
                square += away * away
            variance += weights[row, j] * square
        spread[row] = np.sqrt(variance)
        moved, counted = 0.0, 0
        for ghost in range(kept.shape[0]):
            if _median(weights[row], places[row], kept[ghost], ghost_at) > 0.0:
                for axis in range(3):
                    moved += (ghost_at[axis] - coords[row, axis]) ** 2
                counted += 1
        jitter[row] = np.sqrt(moved / max(counted, 1))
