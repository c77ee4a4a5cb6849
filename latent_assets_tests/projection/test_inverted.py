"""The inverted file: what exact search finds, found again; the same bits in any company, on any number of threads."""

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from latent_assets.projection import distances
from latent_assets.projection.distances import Part, Points, unit
from latent_assets.projection.index import EXACT_ROWS, make_index
from latent_assets.projection.inverted import InvertedIndex, exact_neighbors
from latent_assets.projection.neighbors import ExactIndex
from latent_assets.spaces import Metric
from latent_assets_tests.projection import synthetic

ROWS = 6_000


def indexed() -> np.ndarray:
    """The points; some are equal, more than are asked for."""
    found = synthetic.curved_vectors(ROWS, 0)
    found[1000:1040] = found[1000]
    return found


def asked(points: np.ndarray) -> np.ndarray:
    """Queries: new ones, points, equal ones."""
    return np.concatenate([synthetic.curved_vectors(300, 1), points[990:1050]])


def sums(index: InvertedIndex, queries: np.ndarray) -> list[str]:
    """Hashes of what is stored of an index and of what it finds."""
    found = index.search(queries, 15)
    parts = [index.file.codes, index.file.order, index.file.centroids, found.indices, found.distances]
    return [sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in parts]


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return indexed()


@pytest.fixture(scope="module")
def index(points: np.ndarray) -> InvertedIndex:
    return InvertedIndex.build(points, "euclidean")


@pytest.fixture(scope="module")
def queries(points: np.ndarray) -> np.ndarray:
    return asked(points)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_finds_what_exact_search_finds_with_its_distances(metric: Metric, points: np.ndarray) -> None:
    new = synthetic.curved_vectors(300, 1)
    if metric == "cosine":
        points, new = unit(points), unit(new)
    found, true = InvertedIndex.build(points, metric).search(new, 15), ExactIndex(points, metric).search(new, 15)
    recall = (true.indices[:, :, None] == found.indices[:, None, :]).any(axis=2).mean()
    assert recall >= 0.99
    same = (true.indices == found.indices).all(axis=1)
    assert same.mean() > 0.9
    assert found.distances[same].tobytes() == true.distances[same].tobytes()


def test_says_how_much_it_finds_and_tries_harder_where_that_is_too_little(
    index: InvertedIndex, points: np.ndarray
) -> None:
    assert index.file.recall >= 0.999 and index.file.probe_queries == 256
    rows = np.arange(0, ROWS, 7)
    true = ExactIndex(points, "euclidean").search(points[rows], 15, rows).indices
    found = index.search(points[rows], 15, rows).indices
    assert abs((true[:, :, None] == found[:, None, :]).any(axis=2).mean() - index.file.recall) < 0.005
    # without any structure every list is as near as another
    noise = np.random.default_rng(5).normal(size=(ROWS, 40)).astype(np.float32)
    harder = InvertedIndex.build(noise, "euclidean").file
    assert harder.probes > index.file.probes and harder.compared > index.file.compared


def test_a_query_has_the_same_bits_alone_in_company_and_on_other_numbers_of_threads(
    index: InvertedIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = index.search(queries, 15)
    for size in (1, 7, 100):
        parts = [index.search(queries[i : i + size], 15) for i in range(0, len(queries), size)]
        assert np.concatenate([part.distances for part in parts]).tobytes() == together.distances.tobytes()
        assert np.concatenate([part.indices for part in parts]).tobytes() == together.indices.tobytes()
    backwards = index.search(queries[::-1], 15)
    assert backwards.indices[::-1].tobytes() == together.indices.tobytes()
    for cores in (1, 3, 8):
        monkeypatch.setattr(distances, "usable_cores", lambda cores=cores: cores)
        again = index.search(queries, 15)
        assert again.indices.tobytes() == together.indices.tobytes()
        assert again.distances.tobytes() == together.distances.tobytes()


def test_another_process_builds_the_same_index_and_finds_the_same(index: InvertedIndex, queries: np.ndarray) -> None:
    script = """
import os
from latent_assets_tests.projection.test_inverted import asked, indexed, sums
from latent_assets.projection.inverted import InvertedIndex
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
index = InvertedIndex.build(indexed(), "euclidean")
print(sums(index, asked(indexed())))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=synthetic.REPOSITORY)
    assert done.stdout.strip() == str(sums(index, queries))


def test_equal_points_come_in_the_order_of_their_index(index: InvertedIndex, points: np.ndarray) -> None:
    found = index.search(points[1000:1001], 15)
    assert found.indices.tolist() == [list(range(1000, 1015))]
    assert (found.distances == 0.0).all()
    assert index.search(points[1000:1001], 15, np.array([1003])).indices.tolist() == [
        [row for row in range(1000, 1016) if row != 1003]
    ]


def test_more_neighbours_than_its_lists_hold(points: np.ndarray, index: InvertedIndex) -> None:
    few = points[:120]
    found = InvertedIndex.build(few, "euclidean").search(points[200:230], 119)
    np.testing.assert_array_equal(found.indices, ExactIndex(few, "euclidean").search(points[200:230], 119).indices)
    all_others = index.search(points[:2], ROWS - 1, np.array([0, 1]))
    assert [sorted(row) for row in all_others.indices.tolist()] == [
        [row for row in range(ROWS) if row != out] for out in (0, 1)
    ]
    with pytest.raises(ValueError, match=f"between 1 and {ROWS - 1}"):
        index.search(points[:1], ROWS, np.array([0]))


def test_points_without_extent() -> None:
    found = InvertedIndex.build(np.ones((50, 3), np.float32), "euclidean").search(np.ones((2, 3), np.float32), 4)
    assert found.indices.tolist() == [[0, 1, 2, 3]] * 2


def test_parts_of_half_precision_compare_as_their_features_do() -> None:
    """What lies side by side in a file as float16 gives the bits of the float32 features made from it."""
    rng = np.random.default_rng(8)
    left = rng.normal(size=(200, 21)).astype(np.float16)
    left[3] = 0.0
    left[4] = np.float16(6e-8)  # subnormal
    right = (100 * rng.normal(size=(200, 16))).astype(np.float16)
    points = Points([Part(left, unit=True, scale=0.7), Part(right, scale=1.3)])
    features = np.hstack([unit(left) * np.float32(0.7), right.astype(np.float32) * np.float32(1.3)])
    assert points.rows(slice(None)).tobytes() == features.tobytes()
    row, column = np.repeat(np.arange(50), 200), np.tile(np.arange(200), 50)
    squares = points.squared_distances(features[:50], row, column)
    expected = ((features[:50, None].astype(np.float64) - features[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squares.reshape(50, 200), expected, rtol=1e-12)
    assert (squares[row == column] == 0.0).all()


def test_exact_search_by_chunks_is_exact_search(points: np.ndarray, queries: np.ndarray) -> None:
    many = np.concatenate([points, points[::-1] + np.float32(1e-3), points])
    rows = np.arange(0, len(many), 701)
    found = exact_neighbors(Points.of(many), many[rows], 20, "euclidean", rows)
    true = ExactIndex(many, "euclidean").search(many[rows], 20, rows)
    assert found.indices.tobytes() == true.indices.tobytes()
    assert found.distances.tobytes() == true.distances.tobytes()


def test_the_number_of_points_decides_which_index_serves(points: np.ndarray) -> None:
    assert isinstance(make_index(points, "cosine"), ExactIndex)
    many = np.tile(points, (EXACT_ROWS // ROWS + 1, 1))
    assert isinstance(make_index(many, "cosine"), InvertedIndex)
