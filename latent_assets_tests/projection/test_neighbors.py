"""Exact neighbours: right, ordered, and independent of how queries are batched."""

import numpy as np
import pytest

from latent_assets.projection.neighbors import ExactIndex, Metric, self_neighbors, unit


def brute_force(points: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The plain definition in float64, ties by index."""
    points, queries = points.astype(np.float64), queries.astype(np.float64)
    distances = np.linalg.norm(queries[:, None] - points[None], axis=2)
    if metric == "cosine":
        distances = 1 - (queries @ points.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(points, axis=1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_finds_what_brute_force_finds(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    points, queries = (rng.normal(size=(n, 24)).astype(np.float32) for n in (500, 40))
    if metric == "cosine":
        points, queries = unit(points), unit(queries)
    indices, distances = brute_force(points, queries, 10, metric)
    found = ExactIndex(points, metric).search(queries, 10)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, atol=1e-7)


def test_resolves_differences_that_the_float32_product_loses() -> None:
    """Far from the origin |x|^2 - 2xy + |y|^2 cancels: the order must still be that of the true distances."""
    rng = np.random.default_rng(1)
    points = (1000.0 + rng.normal(size=(300, 16)) * 1e-3).astype(np.float32)
    indices, _ = brute_force(points, points[:20], 7, "euclidean")
    np.testing.assert_array_equal(ExactIndex(points, "euclidean").search(points[:20], 7).indices, indices)


def test_equal_points_are_ordered_by_index() -> None:
    points = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    found = ExactIndex(points, "euclidean").search(points[:1], 5)
    assert found.indices.tolist() == [[0, 1, 2, 3, 4]]
    assert found.distances.tolist() == [[0.0] * 5]


def test_answer_does_not_depend_on_the_batch() -> None:
    """Many ties and near ties at the k-th place, asked alone, in odd batches and in another order."""
    rng = np.random.default_rng(2)
    points = unit(np.repeat(rng.normal(size=(40, 33)), 9, axis=0) + np.tile(rng.normal(size=(9, 33)) * 1e-7, (40, 1)))
    queries = points[rng.permutation(len(points))[:130]]
    index = ExactIndex(points, "cosine")
    together = index.search(queries, 12)
    for size in (1, 7, 64):
        parts = [index.search(queries[i : i + size], 12) for i in range(0, len(queries), size)]
        assert np.concatenate([part.distances for part in parts]).tobytes() == together.distances.tobytes()
        assert np.concatenate([part.indices for part in parts]).tobytes() == together.indices.tobytes()
    backwards = index.search(queries[::-1], 12)
    assert backwards.indices[::-1].tobytes() == together.indices.tobytes()


def test_self_neighbors_leaves_the_row_itself_out_even_among_equals() -> None:
    points = np.ones((6, 3), np.float32)
    found = self_neighbors(points, 5, "euclidean").indices
    for row, neighbours in enumerate(found):
        assert sorted(neighbours) == [i for i in range(6) if i != row]


@pytest.mark.parametrize("k", [0, 4])
def test_refuses_more_neighbours_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k}: between 1 and 3"):
        ExactIndex(np.eye(4, dtype=np.float32), "euclidean").search(np.eye(4, dtype=np.float32), k, np.arange(4))


def test_unit_keeps_zero_vectors() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float16))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
