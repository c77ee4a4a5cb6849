"""Building the catalog: read, filter, collapse duplicates, shard, write what changed, report.

The steps live in `batches`, `filters`, `buckets` and `sharding`; here is their order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets import progress
from latent_assets.catalog.batches import expected_rows, read_rows
from latent_assets.catalog.buckets import Buckets, bucket_count, spill_folder
from latent_assets.catalog.filters import DUPLICATE, NOT_SAMPLED, Funnel, RowFilter, sample_ranks
from latent_assets.catalog.findings import Findings
from latent_assets.catalog.hashing import DIGEST, HEAD, row_digests
from latent_assets.catalog.local_files import below
from latent_assets.catalog.names import name_of_path, whole
from latent_assets.catalog.removals import read_removals
from latent_assets.catalog.schema import CATALOG_COLUMNS, CATALOG_SCHEMA, shard_key
from latent_assets.catalog.sharding import ShardWriter, shard_rows
from latent_assets.catalog.shards import ShardEntry, catalog_version, read_index, shard_files, stored_shard
from latent_assets.catalog.webdataset import parse_member
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

Item = TypeVar("Item")
Result = TypeVar("Result")

STAGE = "laion_metadata"
_AHEAD = 2  # buckets that are prepared at a time
_READERS = 4  # of stored shards
# what tells whether a stored row is still one of the source's
_LINK_FACTS: dict[str, type[pl.DataType]] = {"id": pl.String}
_FILE_FACTS: dict[str, type[pl.DataType]] = {"id": pl.String, "source_hash": pl.Int64}


@dataclass(frozen=True)
class CatalogReport:
    """What a build of the catalog did.

    `funnel` is (reason, rows dropped) in the order the rules apply; `mended` are the shards whose file was missing or
    damaged and is written again. `notes` are sentences about what was met in the source besides its rows.
    """

    rows_read: int
    funnel: tuple[tuple[str, int], ...]
    rows_kept: int
    shards: dict[str, ShardEntry]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    mended: tuple[str, ...]
    version: str
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


class RowsWouldGoError(Exception):
    """`gone` of the `stored` rows of a catalog would leave it."""

    def __init__(self, gone: int, stored: int) -> None:
        super().__init__(f"{gone} of {stored} rows would leave the catalog")
        self.gone, self.stored = gone, stored


def build_catalog(profile: Profile, storage: Storage, keep: bool = False) -> CatalogReport:
    """Bring `catalog/` up to date with the profile's source; files whose rows did not change are left alone.

    Every stored file is read: one that is missing or damaged is written again, with the rows that it held. A shard
    whose rows are all gone keeps its key and has none; that may be so of all shards.
    Raises SourceError when the source cannot be read, lacks a column, has no rows, or, where there is no catalog yet,
    when no row passes the filters. With `keep` raises RowsWouldGoError, and writes nothing, when stored rows (of files:
    or their bytes) are none of the source's.
    """
    started = time.monotonic()
    before = read_index(storage)
    expected, exact = expected_rows(profile, storage)
    with spill_folder(storage) as folder, _system_allocator():
        links = profile.source.kind == "metadata"
        rows = Buckets(storage, folder, "rows", bucket_count(expected), CATALOG_SCHEMA, ids_of_urls=links)
        funnel, findings = _read(profile, storage, rows, expected if exact else None)
        facts = _LINK_FACTS if links or not keep else _FILE_FACTS
        previous, stored, lost = _previous(storage, folder, rows.count, before, facts)
        if keep and (gone := _count_gone(rows, previous, facts)):
            raise RowsWouldGoError(gone, previous.rows)
        threshold = _sample_threshold(profile, rows)
        per_shard = _deal(profile, rows, previous, before, stored, lost)
        with ShardWriter(storage, per_shard, before, stored, lost) as writer:
            for bucket, kept in enumerate(_distinct(rows, funnel)):
                writer.add(_sampled(kept, threshold, profile.filters.seed, funnel), previous.read(bucket))
            if not (stored or lost):
                _refuse_nothing(profile, funnel)
            shards = writer.finish()
    return CatalogReport(
        rows_read=funnel.rows,
        funnel=funnel.steps(),
        rows_kept=sum(entry.rows for entry in shards.values()),
        shards=shards,
        changed=tuple(key for key in sorted(shards) if key in before and before[key] != shards[key]),
        added=tuple(key for key in sorted(shards) if key not in before),
        removed=tuple(key for key in sorted(before) if key not in shards),
        mended=tuple(sorted(lost)),
        version=catalog_version(shards),
        bytes=writer.bytes,
        notes=findings.notes(),
        seconds=time.monotonic() - started,
    )


@contextmanager
def _system_allocator() -> Iterator[None]:
    """Arrow's own allocator gives every table back to the system and takes it anew, page by page: an eighth of all."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _read(profile: Profile, storage: Storage, rows: Buckets, total: int | None) -> tuple[Funnel, Findings]:
    """Pass the source's rows through the filters into the buckets."""
    removals = read_removals(profile.filters.remove)
    findings = Findings(profile.source.skip_bad_rows)
    row_filter = RowFilter(profile.filters, removals)
    funnel = row_filter.funnel
    for batch in read_rows(profile, storage, findings, ids=len(removals.ids) > 0):
        rows.add(row_filter.apply(batch.frame, batch.captioned))
        progress.report(STAGE, funnel.rows, total, "rows")
    for kept in _unread_rows(storage, findings):
        rows.add(row_filter.apply(kept))
    rows.finish()
    funnel.begin_with(findings.steps())
    if funnel.rows == 0:
        raise SourceError(f"{profile.source.path or profile.source.builtin} has no rows: nothing to build from.")
    funnel.dropped[DUPLICATE] = 0
    if profile.filters.sample is not None:
        funnel.dropped[NOT_SAMPLED] = 0
    return funnel, findings


