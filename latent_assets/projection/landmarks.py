"""Landmarks: the rows that are fitted where there are too many to fit them all. The rest is placed among them.

A draw by the hash of ids takes from every part of a set what is its share: small islands go without. So rows are sorted
into cells first, and each cell gets landmarks by its size, drawn by hash; then, embedding by embedding, groups of rows
that lie far from all that was drawn get one of their own, the largest groups first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from latent_assets.projection.features import typical_square
from latent_assets.projection.neighbors import unit
from latent_assets.projection.rows import Sample, ShardRows, draw, hashes
from latent_assets.spaces import embeddings
from latent_assets.storage import Storage

_SEEDS_ROWS = 20_000  # rows that cells and scales are made from
_CELL_LANDMARKS = 50  # about so many of a cell
_DENSITY = 0.75  # a cell of n rows counts as n ** 0.75: dense regions get fewer for each row, sparse ones more
_COVERING = 0.1  # of the landmarks, for each embedding: those of groups that were left out
_POOL = 4  # times as many rows, the farthest from what was drawn, are looked at for groups
_LARGEST_POOL = 8_192
_CHUNK_ROWS = 16_384


def choose_landmarks(
    storage: Storage,
    shards: Sequence[ShardRows],
    columns: Mapping[str, str],
    rows: int,
    seed: int,
    without: Sample,
) -> Sample:
    """Choose `rows` of the rows of `shards` to be fitted: all of them where they are no more.

    `columns`: the feature of each embedding. Rows of the sample `without` are left out. The same rows, columns and seed
    give the same landmarks, whatever the order of the shards, and most of them stay when rows are added. Embeddings are
    read shard by shard, twice. Raises DataError as `rows.draw` and `ShardRows.read` do.
    """
    everything = draw(shards, sum(len(shard.ids) for shard in shards), seed, without=without)
    if sum(map(len, everything.chosen)) <= rows:
        return everything
    drawn = draw(shards, _SEEDS_ROWS, seed, without=without)
    drawn = draw(shards, _SEEDS_ROWS, seed, without=without)
    count = max(1, rows // _CELL_LANDMARKS)
    covering = int(_COVERING * rows)
    keys = np.concatenate(
        [hashes([shard.ids[i] for i in at], seed) for shard, at in zip(shards, everything.chosen, strict=True)]
    )
    space = _Space(storage, columns, drawn, count)
    cells = np.concatenate([space.nearest_cell(values) for values in space.read(everything)])
    chosen = _foremost(cells, keys, _quota(np.bincount(cells, minlength=count), rows - covering * len(columns)))
    for name, column in columns.items():
        chosen[_left_out(_Space(storage, {name: column}, drawn, count), everything, keys, chosen, covering)] = True
    rest = np.flatnonzero(~chosen)
    chosen[rest[np.argsort(keys[rest], kind="stable")[: rows - int(chosen.sum())]]] = True
    return everything.part(chosen)


class _Space:
    """Embeddings side by side, each with the same share of the distances; cells around the first drawn rows."""

    def __init__(self, storage: Storage, columns: Mapping[str, str], drawn: Sample, cells: int) -> None:
        self._storage, self._columns = storage, columns
        blocks = {name: self._read_one(drawn, name) for name in columns}
        self._scales = {name: np.float32(1.0 / np.sqrt(typical_square(block))) for name, block in blocks.items()}
        joined = np.hstack([block * self._scales[name] for name, block in blocks.items()])
        # by hash, so that the order of the shards decides nothing
        foremost = np.argsort(hashes(drawn.ids, 0), kind="stable")[:cells]
        self.centres = np.ascontiguousarray(joined[foremost])
        self._squares = np.einsum("ij,ij->i", self.centres, self.centres)

    def read(self, sample: Sample) -> Iterator[np.ndarray]:
        """Features float32 [m, d] of the sample's rows, in its order, some at a time."""
        for shard, at in zip(sample.shards, sample.chosen, strict=True):
            for start in range(0, len(at), _CHUNK_ROWS):
                part = Sample((shard,), (at[start : start + _CHUNK_ROWS],))
                yield np.hstack([self._read_one(part, name) * scale for name, scale in self._scales.items()])

    def nearest_cell(self, features: np.ndarray) -> np.ndarray:
        """The cell of each row of `features` float32 [m, d], int64 [m]."""
        return np.asarray((self._squares - 2.0 * (features @ self.centres.T)).argmin(axis=1))

    def _read_one(self, sample: Sample, name: str) -> np.ndarray:
        values = sample.read(self._storage, name, self._columns[name])
        return unit(values) if embeddings()[name].unit else np.asarray(values, np.float32)


