"""The maps of the release before: where a fit starts from, and what it is turned onto."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from latent_assets.projection.layout import Graph, natural_scale

COLUMN = "xyz_"  # and the space: places in a table
_LEAST_SHARED = 20
_LEAST_SHARE = 0.1  # of the rows to be laid out
_SPREADING = 20


@dataclass(frozen=True)
class PreviousMaps:
    """Places of all rows of a release, fitted or not. release: its tag.

    frame: `id` string, `xyz_{space}` Array(f32, 3) for each of its spaces.
    """

    release: str
    frame: pl.DataFrame

    def shared(self, space: str, ids: Sequence[str]) -> Shared | None:
        """What this release says of a map of the rows `ids`; None when it has no such map."""
        column = f"{COLUMN}{space}"
        if column not in self.frame.columns or not self.frame.height:
            return None
        everything: np.ndarray = self.frame[column].to_numpy().reshape(-1, 3)
        position = self.frame.select("id").with_row_index("position")
        at = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)}).join(position, "id", "left", maintain_order="left")
        known = at["position"].is_not_null().to_numpy()
        places = np.full((len(ids), 3), np.nan, np.float32)
        places[known] = everything[at["position"].drop_nulls().to_numpy()]
        return Shared(self.release, known, places, everything)


@dataclass(frozen=True)
class Shared:
    """What a release says of a map of n rows, some of which it has.

    known: bool [n]. places: float32 [n, 3], map units of the release, NaN for rows that it has not. everything:
    float32 [m, 3], the places of all its rows.
    """

    release: str
    known: np.ndarray
    places: np.ndarray
    everything: np.ndarray


def enough(shared: int, rows: int) -> bool:
    """Whether a map of `rows` rows that shares `shared` of them with the map before is a later state of that one."""
    return shared >= _LEAST_SHARED and shared >= _LEAST_SHARE * rows


def warm_start(
    graph: Graph, known: np.ndarray, places: np.ndarray, min_dist: float, seed: int
) -> tuple[np.ndarray, float]:
    """A start for `graph` from `places` float [n, 3] of the rows `known` bool [n], float32 [n, 3], and the factor that
    brings places to UMAP's own distances.

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
    factor = natural_scale(kept, start, min_dist)
    start *= factor
    # equal rows that are new stand in one point, which nothing would drive apart
    start += 1e-3 * np.random.default_rng(seed).normal(size=start.shape)
    return start.astype(np.float32), factor