def _unread_rows(storage: Storage, findings: Findings) -> Iterator[pl.DataFrame]:
    """The stored rows of images in directories that cannot be read now: whether they are still there is not known."""
    if not findings.unreadable:
        return
    folders = {whole(folder) for folder in findings.unreadable}
    for shard in shard_files(storage):
        if (found := stored_shard(storage, shard, None)) is not None:
            frame = found[0].filter(pl.col("path").is_not_null())
            names = [
                whole(name_of_path(member.tar if (member := parse_member(path)) else path)) for path in frame["path"]
            ]
            yield frame.filter(pl.Series([below(name, folders) for name in names], dtype=pl.Boolean))


def _previous(
    storage: Storage, folder: Path, buckets: int, index: dict[str, ShardEntry], facts: dict[str, type[pl.DataType]]
) -> tuple[Buckets, dict[str, ShardEntry], dict[str, int]]:
    """Where each row of the stored catalog is (`facts` and `shard`), what the files hold, and the rows of lost ones.

    Shards are numbered without gaps, and written several at a time: what a killed build did not get to is lost, too. Of
    a lost file that no index knows, the rows are not known: 0.
    """
    previous = Buckets(storage, folder, "previous", buckets, {**facts, "shard": pl.String})
    stored: dict[str, ShardEntry] = {}
    lost: dict[str, int] = {}

    def look(shard: str) -> tuple[pl.DataFrame, ShardEntry] | None:
        found = stored_shard(storage, shard, index.get(shard))
        return found and (found[0].select(*facts, shard=pl.lit(shard)), found[1])

    known = {*index, *shard_files(storage)}
    shards = [shard_key(number) for number in range(1 + max(map(int, known), default=-1))]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="catalog") as threads:
        for shard, found in zip(shards, _ahead(threads, look, shards, 2 * _READERS), strict=True):
            if found is None:
                lost[shard] = index[shard].rows if shard in index else 0
                continue
            ids, stored[shard] = found
            previous.add(ids)
    previous.finish()
    return previous, stored, lost


def _deal(
    profile: Profile,
    rows: Buckets,
    previous: Buckets,
    index: dict[str, ShardEntry],
    stored: dict[str, ShardEntry],
    lost: dict[str, int],
) -> int:
    """Rows of a new shard.

    A build that goes on where one was killed cuts what is left as that one did: the rows of `lost` shards that no index
    knows are set to that.
    """
    begun = [shard for shard in (*stored, *lost) if shard not in index]
    if not (stored or lost or _may_be_too_many(profile, rows.rows)):
        return shard_rows(profile.shards, rows.rows, 0)
    added = _count_added(rows, previous) - sum(lost.values())
    if not begun:
        return shard_rows(profile.shards, max(0, added), len(stored) + len(lost))
    added += sum(stored[shard].rows for shard in begun if shard in stored)
    first = not index and not _may_be_too_many(profile, rows.rows)
    per_shard = shard_rows(profile.shards, rows.rows if first else max(0, added), len(index))
    for shard in begun:
        if shard in lost:
            lost[shard] = per_shard
    return per_shard


