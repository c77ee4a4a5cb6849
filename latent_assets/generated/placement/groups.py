"""Near-duplicates among the neighbours of an image: skin tones, re-uploads, sizes of one picture count once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latent_assets.projection.neighbors import unit
from latent_assets.spaces import Metric, embeddings


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


def alike(
    columns: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], radii: Mapping[str, float]
) -> np.ndarray:
    """Which rows are near-duplicates of which: bool [n, m], for vectors float [n, d] and [m, d] by embedding.

    Two images are near-duplicates when they are within the radius of every embedding (`Calibration.radii`, in its own
    metric; 0 where it says none): a colour and a layout in common, or a subject in common, is not enough.
    """
    found = []
    for name, rows in columns.items():
        metric, radius = embeddings()[name].metric, radii.get(name, 0.0)
        left, right = (
            unit(part) if metric == "cosine" else np.asarray(part, np.float32) for part in (rows, others[name])
        )
        squares = [np.einsum("ij,ij->i", part, part, dtype=np.float64) for part in (left, right)]
        apart = squares[0][:, None] + squares[1][None] - 2.0 * (left.astype(np.float64) @ right.astype(np.float64).T)
        limit = 2.0 * radius if metric == "cosine" else radius * radius
        found.append(apart <= limit + 1e-12 * (squares[0][:, None] + squares[1][None]))
    return np.asarray(np.logical_and.reduce(found))


def near_duplicates(same: np.ndarray) -> np.ndarray:
    """The group int64 [n] of each row, numbered in order of appearance. `same`: bool [n, n], of `alike`.

    A row joins the first group whose first member is its near-duplicate; otherwise it begins one. Groups are therefore
    never wider than twice the radius, however many rows lie in a chain.
    """
    groups = np.zeros(len(same), np.int64)
    leaders: list[int] = []
    for row in range(len(same)):
        within = np.flatnonzero(same[row, leaders])
        if len(within):
            groups[row] = within[0]
        else:
            groups[row] = len(leaders)
            leaders.append(row)
    return groups
