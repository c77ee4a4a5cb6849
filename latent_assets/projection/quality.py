"""How faithful a map is: figures of neighbourhoods, distances and far outliers, on a fixed probe set.

Also how well a map feature keeps the neighbours of the full latents. Nothing is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.projection.neighbors import ExactIndex, self_neighbors
from latent_assets.spaces import Metric

NEIGHBORS = 15
WIDE_NEIGHBORS = 50
PROBE_ROWS = 2_000
REFERENCE_ROWS = 10_000
_TRIPLETS_PER_ROW = 10
_FAR = 4.0  # times the radius of half the map: 3 is the edge of a ball's points, islands lie beyond it


@dataclass(frozen=True)
class MapQuality:
    """Figures of one map, over `probe_rows` rows among `reference_rows` rows; 1 is perfect, but for `far_outliers`.

    trustworthiness: rows close on the map are close in the space (Venna and Kaski, 2001), by `neighbors` nearest.
    continuity: rows close in the space are close on the map (same source).
    trustworthiness_50, continuity_50: the same by `wide_neighbors` nearest.
    recall: share of a row's `neighbors` nearest in the space that are among its `neighbors` nearest on the map.
    triplets: share of random triplets (a; b, c) whose nearer one is the same in both (Wang et al., 2021, PaCMAP).
    far_outliers: share of the probes that lie more than four times as far from the map's middle (its median) as half
        of the reference does; 0 is perfect.
    A figure is None when there are too few rows to define it. Neighbours are fewer where there are few rows.
    """

    trustworthiness: float | None
    continuity: float | None
    trustworthiness_50: float | None
    continuity_50: float | None
    recall: float | None
    triplets: float | None
    far_outliers: float | None
    neighbors: int
    wide_neighbors: int
    probe_rows: int
    reference_rows: int


def measure(
    features: np.ndarray, coords: np.ndarray, metric: Metric, seed: int = 0, probes: np.ndarray | None = None
) -> MapQuality:
    """Compare `features` float32 [n, d] with their `coords` float32 [n, 3]. Deterministic for a seed.

    At most 10,000 rows serve as reference and 2,000 of them as probes, drawn by seed. `probes` bool [n]: the rows that
    may be probes (those that were placed, say); at most 2,000 of them belong to the reference whatever is drawn.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(features), min(REFERENCE_ROWS, len(features)), replace=False))
    if probes is None:
        drawn = np.sort(rng.choice(len(rows), min(PROBE_ROWS, len(rows)), replace=False))
    else:
        able = np.flatnonzero(probes)
        chosen = np.sort(rng.choice(able, min(PROBE_ROWS, len(able)), replace=False))
        others = np.setdiff1d(rows, chosen)
        room = max(0, min(REFERENCE_ROWS, len(features)) - len(chosen))
        rows = np.union1d(chosen, np.sort(rng.choice(others, min(room, len(others)), replace=False)))
        drawn = np.searchsorted(rows, chosen)
    return _figures(features[rows], coords[rows], metric, drawn, rng)


def _figures(
    space: np.ndarray, drawn: np.ndarray, metric: Metric, probes: np.ndarray, rng: np.random.Generator
) -> MapQuality:
    # trustworthiness is defined for k < n / 2
    most = (len(space) - 1) // 2
    k, wide = min(NEIGHBORS, most), min(WIDE_NEIGHBORS, most)
    if k < 1 or not len(probes):
        return MapQuality(None, None, None, None, None, None, None, 0, 0, len(probes), len(space))
    in_space = ExactIndex(space, metric).search(space[probes], wide, exclude=probes).indices
    on_map = ExactIndex(drawn, "euclidean").search(drawn[probes], wide, exclude=probes).indices
    trust, trust_wide = _intrusion(space, probes, on_map, (k, wide))
    continuity, continuity_wide = _intrusion(drawn, probes, in_space, (k, wide))
    return MapQuality(
        trustworthiness=trust,
        continuity=continuity,
        trustworthiness_50=trust_wide,
        continuity_50=continuity_wide,
        recall=_overlap(in_space[:, :k], on_map[:, :k]),
        triplets=_triplets(space, drawn, probes, rng),
        far_outliers=_far_outliers(drawn, probes),
        neighbors=k,
        wide_neighbors=wide,
        probe_rows=len(probes),
        reference_rows=len(space),
    )


def _intrusion(points: np.ndarray, probes: np.ndarray, claimed: np.ndarray, sizes: tuple[int, ...]) -> list[float]:
    """For each k of `sizes` 1 minus the normalised sum of how far beyond rank k the first k of `claimed` lie.

    claimed: int64 [m, most], neighbours of the `probes` among `points` [n, d].
    """
    n = len(points)
    squares = np.einsum("ij,ij->i", points, points)
    excess = np.zeros(len(sizes))
    for start in range(0, len(probes), 256):
        rows = probes[start : start + 256]
        distances = squares[None, :] - 2.0 * (points[rows] @ points.T)
        distances[np.arange(len(rows)), rows] = np.inf
        of_claimed = np.take_along_axis(distances, claimed[start : start + 256], axis=1)
        distances.sort(axis=1)
        # how many are nearer, plus one
        ranks = 1 + np.stack([np.searchsorted(*pair) for pair in zip(distances, of_claimed, strict=True)])
        excess += [float(np.maximum(ranks[:, :k] - k, 0).sum()) for k in sizes]
    return [
        1.0 - 2.0 * float(e) / float(len(probes) * k * (2 * n - 3 * k - 1)) for e, k in zip(excess, sizes, strict=True)
    ]


def _overlap(true: np.ndarray, found: np.ndarray) -> float:
    """Share of `true` [m, k] indices that are in the same row of `found` [m, k]."""
    return float((true[:, :, None] == found[:, None, :]).any(axis=2).mean())


def _far_outliers(drawn: np.ndarray, probes: np.ndarray) -> float:
    distance = np.linalg.norm(drawn - np.median(drawn, axis=0), axis=1)
    return float((distance[probes] > _FAR * np.median(distance)).mean())


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