def _quota(sizes: np.ndarray, rows: int) -> np.ndarray:
    """How many landmarks each cell of `sizes` int64 [c] rows gets: `rows` in all, at least one, at most all of them."""
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** _DENSITY, 0.0)
    low, high = 0.0, float(rows)
    for _ in range(64):  # the factor that spends them all; cells cannot give more than they have
        factor = (low + high) / 2.0
        if np.minimum(np.maximum(factor * weights, sizes > 0), sizes).sum() > rows:
            high = factor
        else:
            low = factor
    wanted = np.minimum(np.maximum(low * weights, sizes > 0), sizes)
    quota = np.floor(wanted).astype(np.int64)
    spare = np.argsort(-(wanted - quota), kind="stable")[: rows - int(quota.sum())]
    quota[spare] += quota[spare] < sizes[spare]
    return np.asarray(quota)


def _foremost(cells: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """bool [n]: in each cell the `counts` int64 [c] rows with the smallest `keys` [n]."""
    order = np.lexsort((keys, cells))
    starts = np.searchsorted(cells[order], np.arange(len(counts)))
    chosen = np.zeros(len(cells), dtype=bool)
    chosen[order] = np.arange(len(cells)) - starts[cells[order]] < counts[cells[order]]
    return chosen


def _left_out(space: _Space, rows: Sample, keys: np.ndarray, drawn: np.ndarray, count: int) -> np.ndarray:
    """Positions int64 [at most count] of rows that stand for groups without any of the `drawn` bool [n] near them."""
    apart, pool_rows = _distances(space, rows, drawn), min(_LARGEST_POOL, _POOL * count)
    # the same pool in whatever order the rows come
    pool = np.lexsort((keys, -apart))[:pool_rows]
    pool = pool[~drawn[pool]]
    if not len(pool):
        return np.asarray(pool)
    mask = np.zeros(len(apart), dtype=bool)
    mask[pool] = True
    features = np.concatenate(list(space.read(rows.part(mask))))[np.argsort(np.argsort(pool))]
    squares = np.einsum("ij,ij->i", features, features)
    free, groups = np.ones(len(pool), dtype=bool), []
    for leader in range(len(pool)):  # the farthest first
        if free[leader]:
            near = squares + squares[leader] - 2.0 * (features @ features[leader])
            # half as far from each other as from what was drawn
            members = free & (near <= apart[pool[leader]] / 4.0)
            members[leader] = True
            free &= ~members
            groups.append((int(members.sum()), leader))
    groups.sort(key=lambda group: -group[0])
    return np.asarray(pool[[leader for _, leader in groups[:count]]])


def _distances(space: _Space, rows: Sample, drawn: np.ndarray) -> np.ndarray:
    """Squared distance of each row to the nearest `drawn` one of its cell, float64 [n]; infinite without one."""
    parts = list(space.read(rows.part(drawn)))
    points = np.concatenate(parts) if parts else np.zeros((0, space.centres.shape[1]), np.float32)
    squares = np.einsum("ij,ij->i", points, points)
    cells = space.nearest_cell(points)
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(len(space.centres) + 1))
    found, done = np.full(len(drawn), np.inf), 0
    for features in space.read(rows):
        part = space.nearest_cell(features)
        by_cell = np.argsort(part, kind="stable")
        present, first = np.unique(part[by_cell], return_index=True)
        for cell, at in zip(present, np.split(by_cell, first[1:]), strict=True):
            near = order[starts[cell] : starts[cell + 1]]
            if len(near):
                own = features[at]
                apart = squares[near] - 2.0 * (own @ points[near].T)
                found[done + at] = np.maximum(apart.min(axis=1) + np.einsum("ij,ij->i", own, own), 0.0)
        done += len(features)
    return found
