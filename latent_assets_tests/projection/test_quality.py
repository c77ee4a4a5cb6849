"""The quality figures, against scikit-learn's definition and against maps whose figures are known."""

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
