"""How faithful a map is: four figures of neighbourhoods and distances, on a fixed probe set.

Also how well a map feature keeps the neighbours of the full latents. Nothing is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.projection.neighbors import ExactIndex, self_neighbors
from latent_assets.spaces import Metric

NEIGHBORS = 15
PROBE_ROWS = 2_000
REFERENCE_ROWS = 10_000
_TRIPLETS_PER_ROW = 10


@dataclass(frozen=True)
class MapQuality:
    """Figures of one map, each from 0 to 1 (1 is perfect), over `probe_rows` rows among `reference_rows` rows.

    trustworthiness: rows close on the map are close in the space (Venna and Kaski, 2001).
    continuity: rows close in the space are close on the map (same source).
    recall: share of a row's `neighbors` nearest in the space that are among its `neighbors` nearest on the map.
    triplets: share of random triplets (a; b, c) whose nearer one is the same in both (Wang et al., 2021, PaCMAP).
    A figure is None when there are too few rows to define it.
    """

    trustworthiness: float | None
    continuity: float | None
    recall: float | None
    triplets: float | None
    neighbors: int
    probe_rows: int
    reference_rows: int


def measure(features: np.ndarray, coords: np.ndarray, metric: Metric, seed: int = 0) -> MapQuality:
    """Compare `features` float32 [n, d] with their `coords` float32 [n, 3]. Deterministic for a seed.

    At most 10,000 rows serve as reference and 2,000 of them as probes, drawn by seed.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(features), min(REFERENCE_ROWS, len(features)), replace=False))
    probes = np.sort(rng.choice(len(rows), min(PROBE_ROWS, len(rows)), replace=False))
    # trustworthiness is defined for k < n / 2
    k = min(NEIGHBORS, (len(rows) - 1) // 2)
    if k < 1:
        return MapQuality(None, None, None, None, 0, len(probes), len(rows))
    space, drawn = features[rows], coords[rows]
    in_space = ExactIndex(space, metric).search(space[probes], k, exclude=probes).indices
    on_map = ExactIndex(drawn, "euclidean").search(drawn[probes], k, exclude=probes).indices
    return MapQuality(
        trustworthiness=_intrusion(space, probes, on_map),
        continuity=_intrusion(drawn, probes, in_space),
        recall=_overlap(in_space, on_map),
        triplets=_triplets(space, drawn, probes, rng),
        neighbors=k,
        probe_rows=len(probes),
        reference_rows=len(rows),
    )


def _intrusion(points: np.ndarray, probes: np.ndarray, claimed: np.ndarray) -> float:
    """1 minus the normalised sum of how far beyond rank k the `claimed` neighbours [m, k] lie among `points`."""
    n, k = len(points), claimed.shape[1]
    squares = np.einsum("ij,ij->i", points, points)
    excess = 0.0
    for start in range(0, len(probes), 256):
        rows = probes[start : start + 256]
        distances = squares[None, :] - 2.0 * (points[rows] @ points.T)
        distances[np.arange(len(rows)), rows] = np.inf
        of_claimed = np.take_along_axis(distances, claimed[start : start + 256], axis=1)
        for column in range(k):
            ranks = 1 + (distances < of_claimed[:, column : column + 1]).sum(axis=1)
            excess += float(np.maximum(ranks - k, 0).sum())
    return 1.0 - 2.0 * excess / float(len(probes) * k * (2 * n - 3 * k - 1))


def _overlap(true: np.ndarray, found: np.ndarray) -> float:
    """Share of `true` [m, k] indices that are in the same row of `found` [m, k]."""
    return float((true[:, :, None] == found[:, None, :]).any(axis=2).mean())


def _triplets(space: np.ndarray, drawn: np.ndarray, probes: np.ndarray, rng: np.random.Generator) -> float | None:
    if len(space) < 3:
        return None
    anchors = np.repeat(probes, _TRIPLETS_PER_ROW)
    # two others, distinct from the anchor and from each other
    first = (anchors + rng.integers(1, len(space), len(anchors))) % len(space)
    second = (anchors + rng.integers(1, len(space), len(anchors))) % len(space)
    valid = first != second
    anchors, first, second = anchors[valid], first[valid], second[valid]

    def nearer(points: np.ndarray) -> np.ndarray:
        to_first = ((points[anchors].astype(np.float64) - points[first]) ** 2).sum(axis=1)
        to_second = ((points[anchors].astype(np.float64) - points[second]) ** 2).sum(axis=1)
        return np.asarray(np.sign(to_first - to_second))

    return float((nearer(space) == nearer(drawn)).mean()) if len(anchors) else None


def neighbor_recall(full: np.ndarray, reduced: np.ndarray, k: int = NEIGHBORS) -> float:
    """Share of each row's `k` nearest by `full` [n, D] that are among its `k` nearest by `reduced` [n, d] (L2)."""
    k = min(k, len(full) - 1)
    if k < 1:
        return 1.0
    true = self_neighbors(np.asarray(full, np.float32), k, "euclidean").indices
    found = self_neighbors(np.asarray(reduced, np.float32), k, "euclidean").indices
    return _overlap(true, found)
