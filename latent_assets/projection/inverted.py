"""An inverted file: nearest neighbours among many points without looking at all of them.

Points are turned onto their principal axes, kept as one byte an axis, and listed by the nearest of some centroids. A
query looks through the lists of its nearest centroids, by codes; what is nearest there is compared exactly, by the
whole vectors. How often the true neighbours are among them is measured when the index is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from threadpoolctl import threadpool_limits

from latent_assets.processes import usable_cores
from latent_assets.projection.candidates import find_candidates
from latent_assets.projection.distances import Points, in_threads
from latent_assets.projection.neighbors import ExactIndex, Neighbors, check_k, nearest_of
from latent_assets.spaces import Metric

_CODE_DIMS = 256
_COARSE_DIMS = 128
_CODE_LEVELS = 127
_POINTS_OF_A_LIST = 40  # that centroids are made from
_ROUNDS = 8
_AXES_ROWS = 50_000
_CHUNK_ROWS = 8_192  # points worked on at once while the index is made
_CHUNK_QUERIES = 1_024
_PROBE_QUERIES = 256
_NEIGHBORS = 15
_RECALL = 0.999
_PROBES = (16, 32, 64, 128)  # lists a query looks through
_COMPARED = (96, 192, 384, 768)  # points it compares exactly


@dataclass(frozen=True)
class InvertedFile:
    """What is stored of an index over n points in d dimensions; p axes, c lists.

    mean float32 [d], rotation float32 [d, p]: onto the principal axes. steps float32 [p]: value of one level of a code.
    centroids float32 [q, c], on the first q axes; squares float32 [c]. starts int64 [c + 1]: where each list begins.
    order int32 [n]: points, list by list, ascending in each; codes int8 [n, p] and bias float32 [n] (squared length
    without the mean) in that order.
    probes, compared: lists a query looks through, points it compares exactly.
    recall: share of the 15 nearest that are found so, over `probe_queries` of the points themselves, each left out.
    """

    mean: np.ndarray
    rotation: np.ndarray
    steps: np.ndarray
    centroids: np.ndarray
    squares: np.ndarray
    starts: np.ndarray
    order: np.ndarray
    codes: np.ndarray
    bias: np.ndarray
    probes: int
    compared: int
    recall: float
    probe_queries: int


class InvertedIndex:
    """Search over `points` by an inverted file; the interface of `neighbors.ExactIndex`.

    Deterministic: a query has the same answer alone, in a batch, and on any number of threads. Distances and their
    order are those of `ExactIndex`; a neighbour can be missed.
    """

    def __init__(self, points: Points, metric: Metric, file: InvertedFile) -> None:
        self.points, self.metric, self.file = points, metric, file

    @classmethod
    def build(cls, points: Points | np.ndarray, metric: Metric, seed: int = 0) -> InvertedIndex:
        """Index `points` [n, d]; the same points and seed give the same index on one kind of machine.

        The effort of a search is the least that finds 99.9 % of the 15 nearest neighbours of 256 points, drawn by seed:
        first the lists, then the exact comparisons; the highest where none does. `file.recall` says what was reached.
        """
        held = Points.of(points)
        rng = np.random.default_rng(seed)
        with threadpool_limits(1, user_api="blas"):  # the same bits on any number of cores
            index = cls(held, metric, _file(held, rng))
            return index._tuned(rng)

    def __len__(self) -> int:
        return len(self.points)

    def search(self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None) -> Neighbors:
        """As `ExactIndex.search`, but for the neighbours that are missed."""
        check_k(k, len(self), exclude)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        left_out = np.full(len(queries), -1) if exclude is None else np.asarray(exclude, np.int64)
        compared = min(max(self.file.compared, 4 * k), len(self) - (exclude is not None))
        indices, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float64)

        def search(rows: slice) -> None:
            for start in range(rows.start, rows.stop, _CHUNK_QUERIES):
                part = slice(start, min(start + _CHUNK_QUERIES, rows.stop))
                column = self._candidates(queries[part], left_out[part], compared)
                row = np.repeat(np.arange(len(column)), compared)
                indices[part], distances[part] = nearest_of(
                    self.points, queries[part], row, column.reshape(-1), k, self.metric
                )

        in_threads(search, len(queries))
        return Neighbors(indices, distances)

    def _candidates(self, queries: np.ndarray, exclude: np.ndarray, compared: int) -> np.ndarray:
        file = self.file
        out = np.empty((len(queries), compared), np.int64)
        find_candidates(
            queries, exclude, file.mean, file.rotation, file.steps, file.centroids, file.squares, file.starts,
            file.order, file.codes, file.bias, file.probes, out,
        )  # fmt: skip
        return out

    def _tuned(self, rng: np.random.Generator) -> InvertedIndex:
        """This index with the least effort that finds enough, and the recall that it has then."""
        count, k = min(_PROBE_QUERIES, len(self)), min(_NEIGHBORS, len(self) - 1)
        if k < 1:
            return self
        probes = np.sort(rng.choice(len(self), count, replace=False))
        queries = self.points.rows(probes)
        true = exact_neighbors(self.points, queries, k, self.metric, probes).indices

        def recall(file: InvertedFile) -> float:
            found = InvertedIndex(self.points, self.metric, file).search(queries, k, probes).indices
            return float((true[:, :, None] == found[:, None, :]).any(axis=2).mean())

        def least(efforts: Iterable[InvertedFile]) -> InvertedFile:
            tried = self.file
            for file in efforts:
                tried = replace(file, recall=recall(file), probe_queries=count)
                if tried.recall >= _RECALL:
                    break
            return tried

        file = least(replace(self.file, probes=lists) for lists in _PROBES)
        file = least(replace(file, compared=compared) for compared in _COMPARED)
        return InvertedIndex(self.points, self.metric, file)


def exact_neighbors(
    points: Points, queries: np.ndarray, k: int, metric: Metric, exclude: np.ndarray | None = None
) -> Neighbors:
    """The `k` nearest of all `points` to each query, without a float32 copy of all of them: chunk by chunk."""
    best: Neighbors | None = None
    # the exact index asks that k points remain in each chunk
    step = max(_CHUNK_ROWS, k + 1)
    bounds = [*range(0, max(1, len(points) - step + 1), step), len(points)]
    for start, stop in pairwise(bounds):
        index = ExactIndex(points.rows(slice(start, stop)), metric)
        asked = k if exclude is None else min(k + 1, stop - start)
        found = index.search(queries, min(asked, stop - start))
        indices, distances = found.indices + start, found.distances
        if exclude is not None:
            distances = np.where(indices == exclude[:, None], np.inf, distances)
        if best is not None:
            indices, distances = np.hstack([best.indices, indices]), np.hstack([best.distances, distances])
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        best = Neighbors(np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1))
    assert best is not None
    return best


# -- making it -----------------------------------------------------------------------------------------


def _file(points: Points, rng: np.random.Generator) -> InvertedFile:
    mean, rotation = _axes(points, rng)
    rotated = np.empty((len(points), rotation.shape[1]), np.float32)
    bias = np.empty(len(points), np.float32)
    largest = np.zeros((-(-len(points) // _CHUNK_ROWS), rotation.shape[1]), np.float32)

    def rotate(rows: slice) -> None:
        centred = points.rows(rows) - mean
        rotated[rows] = centred @ rotation
        bias[rows] = np.einsum("ij,ij->i", centred, centred)
        largest[rows.start // _CHUNK_ROWS] = np.abs(rotated[rows]).max(axis=0)

    _in_chunks(rotate, len(points))
    steps = np.maximum(largest.max(axis=0) / _CODE_LEVELS, np.float32(1e-30))
    centroids = _centroids(rotated[:, :_COARSE_DIMS], rng)
    squares = np.einsum("ij,ij->i", centroids, centroids)
    lists = np.empty(len(points), np.int32)
    codes = np.empty(rotated.shape, np.int8)

    def assign(rows: slice) -> None:
        lists[rows] = _nearest(rotated[rows, :_COARSE_DIMS], centroids, squares)
        codes[rows] = np.rint(rotated[rows] / steps)

    _in_chunks(assign, len(points))
    order = np.argsort(lists, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=len(centroids)))]).astype(np.int64)
    return InvertedFile(
        mean=mean,
        rotation=rotation,
        steps=steps,
        centroids=np.ascontiguousarray(centroids.T),
        squares=squares,
        starts=starts,
        order=order,
        codes=codes[order],
        bias=bias[order],
        probes=_PROBES[-1],
        compared=_COMPARED[-1],
        recall=1.0,
        probe_queries=0,
    )


def _axes(points: Points, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean float32 [d] and principal axes float32 [d, p] of a sample, the widest first."""
    sample = points.rows(_drawn(len(points), _AXES_ROWS, rng)).astype(np.float64)
    mean = sample.mean(axis=0)
    sample -= mean
    _, axes = np.linalg.eigh(sample.T @ sample)
    widest = axes[:, ::-1][:, :_CODE_DIMS]
    return mean.astype(np.float32), np.ascontiguousarray(widest, dtype=np.float32)


