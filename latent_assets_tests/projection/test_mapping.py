"""From layout to map: a fixed rule for the first one, similarities onto the one before, islands kept whole."""

import numpy as np
import pytest

from latent_assets.profile import Projection
from latent_assets.projection import backend
from latent_assets.projection.drift import churn_between, measure_drift
from latent_assets.projection.frame import aligning_frame, first_frame
from latent_assets.projection.islands import anchor, find_islands, pull_in
from latent_assets.projection.layout import natural_scale
from latent_assets.projection.mapping import Map, make_map
from latent_assets.projection.neighbors import unit
from latent_assets.projection.previous import Shared
from latent_assets.projection.quality import measure
from latent_assets_tests.projection import synthetic

SETTINGS = Projection(backend="umap-learn", n_epochs=200)


def cloud(rows: int, seed: int, centre: tuple[float, float, float] = (0, 0, 0), size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)) * size + centre


def rotation(seed: int = 3) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


# -- frames ----------------------------------------------------------------------------------------------


def test_a_first_map_lies_as_the_rule_says_however_its_layout_was_turned() -> None:
    layout = cloud(2_000, 0) * [1.0, 3.0, 2.0]
    layout = np.sign(layout) * np.abs(layout) ** 1.2 + np.exp(layout / 4)  # a longer tail on one side
    placed = first_frame(layout).apply(layout)
    turned = 0.07 * layout @ rotation() + [5.0, -3.0, 40.0]
    np.testing.assert_allclose(first_frame(turned).apply(turned), placed, atol=1e-4)
    assert np.quantile(np.linalg.norm(placed, axis=1), 0.95) == pytest.approx(10.0, rel=1e-3)
    assert (np.diff(placed.std(axis=0)) < 0).all() and np.abs(np.median(placed, axis=0)).max() < 1.0


def test_far_points_decide_neither_scale_nor_axes() -> None:
    layout = cloud(1_000, 1) * [3.0, 2.0, 1.0]
    clean = first_frame(layout)
    layout[:20] = [0.0, 0.0, 1e5]
    crowded = first_frame(layout)
    assert crowded.scale == pytest.approx(clean.scale, rel=0.1)
    np.testing.assert_allclose(np.abs(crowded.rotation), np.abs(clean.rotation), atol=0.1)


def test_an_alignment_finds_the_similarity_and_no_shear_though_a_fifth_moved() -> None:
    before = cloud(500, 2) * [3.0, 2.0, 1.0]
    layout = (before - [1.0, 2.0, 3.0]) @ rotation() / 0.4
    layout[:100] += cloud(100, 5, size=20.0)
    frame = aligning_frame(layout, before)
    np.testing.assert_allclose(frame.apply(layout)[100:], before[100:], atol=1e-4)
    turn = np.array(frame.rotation)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert frame.scale == pytest.approx(0.4)
    with pytest.raises(ValueError, match="2 shared rows"):
        aligning_frame(layout[:2], before[:2])


# -- islands ---------------------------------------------------------------------------------------------


def archipelago() -> tuple[np.ndarray, np.ndarray]:
    parts = [
        cloud(400, 0),
        cloud(60, 1, (30, 0, 0), 0.5),
        cloud(40, 2, (0, 80, 0), 0.5),
        cloud(20, 3, (5.2, 0, 0), 0.2),
    ]
    return np.concatenate(parts), np.repeat([0, 1, 2, 3], [400, 60, 40, 20])


def test_islands_are_found_largest_first() -> None:
    coords, truth = archipelago()
    found = find_islands(coords, 1.0)
    assert np.bincount(found)[:3].tolist()[0] >= 380
    for island in (1, 2):
        assert len(np.unique(found[truth == island])) <= 4 and not set(found[truth == island]) & set(found[truth == 0])


def test_far_islands_come_nearer_each_as_it_is() -> None:
    coords, islands = archipelago()
    moved, shifts = pull_in(coords, islands, nearest=1.0)
    np.testing.assert_array_equal(moved[islands == 0], coords[islands == 0])
    for island in (1, 2, 3):
        vector = (moved - coords)[islands == island]
        np.testing.assert_allclose(vector, vector[:1].repeat(len(vector), axis=0), atol=1e-9)
    assert {shift.rows for shift in shifts} == {60, 40, 20}
    for shift in shifts:
        assert shift.gap_before is not None and shift.gap_after is not None
        # what the rule promises, or a little more where the way was searched in steps
        assert 1.0 + np.log(shift.gap_before) <= shift.gap_after + 1e-6 <= 1.2 * (1.0 + np.log(shift.gap_before))
    assert np.linalg.norm(coords, axis=1).max() > 70 and np.linalg.norm(moved, axis=1).max() < 13


def test_an_island_that_is_kept_stays_unless_it_is_too_far_off() -> None:
    coords, islands = archipelago()
    moved, _ = pull_in(coords, islands, 1.0, np.array([True, True, True, False]), farthest=50.0)
    stays = (moved == coords).all(axis=1)
    assert stays[islands == 1].all() and not stays[islands == 2].any()


