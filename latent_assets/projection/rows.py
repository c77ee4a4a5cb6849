"""Reading embedding files: rows matched by id between the embeddings, samples drawn by a hash of the id.

What comes out is ordered and complete; what the columns mean for the map is in `features`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from latent_assets import spaces
from latent_assets.embeddings.store import ShardEmbeddings, read_column, read_ids, read_width, whole_name
from latent_assets.errors import DataError
from latent_assets.storage import Storage


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard that every embedding of the profile has, in the order of the first file.

    rows: for each embedding the int64 position of each row in its file.
    unmatched: rows that not all of the files hold; they are left out.
    """

    embeddings: ShardEmbeddings
    ids: list[str]
    rows: Mapping[str, np.ndarray]
    unmatched: int

    def read(self, storage: Storage, embedding: str, column: str, chosen: np.ndarray | None = None) -> np.ndarray:
        """A column of an embedding, float16 [n, width], of these rows or of the positions `chosen` among them.

        `column` is one of the embedding's `features` or its `whole`. Raises DataError naming the row when a value is
        not finite.
        """
        name = self._file(embedding, column)
        wanted = self.rows[embedding] if chosen is None else self.rows[embedding][chosen]
        order = np.argsort(wanted, kind="stable")
        values = np.empty_like(read := read_column(storage, name, column, wanted[order]))
        values[order] = read
        self._refuse_broken(embedding, name, column, values, chosen)
        return values

    def width(self, storage: Storage, embedding: str, column: str) -> int:
        """Length of the vectors of a column, also when there are no rows."""
        return read_width(storage, self._file(embedding, column), column)

    def _file(self, embedding: str, column: str) -> str:
        name = self.embeddings.files[embedding]
        return whole_name(name) if column == spaces.embeddings()[embedding].whole else name

    def _refuse_broken(
        self, embedding: str, name: str, column: str, values: np.ndarray, chosen: np.ndarray | None
    ) -> None:
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            first = broken[0] if chosen is None else chosen[broken[0]]
            raise DataError(
                f"{name}: `{column}` has NaN or infinite values in {len(broken)} rows, the first is {self.ids[first]}. "
                f"{_encode_again(self.embeddings)}"
            )


def read_shard_rows(storage: Storage, shard: ShardEmbeddings) -> ShardRows:
    """Match the rows of a shard's embedding files by id. Raises DataError when an id occurs twice in one file."""
    if not shard.files:
        raise DataError(f"Shard {shard.shard} has no embeddings: the profile has no table [models.NAME] of one.")
    found = {name: _unique_ids(storage, shard, name) for name in shard.files}
    first = next(iter(found.values()))
    every = np.arange(len(first))
    if all(ids == first for ids in found.values()):
        return ShardRows(shard, first, dict.fromkeys(found, every), 0)
    at = {name: {row_id: position for position, row_id in enumerate(ids)} for name, ids in found.items()}
    kept = [row_id for row_id in first if all(row_id in positions for positions in at.values())]
    rows = {name: np.array([positions[row_id] for row_id in kept], dtype=np.int64) for name, positions in at.items()}
    return ShardRows(shard, kept, rows, len(set().union(*at.values())) - len(kept))


def _unique_ids(storage: Storage, shard: ShardEmbeddings, embedding: str) -> list[str]:
    name = shard.files[embedding]
    ids = read_ids(storage, name)
    repeated = len(ids) - len(set(ids))
    if repeated:
        first = next(row_id for row_id, count in Counter(ids).items() if count > 1)
        raise DataError(f"{name}: {repeated} rows repeat an id, the first is {first}. {_encode_again(shard)}")
    return ids


def _encode_again(shard: ShardEmbeddings) -> str:
    return (
        f"Run `latent-assets verify`, which finds what is damaged in shard {shard.shard}, then `latent-assets build`."
    )


@dataclass(frozen=True)
class Sample:
    """Rows chosen from many shards: for each shard the sorted positions of its chosen rows."""

    shards: tuple[ShardRows, ...]
    chosen: tuple[np.ndarray, ...]

    @property
    def ids(self) -> list[str]:
        return [rows.ids[i] for rows, positions in zip(self.shards, self.chosen, strict=True) for i in positions]

    def read(self, storage: Storage, embedding: str, column: str) -> np.ndarray:
        """A column of an embedding, float16 [n, width], of the sample's rows in the order of `ids`."""
        parts = [
            rows.read(storage, embedding, column, at)
            for rows, at in zip(self.shards, self.chosen, strict=True)
            if len(at)
        ]
        if parts:
            return np.concatenate(parts)
        return np.zeros((0, self.shards[0].width(storage, embedding, column) if self.shards else 0), np.float16)


def draw(shards: Sequence[ShardRows], rows: int, seed: int) -> Sample:
    """Choose at most `rows` rows by the smallest hash of their ids: the same rows whatever the shards' order is.

    Raises DataError when an id is in two shards.
    """
    keys = [
        np.array([xxhash.xxh64_intdigest(i.encode(), seed) for i in shard.ids], dtype=np.uint64) for shard in shards
    ]
    _refuse_doubles(shards, keys)
    everything = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    if len(everything) <= rows:
        return Sample(tuple(shards), tuple(np.arange(len(key)) for key in keys))
    limit = np.partition(everything, rows - 1)[rows - 1]
    return Sample(tuple(shards), tuple(np.flatnonzero(key <= limit) for key in keys))


def _refuse_doubles(shards: Sequence[ShardRows], keys: Sequence[np.ndarray]) -> None:
    everything = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    values, counts = np.unique(everything, return_counts=True)
    if len(values) == len(everything):
        return
    doubled = set(values[counts > 1].tolist())
    places: dict[str, list[str]] = {}
    for shard, key in zip(shards, keys, strict=True):
        for position in np.flatnonzero(np.isin(key, list(doubled))):
            places.setdefault(shard.ids[position], []).append(shard.embeddings.shard)
    # two ids may share a hash; only an id that is there twice is an error
    for row_id, found_in in places.items():
        if len(found_in) > 1:
            raise DataError(
                f"Row {row_id} is in the shards {', '.join(found_in)}: ids must be unique over the atlas. Make the "
                "catalog anew: run `latent-assets verify`, then `latent-assets build`."
            )
