"""Near-duplicates count once, and a chain of them is no group."""

from __future__ import annotations

import numpy as np
import pytest

from latent_assets.generated.placement.groups import alike, distances_to, near_duplicates
from latent_assets.projection.neighbors import ExactIndex, unit


def test_near_duplicates_join_the_first_group_and_chains_do_not_grow() -> None:
    points = {"vae": np.array([[0.0], [0.5], [10.0], [1.0], [10.2], [1.4]])}

    def groups(radius: float) -> list[int]:
        return near_duplicates(alike(points, points, {"vae": radius})).tolist()

    assert groups(0.6) == [0, 0, 1, 2, 1, 2]
    assert groups(0.0) == list(range(6))
    assert near_duplicates(np.zeros((0, 0), bool)).tolist() == []


def test_near_duplicates_are_near_in_every_embedding() -> None:
    clip = np.array([[1.0, 0.0], [1.0, 0.001], [0.0, 1.0]])
    vae = np.array([[3.0, 4.0], [3.0, 4.5], [3.0, 4.0]])
    rows = {"clip": clip, "vae": vae}
    assert alike(rows, rows, {"clip": 0.01, "vae": 0.6}).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]
    assert not alike(rows, rows, {"clip": 0.01, "vae": 0.4})[0, 1]
    assert alike({"vae": vae}, {"vae": vae}, {"vae": 0.1})[0].tolist() == [True, False, True]
    # without radii only what is equal
    same = {"clip": np.repeat(clip[:1], 2, axis=0) * 7.3, "vae": np.repeat(vae[:1] * 1e3, 2, axis=0)}
    assert alike(same, same, {}).all() and not alike(rows, rows, {})[0, 1]


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