def test_an_island_that_was_there_before_goes_back_and_new_ones_do_not() -> None:
    coords, islands = archipelago()
    known = islands != 2
    places = np.where(known[:, None], coords, np.nan)
    drifted = coords + np.array([[0, 0, 0], [9, 4, 0], [1, 1, 1], [0, 0, 2]])[islands]
    back, shifts, kept = anchor(drifted, islands, known, places)
    np.testing.assert_allclose(back[known], coords[known], atol=1e-9)
    np.testing.assert_array_equal(back[islands == 2], drifted[islands == 2])
    assert kept.tolist() == [True, True, False, True] and len(shifts) == 3


# -- later maps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown() -> tuple[np.ndarray, np.ndarray, Map, Map, Map]:
    """Features, which of them are old, the map of the old ones, its later state with all, and a cold map of all."""
    rng = np.random.default_rng(4)
    # twelve sheets, bent by being brought to unit length: inside of one, places mean something
    sheet = np.arange(1_100) % 12
    inside = rng.uniform(-1, 1, (1_100, 2))
    values = rng.normal(size=(12, 24))[sheet] + np.einsum("ni,nij->nj", inside, rng.normal(size=(12, 2, 24))[sheet])
    features = unit((values + 0.02 * rng.normal(size=values.shape)).astype(np.float32))
    old = np.arange(1_100) % 11 != 5
    first = make_map(backend.UmapLearn(), features[old], "cosine", SETTINGS)
    places = np.full((1_100, 3), np.nan, np.float32)
    # the release is turned: a cold fit would not find it
    before = first.coords @ rotation(9).astype(np.float32)
    places[old] = before
    later = make_map(backend.UmapLearn(), features, "cosine", SETTINGS, Shared("release-00004", old, places, before))
    cold = make_map(backend.UmapLearn(), features, "cosine", SETTINGS)
    return features, old, Map(before, first.transformation), later, cold


def test_a_tenth_more_rows_leaves_the_map_where_it_was(grown: tuple[np.ndarray, np.ndarray, Map, Map, Map]) -> None:
    _, old, before, later, cold = grown
    assert later.drift is not None and later.floor is not None
    assert later.drift.median <= 0.03
    # infra/bench/fit.py --drift holds real maps against 1.5
    assert later.drift.median <= 2.0 * later.floor.median
    assert later.floor.median > 0 and later.drift.churn is not None and later.drift.churn < 0.6
    assert later.transformation.onto == "release-00004"
    assert measure_drift(before.coords, before.coords, cold.coords[old]).median > 5 * later.drift.median
    assert cold.drift is cold.floor is None


def test_and_costs_no_quality(grown: tuple[np.ndarray, np.ndarray, Map, Map, Map]) -> None:
    features, old, _, later, cold = grown
    warm, fresh = (measure(features, found.coords, "cosine") for found in (later, cold))
    for name, slack in (("trustworthiness", 0.005), ("continuity", 0.005), ("recall", 0.02), ("triplets", 0.03)):
        assert getattr(warm, name) >= getattr(fresh, name) - slack, name
    # new rows among their own
    nearest = np.linalg.norm(later.coords[~old][:, None] - later.coords[old][None], axis=2).argmin(axis=1)
    assert (np.flatnonzero(old)[nearest] % 12 == np.flatnonzero(~old) % 12).mean() > 0.95


def test_a_release_of_other_rows_is_not_continued() -> None:
    features, _ = synthetic.clip_vectors(300)
    known = np.arange(300) < 15
    shared = Shared("release-00001", known, np.zeros((300, 3), np.float32), np.zeros((15, 3), np.float32))
    found = make_map(backend.UmapLearn(), features, "cosine", SETTINGS.model_copy(update={"n_epochs": 30}), shared)
    assert found.transformation.onto is None and found.drift is None


def test_the_natural_scale_of_a_layout_is_one() -> None:
    features, _ = synthetic.clip_vectors(600)
    prepared = backend.UmapLearn().prepare(features, "cosine", SETTINGS)
    layout = prepared.layout(backend.first_start(features, 1), 1)
    assert natural_scale(prepared.graph, layout, 0.1) == pytest.approx(1.0, abs=0.25)
    assert natural_scale(prepared.graph, layout * 7.0, 0.1) == pytest.approx(1 / 7, rel=0.25)


def test_churn_counts_neighbours_that_are_others() -> None:
    line = np.stack([np.arange(400.0), np.zeros(400), np.zeros(400)], axis=1)
    assert churn_between(line, line * 3.0) == 0.0
    assert churn_between(line, np.random.default_rng(0).permutation(line)) == pytest.approx(1 - 15 / 399, abs=0.02)
    assert churn_between(line[:2], line[:2]) is None
