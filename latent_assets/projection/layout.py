"""UMAP's graph and its optimisation on a CPU: umap-learn's own functions, compiled once per machine.

`umap.UMAP` itself stretches whatever layout it is given to a cube, axis by axis, and would compile for half a minute in
every process. Which settings a layout is made with is decided in `backend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from latent_assets.projection.index import make_index
from latent_assets.spaces import Metric

_NEGATIVES = 5  # random points that repel, for each edge that attracts: umap-learn's default


@dataclass(frozen=True)
class Graph:
    """Fuzzy graph of n rows: edge i joins `head[i]` and `tail[i]` int32 [e] with `weights` float32 [e], 0 to 1."""

    rows: int
    head: np.ndarray
    tail: np.ndarray
    weights: np.ndarray


def neighbor_table(features: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest of each row of `features` float32 [n, d], itself first: indices int32, distances float32 [n, k].

    `features` have unit length for the cosine metric.
    """
    rows = np.arange(len(features))
    found = make_index(features, metric).search(features, k - 1, exclude=rows)
    indices = np.hstack([rows[:, None], found.indices]).astype(np.int32)
    distances = np.hstack([np.zeros((len(features), 1)), found.distances]).astype(np.float32)
    return indices, distances


def fuzzy_graph(indices: np.ndarray, distances: np.ndarray) -> Graph:
    """The fuzzy graph of a table of neighbours, as `neighbor_table` gives it."""
    umap = _umap()
    found, _, _ = umap.fuzzy_simplicial_set(
        indices,  # stands for the rows, of which only the number is asked
        indices.shape[1],
        np.random.RandomState(0),  # not asked: the neighbours are there
        "euclidean",
        knn_indices=indices,
        knn_dists=distances,
    )
    edges: coo_matrix = found.tocoo()
    return Graph(len(indices), edges.row, edges.col, edges.data.astype(np.float32))


def optimise(
    graph: Graph, start: np.ndarray, epochs: int, learning_rate: float, seed: int, min_dist: float
) -> np.ndarray:
    """Lay out `graph` from `start` float32 [n, 3], in one thread: the same bits for the same input; float32 [n, 3].

    Distances are UMAP's own (`spread` 1): its start is used as it is.
    """
    umap = _umap()
    from umap.layouts import optimize_layout_euclidean

    a, b = umap.find_ab_params(1.0, min_dist)
    # what would be drawn less than once in all epochs is left out, as umap-learn does
    kept = graph.weights >= graph.weights.max(initial=0.0) / epochs
    state = np.random.RandomState(seed).randint(-(2**31) + 1, 2**31 - 1, 3).astype(np.int64)
    laid_out = np.array(start, dtype=np.float32, order="C")
    optimize_layout_euclidean(
        laid_out,
        laid_out,
        graph.head[kept],
        graph.tail[kept],
        epochs,
        graph.rows,
        umap.make_epochs_per_sample(graph.weights[kept], epochs),
        a,
        b,
        state,
        1.0,
        learning_rate,
        float(_NEGATIVES),
        parallel=False,
        move_other=True,
    )
    return laid_out


def natural_scale(graph: Graph, coords: np.ndarray, min_dist: float, seed: int = 0, edges: int = 20_000) -> float:
    """By how much `coords` [n, 3] have to be scaled to be a layout of `graph` in UMAP's own distances.

    The factor with the least cross entropy (McInnes, Healy, Melville, arXiv:1802.03426, section 3.2) over `edges` drawn
    edges and five random pairs for each, among factors from 1/32 to 32; 1 without edges.
    """
    a, b = _umap().find_ab_params(1.0, min_dist)
    rng = np.random.default_rng(seed)
    if not len(graph.weights):
        return 1.0
    drawn = rng.choice(len(graph.weights), edges, p=graph.weights / graph.weights.sum(dtype=np.float64))
    first, second = rng.integers(0, graph.rows, (2, _NEGATIVES * edges))
    near = ((coords[graph.head[drawn]] - coords[graph.tail[drawn]]).astype(np.float64) ** 2).sum(axis=1)
    far = ((coords[first] - coords[second]).astype(np.float64) ** 2).sum(axis=1)[first != second]

    def entropy(factor: float) -> float:
        attraction = np.log1p(a * (factor**2 * near) ** b).sum()
        # 1 - 1 / (1 + a d^2b), kept from zero as umap-learn keeps its gradient
        apart = a * (0.001 + factor**2 * far) ** b
        # an edge moves both its ends, a random pair only one
        return float(attraction + 0.5 * np.log1p(1.0 / apart).sum())

    factors = 2.0 ** np.linspace(-5.0, 5.0, 201)
    return float(factors[int(np.argmin([entropy(factor) for factor in factors]))])


def _umap() -> Any:
    """umap-learn's functions; what they compile is kept on disk, which umap-learn does not ask for by itself."""
    from umap import layouts, umap_

    for function in (
        umap_.smooth_knn_dist,
        umap_.compute_membership_strengths,
        layouts.clip,
        layouts.rdist,
        layouts._nb_optimize_layout_euclidean_single_epoch,
    ):
        if not function.signatures:  # not compiled yet in this process
            function.enable_caching()
    return umap_
