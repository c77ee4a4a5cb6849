"""The quality figures, against ZADU, scikit-learn and their definitions, and on maps whose figures are known."""

import numpy as np
import pytest

from latent_assets.projection.neighbors import unit
from latent_assets.projection.quality import measure, neighbor_recall


def test_a_perfect_map_scores_one() -> None:
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    quality = measure(points, points * 2.5 + 1.0, "euclidean")
    assert quality.trustworthiness == quality.continuity == 1.0
    assert quality.recall == pytest.approx(1.0, abs=1e-3) and quality.triplets == pytest.approx(1.0, abs=1e-3)
    assert (quality.neighbors, quality.probe_rows, quality.reference_rows) == (15, 300, 300)


def test_a_random_map_scores_as_chance() -> None:
    rng = np.random.default_rng(1)
    quality = measure(rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(600, 3)), "euclidean")
    assert quality.trustworthiness == pytest.approx(0.5, abs=0.05)
    assert quality.continuity == pytest.approx(0.5, abs=0.05)
    assert quality.recall == pytest.approx(15 / 600, abs=0.01)
    assert quality.triplets == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_trustworthiness_and_continuity_are_scikit_learns(metric: str) -> None:
    from sklearn.manifold import trustworthiness

    rng = np.random.default_rng(2)
    points = rng.normal(size=(400, 10)).astype(np.float32)
    points = unit(points) if metric == "cosine" else points
    coords = (points[:, :3] + 0.2 * rng.normal(size=(400, 3))).astype(np.float32)
    quality = measure(points, coords, "cosine" if metric == "cosine" else "euclidean")
    assert quality.trustworthiness == pytest.approx(trustworthiness(points, coords, n_neighbors=15, metric=metric))
    # continuity is trustworthiness with the roles exchanged
    assert quality.continuity == pytest.approx(trustworthiness(coords, points, n_neighbors=15), abs=2e-3)


def blurred(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, 10)).astype(np.float32)
    return points, (points[:, :3] + 0.3 * rng.normal(size=(rows, 3))).astype(np.float32)


def test_neighbourhood_figures_are_those_of_zadu() -> None:
    from zadu.measures import local_continuity_meta_criteria, trustworthiness_continuity

    points, coords = blurred(500, 8)
    quality = measure(points, coords, "euclidean")
    for k, trust, continuity in (
        (15, quality.trustworthiness, quality.continuity),
        (50, quality.trustworthiness_50, quality.continuity_50),
    ):
        judged = trustworthiness_continuity.measure(points.astype(float), coords.astype(float), k=k)
        assert trust == pytest.approx(judged["trustworthiness"], abs=1e-4)
        assert continuity == pytest.approx(judged["continuity"], abs=1e-4)
    # the local continuity meta-criterion is recall less what chance gives: k / (n - 1)
    lcmc = local_continuity_meta_criteria.measure(points.astype(float), coords.astype(float), k=15)["lcmc"]
    assert quality.recall == pytest.approx(lcmc + 15 / 499, abs=1e-4)


def test_triplets_are_those_of_all_triplets() -> None:
    points, coords = blurred(60, 9)
    apart = [np.linalg.norm(values[:, None] - values[None], axis=2) for values in (points, coords)]
    nearer = [np.sign(distance[:, :, None] - distance[:, None, :]) for distance in apart]
    a, b, c = np.meshgrid(*[np.arange(60)] * 3, indexing="ij")
    distinct = (a != b) & (b != c) & (a != c)
    truth = (nearer[0] == nearer[1])[distinct].mean()
    found = [measure(points, coords, "euclidean", seed=seed).triplets for seed in range(20)]
    assert np.mean([value for value in found if value is not None]) == pytest.approx(truth, abs=0.01)


def test_far_outliers_are_the_share_of_rows_beyond_four_radii() -> None:
    rng = np.random.default_rng(10)
    coords = rng.normal(size=(1_000, 3)).astype(np.float32)
    assert measure(coords, coords, "euclidean").far_outliers == 0.0
    coords[:30] += [40, 0, 0]
    assert measure(coords, coords, "euclidean").far_outliers == pytest.approx(0.03)


def test_some_rows_are_measured_among_all() -> None:
    """Only the rows that were placed are judged; rows that lie well beside them do not make them better."""
    points, coords = blurred(3_000, 11)
    coords[:1_500] = points[:1_500, :3]
    rng = np.random.default_rng(12)
    coords[2_900:] = rng.normal(size=(100, 3))
    bad = measure(points, coords, "euclidean", probes=np.arange(3_000) >= 2_900)
    assert (bad.probe_rows, bad.reference_rows) == (100, 3_000)
    whole = measure(points, coords, "euclidean")
    assert bad.trustworthiness is not None and bad.trustworthiness < 0.6
    assert whole.trustworthiness is not None and whole.trustworthiness > 0.68


def test_large_maps_are_measured_on_a_fixed_probe_set() -> None:
    points = np.random.default_rng(3).normal(size=(12_000, 4)).astype(np.float32)
    first, second = (measure(points, points[:, :3].copy(), "euclidean") for _ in range(2))
    assert first == second
    assert (first.probe_rows, first.reference_rows) == (2_000, 10_000)
    assert first.recall is not None and 0.1 < first.recall < 0.9


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_rows_have_no_figures(rows: int) -> None:
    quality = measure(np.ones((rows, 4), np.float32), np.ones((rows, 3), np.float32), "euclidean")
    assert quality.trustworthiness is quality.continuity is quality.recall is quality.triplets is None


def test_few_rows_use_fewer_neighbours() -> None:
    points = np.random.default_rng(4).normal(size=(9, 3)).astype(np.float32)
    quality = measure(points, points, "euclidean")
    assert quality.neighbors == 4 and quality.trustworthiness == 1.0


def test_neighbor_recall_counts_kept_neighbours() -> None:
    full = np.random.default_rng(5).normal(size=(200, 6)).astype(np.float32)
    assert neighbor_recall(full, full * 3.0) == 1.0
    assert neighbor_recall(full, np.random.default_rng(6).normal(size=(200, 6))) < 0.2
    # on a line the two neighbours of a row are its adjacent ones; reversing a line keeps them
    line = np.arange(20, dtype=np.float32)[:, None]
    assert neighbor_recall(line, -line, k=2) == 1.0
    assert neighbor_recall(line[:1], line[:1]) == 1.0