def _centroids(rotated: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm on a sample, float32 [c, q]; a centroid that loses all its points stays where it is."""
    count = int(np.clip(round(2.5 * np.sqrt(len(rotated))), 1, len(rotated)))
    sample = np.ascontiguousarray(rotated[_drawn(len(rotated), _POINTS_OF_A_LIST * count, rng)])
    centroids = sample[np.sort(rng.choice(len(sample), count, replace=False))]
    lists = np.empty(len(sample), np.int32)
    for _ in range(_ROUNDS):
        squares = np.einsum("ij,ij->i", centroids, centroids)

        def assign(rows: slice, centroids: np.ndarray = centroids, squares: np.ndarray = squares) -> None:
            lists[rows] = _nearest(sample[rows], centroids, squares)

        _in_chunks(assign, len(sample))
        order = np.argsort(lists, kind="stable")
        present, starts, counts = np.unique(lists[order], return_index=True, return_counts=True)
        moved = centroids.copy()
        moved[present] = np.add.reduceat(sample[order], starts, axis=0, dtype=np.float64) / counts[:, None]
        centroids = moved
    return centroids


def _nearest(rotated: np.ndarray, centroids: np.ndarray, squares: np.ndarray) -> np.ndarray:
    product: np.ndarray = rotated @ centroids.T
    product *= -2.0
    product += squares
    return np.asarray(product.argmin(axis=1))


def _drawn(rows: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(rows) if rows <= most else np.sort(rng.choice(rows, most, replace=False))


def _in_chunks(work: Callable[[slice], None], rows: int) -> None:
    """Call `work` on slices of fixed size, so that products have the same shapes on any number of threads."""
    cuts = [slice(start, min(start + _CHUNK_ROWS, rows)) for start in range(0, rows, _CHUNK_ROWS)]
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="index") as threads:
        list(threads.map(work, cuts))
