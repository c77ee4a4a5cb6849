"""Placement: the paper's weights, a place that depends on the row alone, honest spread and distance."""

import numpy as np
import pytest

from latent_assets.errors import DataError
from latent_assets.projection.neighbors import unit
from latent_assets.projection.placement import Placer, membership
from latent_assets.projection.uncertainty import halves, interpolate
from latent_assets_tests.projection import synthetic


@pytest.fixture(scope="module")
def placer() -> Placer:
    features, _ = synthetic.clip_vectors(400)
    coords = np.random.default_rng(3).normal(size=(400, 3)).astype(np.float32)
    return Placer(features, coords, "cosine", 15)


def test_membership_is_that_of_umap_learn() -> None:
    """The independent judge: umap-learn's own smooth kNN distances on the same neighbours."""
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    rng = np.random.default_rng(0)
    distances = np.sort(rng.gamma(2.0, size=(50, 15)), axis=1)
    with_self = np.hstack([np.zeros((50, 1)), distances]).astype(np.float32)
    sigmas, rhos = smooth_knn_dist(with_self, 15.0)
    indices = np.hstack([np.full((50, 1), 99), np.tile(np.arange(100, 115), (50, 1))]).astype(np.int32)
    _, _, expected, _ = compute_membership_strengths(indices, with_self, sigmas, rhos)
    np.testing.assert_allclose(membership(distances), expected.reshape(50, 16)[:, 1:], atol=2e-4)


def test_membership_sums_to_log2_of_k_and_nearest_is_certain() -> None:
    distances = np.sort(np.random.default_rng(1).uniform(0.1, 1.0, size=(30, 15)), axis=1)
    weights = membership(distances)
    np.testing.assert_allclose(weights.sum(axis=1), np.log2(15), atol=1e-4)
    assert (weights[:, 0] == 1.0).all()
    assert (np.diff(weights, axis=1) <= 0).all()


def test_membership_of_degenerate_distances_is_finite() -> None:
    weights = membership(np.array([[0.0] * 5, [0.3] * 5, [0.0, 0.0, 1e-30, 1e30, 1e30], [7.0, 7.0, 7.0, 7.0, 8.0]]))
    assert np.isfinite(weights).all() and (weights > 0).any(axis=1).all()


def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_another_order(placer: Placer) -> None:
    rows, _ = synthetic.clip_vectors(150, seed=9)
    # rows that coincide with fitted ones, and rows that coincide with each other
    fitted, _ = synthetic.clip_vectors(400)
    rows = np.concatenate([rows, fitted[:20], rows[:5]])
    together = placer.place(rows)
    order = np.random.default_rng(4).permutation(len(rows))
    shuffled = placer.place(rows[order])
    for name in ("coords", "spread", "jitter", "trust", "distance"):
        whole = getattr(together, name)
        alone = np.concatenate([getattr(placer.place(rows[i : i + 1]), name) for i in range(len(rows))])
        batched = np.concatenate([getattr(placer.place(rows[i : i + 64]), name) for i in range(0, len(rows), 64)])
        assert alone.tobytes() == whole.tobytes(), name
        assert batched.tobytes() == whole.tobytes(), name
        assert getattr(shuffled, name).tobytes() == whole[order].tobytes(), name


def test_equal_rows_share_the_place_of_their_fitted_twins() -> None:
    features = np.array([[1, 0], [0, 1], [0, 1], [-1, 0]], np.float32)
    coords = np.array([[0, 0, 0], [4, 0, 0], [6, 2, 0], [9, 9, 9]], np.float32)
    placed = Placer(features, coords, "euclidean", 4).place(features[:2])
    np.testing.assert_array_equal(placed.coords, [[0, 0, 0], [5, 1, 0]])
    np.testing.assert_allclose(placed.spread, [0.0, np.sqrt(2.0)], rtol=1e-6)
    np.testing.assert_array_equal(placed.distance, [0.0, 0.0])


def test_place_is_the_weighted_mean_and_spread_its_deviation(placer: Placer) -> None:
    row = synthetic.clip_vectors(1, seed=21)[0]
    features, _ = synthetic.clip_vectors(400)
    coords = np.random.default_rng(3).normal(size=(400, 3)).astype(np.float32)
    distances = 1.0 - features.astype(np.float64) @ row[0].astype(np.float64)
    nearest = np.argsort(distances)[:15]
    weights = membership(distances[nearest][None])[0]
    mean = np.average(coords[nearest], axis=0, weights=weights)
    spread = np.sqrt(np.average(((coords[nearest] - mean) ** 2).sum(axis=1), weights=weights))
    placed = placer.place(row)
    np.testing.assert_allclose(placed.coords[0], mean, atol=1e-4)
    np.testing.assert_allclose(placed.spread[0], spread, atol=1e-4)
    np.testing.assert_allclose(placed.distance[0], distances.min(), atol=1e-6)
    assert set(placed.neighbors[0]) == set(nearest)


