"""Which shard a row belongs to, and writing the shards that changed.

Rows that had a shard keep it; the others are cut, sorted by id, into new shards numbered on. So the same rows give
the same shards whatever the order of files, and a change touches only the shards of the rows it is about.

Which rows a lost file held is known nowhere else. Rows that have no shard are dealt out to the lost ones first, in
the order and in the numbers they had: as long as the source did not change meanwhile, that is what they held (when
several that different builds made are lost at once, their rows may be exchanged).
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq

from latent_assets.catalog.hashing import DIGEST, hash_of_digests, row_digests
from latent_assets.catalog.schema import CATALOG_COLUMNS, empty_catalog, shard_key
from latent_assets.catalog.shards import HASH_KEY, INDEX_SCHEMA, ShardEntry, read_index, stored_shard
from latent_assets.errors import SourceError
from latent_assets.layout import CATALOG_INDEX, catalog_name

if TYPE_CHECKING:
    from latent_assets.profile import Shards
    from latent_assets.storage import Storage

_WRITERS = max(4, min(8, os.cpu_count() or 1))  # they wait for the disk
# Encoding is most of a build's work, so nothing is tried that gains little here: values are next to never repeated,
# only texts get smaller, and shards are read whole. Snappy takes half the time of zstd for half as many bytes more.
_TEXTS = ("url", "caption", "source_url", "category")
_ENCODING = {
    "compression": {name: "snappy" if name in _TEXTS else "none" for name in CATALOG_COLUMNS},
    "use_dictionary": ["category"],
    "write_statistics": False,
    "store_schema": False,
    # a column of a shard in one piece: gathering small ones takes a quarter of the time
    "data_page_size": 8 << 20,
    "write_batch_size": 1 << 16,
}


def shard_rows(settings: Shards, added: int, present: int) -> int:
    """Rows of a new shard: as the profile says, or several times that, a group of tars.

    New shards take at most half of the partitions that are left, so that there is room for the rows of later builds.
    Raises SourceError when there are as many shards as there may be.
    """
    if not added:
        return settings.rows
    free = settings.max_partitions - present
    if free < 1:
        raise SourceError(
            f"{added} rows are new, but there are {present} shards already and `shards.max_partitions` is "
            f"{settings.max_partitions}: raise it (to at most 10000), or build into a new `root`."
        )
    tars = math.ceil(added / settings.rows)
    return settings.rows * math.ceil(tars / max(1, free // 2))


class ShardWriter:
    """Takes the catalog's rows in ascending id ranges and writes each shard once all its rows have come.

    Shards are hashed and written by threads of its own; a file that holds what it should is left alone. `index` is
    what the index says, `stored` what the sound files hold, `lost` the rows of the shards whose files are not sound.
    Use as a context.
    """

    def __init__(
        self,
        storage: Storage,
        rows_per_shard: int,
        index: dict[str, ShardEntry],
        stored: dict[str, ShardEntry],
        lost: dict[str, int],
    ) -> None:
        self._storage = storage
        self._rows_per_shard = rows_per_shard
        self._index = index
        self._stored = stored
        self._awaited = {key: entry.rows for key, entry in stored.items()}
        self._lost = deque(sorted(lost.items()))
        self._open: dict[str, list[pl.DataFrame]] = {key: [] for key in stored}
        self._added = empty_catalog().with_columns(pl.lit(None, pl.UInt64).alias(DIGEST))
        self._next = 1 + max((int(key) for key in (*stored, *lost)), default=-1)
        self._threads = ThreadPoolExecutor(_WRITERS, thread_name_prefix="catalog")
        self._writing: deque[Future[_Written]] = deque()
        self.shards: dict[str, ShardEntry] = {}
        self.written: list[str] = []
        self.bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def add(self, rows: pl.DataFrame, previous: pl.DataFrame) -> None:
        """`rows` (CATALOG_SCHEMA and DIGEST, sorted) of one id range, and where they were before (`id`, `shard`)."""
        added = self._place(rows, previous) if previous.height else rows
        self._added = pl.concat([self._added, added]) if self._added.height else added
        cut = 0
        while self._lost and self._added.height - cut >= self._lost[0][1]:
            shard, count = self._lost.popleft()
            self._write(shard, [self._added.slice(cut, count)])
            cut += count
        while not self._lost and self._added.height - cut >= self._rows_per_shard:
            self._write_added(self._added.slice(cut, self._rows_per_shard))
            cut += self._rows_per_shard
        self._added = self._added.slice(cut)

    def finish(self) -> dict[str, ShardEntry]:
        """Write what is left and the index; return all shards."""
        for shard in sorted(self._open):
            self._write(shard, self._open[shard])
        for shard, count in self._lost:  # there are fewer rows than they held
            self._write(shard, [self._added.slice(0, count)])
            self._added = self._added.slice(count)
        if self._added.height:
            self._write_added(self._added)
        while self._writing:
            self._note(self._writing.popleft().result())
        shards = dict(sorted(self.shards.items()))
        if shards != self._index:
            _write_index(self._storage, shards)
        return shards

    def _place(self, rows: pl.DataFrame, previous: pl.DataFrame) -> pl.DataFrame:
        """Put rows where they were before; return those that were nowhere."""
        placed = rows.join(previous, on="id", how="left", maintain_order="left")
        known = placed.filter(pl.col("shard").is_not_null())
        for (shard,), group in known.partition_by("shard", as_dict=True, include_key=False).items():
            self._open[str(shard)].append(group)
        for shard, seen in previous.group_by("shard").len().iter_rows():
            self._awaited[shard] -= seen
            if self._awaited[shard] == 0:
                self._write(shard, self._open.pop(shard))
        return placed.filter(pl.col("shard").is_null()).drop("shard")

    def _write_added(self, rows: pl.DataFrame) -> None:
        self._write(shard_key(self._next), [rows])
        self._next += 1

    def _write(self, shard: str, frames: list[pl.DataFrame]) -> None:
        frame = pl.concat(frames) if frames else self._added.clear()
        self._writing.append(self._threads.submit(self._store, shard, frame))
        while len(self._writing) > 2 * _WRITERS:
            self._note(self._writing.popleft().result())

    def _store(self, shard: str, frame: pl.DataFrame) -> _Written:
        """Hash a shard and store it when it is not what is stored. Runs in a thread."""
        entry = ShardEntry(frame.height, hash_of_digests(frame[DIGEST].to_numpy()))
        name = catalog_name(shard)
        new = self._stored.get(shard) != entry
        if new:
            _write_file(self._storage, shard, frame, entry)
        return _Written(shard, entry, new, self._storage.size(name))

    def _note(self, written: _Written) -> None:
        self.shards[written.shard] = written.entry
        self.bytes += written.bytes
        if written.new:
            self.written.append(written.shard)


def write_shards(storage: Storage, shards: Mapping[str, pl.DataFrame]) -> dict[str, ShardEntry]:
    """Store rows (CATALOG_SCHEMA) as these shards, and the index: a catalog that no list was read for."""
    entries = {shard: ShardEntry(rows.height, hash_of_digests(row_digests(rows))) for shard, rows in shards.items()}
    for shard, rows in shards.items():
        _write_file(storage, shard, rows, entries[shard])
    _write_index(storage, entries)
    return entries


def _write_file(storage: Storage, shard: str, frame: pl.DataFrame, entry: ShardEntry) -> None:
    table = frame.select(CATALOG_COLUMNS).to_arrow()
    with storage.writing(catalog_name(shard)) as path, pq.ParquetWriter(path, table.schema, **_ENCODING) as file:
        file.write_table(table)
        file.add_key_value_metadata({HASH_KEY: entry.hash})


def drop_rows(storage: Storage, shards: Iterable[str], ids: Collection[str]) -> dict[str, ShardEntry]:
    """Write stored shards again without the rows `ids`, and the index; returns the entries of the shards written.

    A file that is damaged is removed: what is in it cannot be told, and the next build writes it again.
    """
    index = read_index(storage)
    written: dict[str, ShardEntry] = {}
    for shard in shards:
        found = stored_shard(storage, shard, index.get(shard))
        if found is None:
            storage.delete(catalog_name(shard))
            continue
        frame = found[0].filter(~pl.col("id").is_in(list(ids)))
        if frame.height < found[0].height:
            written[shard] = ShardEntry(frame.height, hash_of_digests(row_digests(frame)))
            _write_file(storage, shard, frame, written[shard])
    if written and index:
        _write_index(storage, index | written)
    return written


def _write_index(storage: Storage, shards: dict[str, ShardEntry]) -> None:
    rows = [(key, entry.rows, entry.hash) for key, entry in sorted(shards.items())]
    storage.write_parquet(CATALOG_INDEX, pl.DataFrame(rows, schema=INDEX_SCHEMA, orient="row"))


@dataclass(frozen=True)
class _Written:
    """A shard that is stored, and whether it had to be written."""

    shard: str
    entry: ShardEntry
    new: bool
    bytes: int
