"""The maps of the release before: where a fit starts from, and what it is turned onto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from latent_assets.projection.layout import Graph, natural_scale

_LEAST_SHARED = 20
_LEAST_SHARE = 0.1  # of the rows to be laid out
_SPREADING = 20


@dataclass(frozen=True)
class PreviousMaps:
    """Places of all rows of a release, fitted or not: `coords` float32 [n, 3] by space, in the order of `ids`.

    release: its tag.
    """

    release: str
    ids: Sequence[str]
    coords: Mapping[str, np.ndarray]

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each id in this release, int64 [n]; -1 for one that it has not."""
        at = {row_id: position for position, row_id in enumerate(self.ids)}
        return np.array([at.get(row_id, -1) for row_id in ids], dtype=np.int64)


def enough(shared: int, rows: int) -> bool:
    """Whether a map of `rows` rows that shares `shared` of them with the map before is a later state of that one."""
    return shared >= _LEAST_SHARED and shared >= _LEAST_SHARE * rows


def warm_start(graph: Graph, known: np.ndarray, places: np.ndarray, min_dist: float, seed: int) -> np.ndarray:
    """A start for `graph` from `places` float [n, 3] of the rows `known` bool [n], in UMAP's own distances, float32.

    Other rows begin at the mean of their neighbours in the graph, by its weights; those of no known row, in the middle.
    """
    weights = csr_matrix((graph.weights, (graph.head, graph.tail)), (graph.rows, graph.rows))
    start = np.where(known[:, None], places, 0.0).astype(np.float64)
    reached = known.copy()
    for _ in range(_SPREADING):
        if reached.all():
            break
        total = weights @ reached.astype(np.float64)
        found = ~reached & (total > 0)
        if not found.any():
            break
        start[found] = (weights @ np.where(reached[:, None], start, 0.0))[found] / total[found, None]
        reached |= found
    start[~reached] = np.median(start[known], axis=0)
    inside = known[graph.head] & known[graph.tail]
    kept = Graph(graph.rows, graph.head[inside], graph.tail[inside], graph.weights[inside])
    start *= natural_scale(kept, start, min_dist)
    # equal rows that are new stand in one point, which nothing would drive apart
    start += 1e-3 * np.random.default_rng(seed).normal(size=start.shape)
    return start.astype(np.float32)
