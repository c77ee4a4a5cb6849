"""Clusters of a map at three levels: PLSCAN on the coordinates of a sample, the other rows by their neighbours in it.

PLSCAN (Bot, McInnes, Aerts, arXiv:2512.16558) is HDBSCAN at every size that a cluster may have at least; the layers
are those sizes at which clusters last. What lies in no dense region belongs to no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latent_assets.atlas.labels.naming import Tree
from latent_assets.atlas.labels.store import LEVELS

FITTED = 50_000  # rows that are clustered
_CORE = 5  # neighbours by whose distance density is told
_LEAST, _FINEST = 8, 1_000  # rows of a cluster; the finest have at least one in so many of those fitted
_WANTED = (12, 60, 300)  # clusters of each level, about: the nearest layers are taken
_BESIDE = 7  # fitted rows among which the others look for their cluster
_BATCH = 200_000


@dataclass(frozen=True)
class Clusters:
    """tree: its clusters, coarse ones before the parts of them. of: int32 [n], the finest that each row is in, -1 for
    none."""

    tree: Tree
    of: np.ndarray


def find_clusters(places: np.ndarray, sample: np.ndarray) -> Clusters:
    """Cluster the rows of a map.

    places: float32 [n, 3], map units. sample: int64 [m], the rows that decide, at most `FITTED` of them. The same
    places give the same clusters.
    """
    layers = _layers(places[sample].astype(np.float64))
    clusters = _nested(layers, len(sample))
    of = np.full(len(places), -1, np.int32)
    of[sample] = clusters.of
    if len(sample) < len(places) and len(clusters.tree.level):
        rest = np.setdiff1d(np.arange(len(places)), sample)
        of[rest] = _joined(clusters, places[sample], places[rest])
    return Clusters(clusters.tree, of)


def _layers(places: np.ndarray) -> list[np.ndarray]:
    """Clusters of float64 [m, 3] by level, the coarsest first: int64 [m] each, -1 for none; fewer for few rows."""
    if len(places) < 2 * _LEAST:
        return []
    from fast_hdbscan import PLSCAN

    # rows at one place, or on a line, leave nothing to be told by distance
    if not np.ptp(places, axis=0).any():
        return []
    smallest = max(_LEAST, len(places) // _FINEST)
    found = PLSCAN(min_samples=_CORE, base_min_cluster_size=smallest, reproducible=True, max_layers=12).fit(places)
    layers = [layer.astype(np.int64) for layer in found.cluster_layers_ if layer.max() >= 1]
    layers.sort(key=lambda layer: int(layer.max()))
    return _chosen(layers)


def _chosen(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The layers whose numbers of clusters are nearest to those wanted, as ratios; none twice."""
    if len(layers) <= LEVELS:
        return list(layers)
    counts = np.log([int(layer.max()) + 1 for layer in layers])
    best, chosen = np.inf, (0, 1, 2)
    for first in range(len(layers)):
        for second in range(first + 1, len(layers)):
            for third in range(second + 1, len(layers)):
                off = np.abs(counts[[first, second, third]] - np.log(_WANTED)).sum()
                if off < best:
                    best, chosen = off, (first, second, third)
    return [layers[at] for at in chosen]


def _nested(layers: Sequence[np.ndarray], rows: int) -> Clusters:
    """One tree of all layers: a cluster is part of that of the coarser layers which has most of its rows.

    A row is in the finest cluster that has it, and so in what that is part of. Clusters that are one with their parent
    are left out, and so is a part that would have no row.
    """
    of = np.full(rows, -1, np.int32)
    level: list[int] = []
    parent: list[int] = []
    for depth, layer in enumerate(layers, 1):
        before = of.copy()
        for cluster in range(int(layer.max()) + 1):
            mine = np.flatnonzero(layer == cluster)
            above, counts = np.unique(before[mine], return_counts=True)
            over = int(above[counts.argmax()]) if len(above) else -1
            if over >= 0 and len(mine) > 0.9 * np.count_nonzero(before == over):
                continue
            # rows that lie in another coarse cluster stay there
            mine = mine[before[mine] == over]
            if len(mine):
                of[mine] = len(level)
                level.append(depth)
                parent.append(over)
    return Clusters(Tree(level, parent), of)


def _joined(clusters: Clusters, fitted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The clusters of further rows, int32 [n]: that of most of the nearest fitted rows, or the first of what it is part
    of that is sparse enough to have a row as far from others as this one."""
    from scipy.spatial import cKDTree

    tree = cKDTree(fitted)
    beside = min(_BESIDE, len(fitted) - 1)
    core = np.concatenate([tree.query(part, k=beside + 1)[0][:, -1] for part in _batches(fitted)])
    reach = _reach(clusters, core)
    parent = np.array([*clusters.tree.parent, -1])
    found = []
    for part in _batches(places):
        away, near = tree.query(part, k=beside)
        votes = clusters.of[near.reshape(len(part), beside)]
        same = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
        # argmax takes the first of equals, and neighbours come nearest first
        of = votes[np.arange(len(votes)), same.argmax(axis=1)]
        far = away.reshape(len(part), beside)[:, -1]
        while (out := (of >= 0) & (far > reach[of])).any():
            of[out] = parent[of[out]]
        found.append(of)
    return np.concatenate(found).astype(np.int32)


def _batches(places: np.ndarray) -> Iterator[np.ndarray]:
    return (places[at : at + _BATCH] for at in range(0, len(places), _BATCH))


def _reach(clusters: Clusters, core: np.ndarray) -> np.ndarray:
    """How far from its neighbours a row of each cluster is at most, but for one in a hundred: float64 [m + 1]."""
    reach = np.full(len(clusters.tree.level) + 1, np.inf)
    for level in range(1, LEVELS + 1):
        of = clusters.tree.ancestor(level)[clusters.of]
        for cluster in np.unique(of[of >= 0]):
            reach[cluster] = np.quantile(core[of == cluster], 0.99)
    return reach