def test_jitter_is_the_standard_error_of_the_place() -> None:
    """Neighbours with equal weights whose places are drawn at random: the error of their mean is known."""
    rng = np.random.default_rng(11)
    distances, sigma, k = np.ones((2_000, 45)), 2.0, 45
    around = rng.normal(scale=sigma, size=(2_000, k, 3))
    coords, spread, jitter = np.empty((2_000, 3)), np.empty(2_000), np.empty(2_000)
    weights = membership(distances) / membership(distances).sum(axis=1, keepdims=True)
    interpolate(weights, around, halves(k), coords, spread, jitter)
    np.testing.assert_allclose(coords, around.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(spread, np.sqrt(around.var(axis=1).sum(axis=1)), rtol=1e-12)
    actual = np.sqrt((coords**2).sum(axis=1).mean())  # the true mean is 0
    np.testing.assert_allclose(np.sqrt((jitter**2).mean()), actual, rtol=0.05)


def test_jitter_is_large_between_two_islands_and_small_on_one() -> None:
    features, labels = synthetic.clip_vectors(300, clusters=2)
    coords = np.where(labels[:, None] == 0, -20.0, 20.0) + np.random.default_rng(1).normal(size=(300, 3)) * 0.1
    placer = Placer(features, coords.astype(np.float32), "cosine", 15)
    centres = [features[labels == label].mean(axis=0) for label in (0, 1)]
    placed = placer.place(unit(np.stack([centres[0], (centres[0] + centres[1]) / 2])))
    assert placed.jitter[0] < 0.1 and placed.spread[0] < 0.5
    assert placed.jitter[1] > 2.0 and placed.spread[1] > 10.0


def test_trust_tells_whether_what_is_drawn_around_a_place_is_near() -> None:
    features, labels = synthetic.clip_vectors(900)
    rng = np.random.default_rng(2)
    centres = 20.0 * rng.normal(size=(6, 3))
    fitted, rows, typical = features[:600], features[600:], 2.0 * np.var(features[:600], axis=0, dtype=np.float64).sum()
    honest, scattered = centres[labels[:600]] + rng.normal(size=(600, 3)), rng.normal(size=(600, 3))
    medians = []
    for coords in (honest, scattered):
        placed = Placer(fitted, coords.astype(np.float32), "cosine", 15).place(rows)
        squares = 2.0 - 2.0 * rows.astype(np.float64) @ fitted.T.astype(np.float64)
        on_map = np.linalg.norm(placed.coords[:, None] - coords[None], axis=2).argsort(axis=1)[:, :15]
        nearest = np.sort(squares, axis=1)[:, :15].mean(axis=1)
        drawn = np.take_along_axis(squares, on_map, axis=1).mean(axis=1)
        expected = np.clip((typical - drawn) / (typical - nearest), 0.0, 1.0)
        # a tie on the map, or its rounding, may change one of fifteen
        assert (np.abs(placed.trust - expected) < 1e-4).mean() > 0.98
        medians.append(float(np.median(placed.trust)))
    assert medians[0] > 0.7 > 0.5 > medians[1]


def test_what_is_near_to_nothing_is_not_trusted() -> None:
    features = synthetic.clip_vectors(300)[0]
    coords = np.random.default_rng(3).normal(size=(300, 3)).astype(np.float32)
    assert (Placer(features, coords, "euclidean", 15).place(100.0 + np.ones((2, 32), np.float32)).trust == 0.0).all()


def test_held_out_rows_land_in_their_own_cluster() -> None:
    features, labels = synthetic.clip_vectors(600)
    centres = 10.0 * np.random.default_rng(5).normal(size=(6, 3))
    coords = centres[labels] + np.random.default_rng(6).normal(size=(600, 3)) * 0.1
    placed = Placer(features[:400], coords[:400].astype(np.float32), "cosine", 15).place(features[400:])
    nearest = np.linalg.norm(placed.coords[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == labels[400:]).mean() == 1.0


def test_fewer_fitted_rows_than_neighbours() -> None:
    placed = Placer(np.ones((1, 4), np.float32), np.full((1, 3), 2.0), "euclidean", 15).place(
        np.zeros((2, 4), np.float32)
    )
    np.testing.assert_array_equal(placed.coords, np.full((2, 3), 2.0))
    np.testing.assert_array_equal(placed.distance, [2.0, 2.0])


def test_no_rows_no_places_no_model(placer: Placer) -> None:
    assert placer.place(np.zeros((0, 32), np.float32)).coords.shape == (0, 3)
    with pytest.raises(ValueError, match="nothing was fitted"):
        Placer(np.zeros((0, 4), np.float32), np.zeros((0, 3)), "cosine", 15)


def test_nan_is_refused_with_its_position(placer: Placer) -> None:
    rows = unit(np.random.default_rng(7).normal(size=(3, 32)))
    rows[1, 4] = np.nan
    with pytest.raises(DataError, match="1 rows cannot be placed, the first at position 1"):
        placer.place(rows)
