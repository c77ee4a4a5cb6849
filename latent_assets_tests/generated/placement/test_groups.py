"""Near-duplicates count once, and a chain of them is no group."""

from __future__ import annotations

import numpy as np
import pytest

from latent_assets.generated.placement.groups import distances_to, near_duplicates
from latent_assets.projection.neighbors import ExactIndex, unit


def test_near_duplicates_join_the_first_group_and_chains_do_not_grow() -> None:
    points = np.array([[0.0], [0.5], [10.0], [1.0], [10.2], [1.4]])
    assert near_duplicates(points, 0.6, "euclidean").tolist() == [0, 0, 1, 2, 1, 2]
    assert near_duplicates(points, 0.0, "euclidean").tolist() == list(range(6))
    assert near_duplicates(np.zeros((3, 2)), 0.0, "euclidean").tolist() == [0, 0, 0]
    assert near_duplicates(np.zeros((0, 4)), 1.0, "cosine").tolist() == []


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_are_those_of_the_index_bit_for_bit(metric: str) -> None:
    rng = np.random.default_rng(0)
    points, query = rng.normal(size=(40, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    wide = unit(points) if metric == "cosine" else points
    asked = unit(query[None]) if metric == "cosine" else query[None]
    found = ExactIndex(wide, metric).search(asked, 40)  # type: ignore[arg-type]
    mine = distances_to(query, points, metric)  # type: ignore[arg-type]
    assert np.array_equal(mine[found.indices[0]], found.distances[0])
    alone = np.concatenate([distances_to(query, points[row : row + 1], metric) for row in range(40)])  # type: ignore[arg-type]
    assert np.array_equal(mine, alone)
