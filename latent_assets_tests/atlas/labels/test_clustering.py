"""Clusters of maps whose clusters are known."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from latent_assets.atlas.labels.clustering import find_clusters
from latent_assets_tests.atlas.labels.mapped import CONTINENTS, TOWNS, places_of


@pytest.fixture(scope="module")
def town() -> np.ndarray:
    return np.concatenate([np.arange(1_200) % len(TOWNS), np.full(120, -1)])


def test_continents_and_towns_are_found(town: np.ndarray) -> None:
    found = find_clusters(places_of(town, 1), np.arange(len(town)))
    inside = town >= 0
    coarse = found.tree.ancestor(1)[found.of]
    assert len(set(coarse[coarse >= 0])) == CONTINENTS
    assert adjusted_rand_score(town[inside] // 3, coarse[inside]) > 0.95
    parts = [number for number, parent in enumerate(found.tree.parent) if parent >= 0]
    assert len(parts) >= len(TOWNS)
    finest = found.tree.ancestor(2)[found.of]
    assert adjusted_rand_score(town[inside], finest[inside]) > 0.75
    for part in parts:
        assert np.unique(town[found.of == part], return_counts=True)[1].max() > 0.9 * (found.of == part).sum(), (
            "one town"
        )
    assert (found.of[~inside] < 0).mean() > 0.4, "what lies between is in no cluster"


def test_a_part_lies_in_its_whole(town: np.ndarray) -> None:
    found = find_clusters(places_of(town, 1), np.arange(len(town)))
    for number, parent in enumerate(found.tree.parent):
        assert parent < number
        assert parent < 0 or found.tree.level[parent] < found.tree.level[number]
    assert set(found.of) <= set(range(-1, len(found.tree.level)))


def test_the_same_places_give_the_same_clusters(town: np.ndarray) -> None:
    places = places_of(town, 1)
    one, other = (find_clusters(places, np.arange(len(town))) for _ in range(2))
    assert one.tree == other.tree
    np.testing.assert_array_equal(one.of, other.of)


def test_rows_that_were_not_sampled_are_with_their_neighbours(town: np.ndarray) -> None:
    places = places_of(town, 1)
    sample = np.flatnonzero(np.random.default_rng(2).random(len(town)) < 0.5)
    found = find_clusters(places, sample)
    rest = np.setdiff1d(np.arange(len(town)), sample)
    coarse = found.tree.ancestor(1)[found.of]
    inside = rest[town[rest] >= 0]
    assert adjusted_rand_score(town[inside] // 3, coarse[inside]) > 0.95
    assert (found.of[rest[town[rest] < 0]] < 0).mean() > 0.6, "what lies between stays there"


@pytest.mark.parametrize("rows", [0, 1, 15, 40])
def test_rows_that_are_few_or_all_at_one_place_have_no_clusters(rows: int) -> None:
    found = find_clusters(np.ones((rows, 3), np.float32), np.arange(rows))
    assert found.tree.level == [] and (found.of == -1).all() and len(found.of) == rows


def test_copies_at_one_place_are_a_cluster() -> None:
    places = np.concatenate([np.zeros((50, 3)), np.full((50, 3), 9.0), np.random.default_rng(1).normal(size=(60, 3))])
    found = find_clusters(places.astype(np.float32), np.arange(len(places)))
    assert len(set(found.of[:50])) == len(set(found.of[50:100])) == 1
