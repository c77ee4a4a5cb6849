"""How far rows lie from where they lay: displacement and churn of neighbours between two states of one map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.projection.neighbors import ExactIndex

_NEIGHBORS = 15
_REFERENCE_ROWS, _PROBE_ROWS = 10_000, 2_000


@dataclass(frozen=True)
class Drift:
    """How the rows that two states of a map share have moved.

    median, p95, most: distances as shares of the earlier map's diameter (`diameter_of`). moved: share of the rows that
    moved at all. churn: share of a row's 15 nearest on the earlier map that are not among its 15 nearest on the later
    one, over at most 2,000 drawn rows among 10,000; None where there are too few.
    """

    median: float
    p95: float
    most: float
    moved: float
    churn: float | None = None


def measure_drift(everything: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int = 0) -> Drift:
    """How far rows moved, as shares of the diameter of the map that `everything` float [m, 3] makes.

    before, after: float [n, 3], the places of the same rows; n at least 1.
    """
    moved = displacement(before, after) / (diameter_of(everything) or 1.0)
    median, p95 = np.quantile(moved, [0.5, 0.95])
    return Drift(
        float(median), float(p95), float(moved.max()), float((moved > 0).mean()), churn_between(before, after, seed)
    )


def displacement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Distance of each row's two places, float64 [n]."""
    return np.asarray(np.linalg.norm(after.astype(np.float64) - before.astype(np.float64), axis=1))


def diameter_of(coords: np.ndarray) -> float:
    """The diagonal of the box that holds all but the outermost 1 % of `coords` [n, 3] in each direction."""
    low, high = np.quantile(coords, [0.005, 0.995], axis=0)
    return float(np.linalg.norm(high - low))


def churn_between(before: np.ndarray, after: np.ndarray, seed: int = 0) -> float | None:
    """`Drift.churn` of the same rows' places, float [n, 3]."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(before), min(_REFERENCE_ROWS, len(before)), replace=False))
    k = min(_NEIGHBORS, (len(rows) - 1) // 2)
    if k < 1:
        return None
    probes = np.sort(rng.choice(len(rows), min(_PROBE_ROWS, len(rows)), replace=False))
    near = [
        ExactIndex(points[rows], "euclidean").search(points[rows[probes]].astype(np.float32), k, exclude=probes).indices
        for points in (before, after)
    ]
    return 1.0 - float((near[0][:, :, None] == near[1][:, None, :]).any(axis=2).mean())
