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
from latent_assets.embeddings.store import ShardEmbeddings, read_column, read_ids, read_width
from latent_assets.errors import DataError
from latent_assets.layout import latents_name
from latent_assets.storage import Storage

_HOLD_OUT_SEED = 0x63616C  # an order of its own: no other sample is drawn by it
_MOST_HELD_OUT = 0.2


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
        return latents_name(name) if column == spaces.embeddings()[embedding].whole else name

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

    def part(self, mask: np.ndarray) -> Sample:
        """The rows of `mask` bool [n], in the order of `ids`."""
        cuts = np.cumsum([len(at) for at in self.chosen])[:-1]
        parts = zip(self.chosen, np.split(mask, cuts), strict=True)
        return Sample(self.shards, tuple(at[chosen] for at, chosen in parts))

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


def draw(shards: Sequence[ShardRows], rows: int, seed: int, without: Sample | None = None) -> Sample:
    """Choose at most `rows` rows by the smallest hash of their ids: the same rows whatever the shards' order is.

    Rows of the sample `without`, drawn from the same shards, are left out. Raises DataError when an id is in two
    shards.
    """
    keys = [hashes(shard.ids, seed) for shard in shards]
    _refuse_doubles(shards, keys)
    allowed = [np.ones(len(key), dtype=bool) for key in keys]
    for free, taken in zip(allowed, without.chosen if without else (), strict=False):
        free[taken] = False
    everything = np.concatenate(
        [key[free] for key, free in zip(keys, allowed, strict=True)] or [np.zeros(0, np.uint64)]
    )
    limit = np.partition(everything, rows - 1)[rows - 1] if len(everything) > rows else np.uint64(2**64 - 1)
    chosen = (np.flatnonzero(free & (key <= limit)) for key, free in zip(keys, allowed, strict=True))
    return Sample(tuple(shards), tuple(chosen))


def hold_out(shards: Sequence[ShardRows], share: float, least: int) -> Sample:
    """The rows that are kept out of the fit, to be compared with: `share` of all, at least `least`, chosen by id.

    None at all where that would be more than a fifth of the rows: an atlas this small needs them for its maps.
    """
    total = sum(len(shard.ids) for shard in shards)
    count = max(least, round(share * total)) if share else 0
    if not count or count > total * _MOST_HELD_OUT:
        return Sample(tuple(shards), tuple(np.zeros(0, np.int64) for _ in shards))
    return draw(shards, count, _HOLD_OUT_SEED)


def hashes(ids: Sequence[str], seed: int) -> np.ndarray:
    """A hash of each id, uint64 [n]: the order that rows are drawn in."""
    return np.array([xxhash.xxh64_intdigest(row_id.encode(), seed) for row_id in ids], dtype=np.uint64)


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