def _distinct(rows: Buckets, funnel: Funnel) -> Iterator[pl.DataFrame]:
    """The distinct rows of each bucket; others are prepared while one is written."""

    def prepare(bucket: int) -> tuple[pl.DataFrame, int]:
        frame = rows.read(bucket, (*CATALOG_COLUMNS, HEAD))
        rows.forget(bucket)
        return _collapsed(frame), frame.height

    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="catalog") as threads:
        for distinct, height in _ahead(threads, prepare, range(rows.count), _AHEAD):
            funnel.drop(DUPLICATE, height - distinct.height)
            yield distinct


def _ahead(threads: Executor, work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """The results of `work`, in order; the next `count` are on their way while one is used."""
    left = iter(items)
    coming = deque(threads.submit(work, item) for item in islice(left, count))
    while coming:
        result = coming.popleft().result()
        coming.extend(threads.submit(work, item) for item in islice(left, 1))
        yield result


def _collapsed(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per id with its DIGEST, ordered by id: of several, the best scored, then the first by its values.

    `frame` has CATALOG_SCHEMA and HEAD.
    """
    frame = frame.rechunk()  # taking rows out of many pieces takes ten times as long
    heads, frame = frame[HEAD].to_numpy(), frame.drop(HEAD)
    order = np.argsort(heads)
    ordered = heads[order]
    again = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] |= again
    repeated[:-1] |= again
    chosen, counts = _best(frame[order[repeated]])
    alone, several = order[~repeated], order[repeated][chosen]
    rows = np.insert(alone, np.searchsorted(ordered[~repeated], heads[several]), several)
    count = frame["url_count"].to_numpy().copy()
    count[several] = counts
    counted = frame.with_columns(pl.Series("url_count", count))
    # before the rows are put in order: texts are hashed as they lie in memory
    return counted.with_columns(pl.Series(DIGEST, row_digests(counted)))[rows]


def _best(repeated: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(row to keep, times it is there) of each id of `repeated`, in the order of ids."""
    others = [name for name in CATALOG_COLUMNS if name not in ("id", "aesthetic", "url_count")]
    best = (
        repeated.with_row_index("row")
        .sort("id", "aesthetic", *others, descending=[False, True, *(False for _ in others)], nulls_last=True)
        .group_by("id", maintain_order=True)
        .agg(pl.col("row").first(), pl.col("url_count").sum())
    )
    return best["row"].to_numpy(), best["url_count"].to_numpy()


def _unique_ids(rows: Buckets) -> Iterator[pl.Series]:
    for bucket in range(rows.count):
        yield rows.read(bucket, ["id"])["id"].unique()


def _sample_threshold(profile: Profile, rows: Buckets) -> int | None:
    """The highest rank that is in the sample, or None when all rows are."""
    wanted = profile.filters.sample
    if wanted is None or rows.rows <= wanted:
        return None
    lowest = np.empty(0, np.uint64)
    for ids in _unique_ids(rows):
        lowest = np.concatenate([lowest, sample_ranks(ids, profile.filters.seed)])
        if len(lowest) > wanted:
            lowest = np.partition(lowest, wanted - 1)[:wanted]
    return int(lowest.max()) if len(lowest) == wanted else None


def _sampled(frame: pl.DataFrame, threshold: int | None, seed: int, funnel: Funnel) -> pl.DataFrame:
    if threshold is None:
        return frame
    kept = frame.filter(pl.Series(sample_ranks(frame["id"], seed) <= threshold))
    funnel.drop(NOT_SAMPLED, frame.height - kept.height)
    return kept


def _may_be_too_many(profile: Profile, rows: int) -> bool:
    return rows > profile.shards.rows * profile.shards.max_partitions


def _count_added(rows: Buckets, previous: Buckets) -> int:
    """How many distinct rows have no shard yet (before sampling)."""
    return sum(
        int((~ids.is_in(previous.read(bucket, ["id"])["id"].implode())).sum())
        for bucket, ids in enumerate(_unique_ids(rows))
    )


def _count_gone(rows: Buckets, previous: Buckets, facts: Collection[str]) -> int:
    """How many stored rows are not among those that were read."""
    gone = 0
    for bucket in range(rows.count):
        before, now = previous.read(bucket, list(facts)), rows.read(bucket, list(facts))
        gone += before.join(now, on=list(facts), how="anti", nulls_equal=True).height
    return gone


def _refuse_nothing(profile: Profile, funnel: Funnel) -> None:
    if sum(funnel.dropped.values()) == funnel.rows:
        reason, count = max(funnel.steps(), key=lambda step: step[1])
        raise SourceError(
            f"None of the {funnel.rows} rows of {profile.source.path or profile.source.builtin} passes the filters: "
            f"{count} were dropped as `{reason}`. Loosen [filters] of the profile."
        )
