"""The catalog's shards as they are stored: files, rows, and the index of them. Written by `sharding`.

A file carries the hash of its rows in its footer, so that damage is told from a change without the index.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from latent_assets.catalog.hashing import shard_hash
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.errors import StorageError
from latent_assets.layout import CATALOG, CATALOG_INDEX, catalog_name
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.storage import Storage

INDEX_SCHEMA: dict[str, type[pl.DataType]] = {"shard": pl.String, "rows": pl.Int64, "hash": pl.String}
HASH_KEY = b"latent_assets.rows"  # of the footer's metadata


_REMEDY = "`latent-assets build` writes it again"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the catalog: its rows and their hash."""

    rows: int
    hash: str


class _DamagedError(Exception):
    """Why a file is not a shard of the catalog."""


def read_shard(storage: Storage, shard: str) -> pl.DataFrame:
    """The rows of one shard, CATALOG_SCHEMA, sorted by id.

    Raises StorageError when it is not there or cannot be read as a shard.
    """
    try:
        return _decoded(storage.read_bytes(catalog_name(shard)))[0]
    except _DamagedError as error:
        raise StorageError(f"{storage.uri(catalog_name(shard))} {error}: {_REMEDY}.") from error


def catalog_problems(storage: Storage, shard: str, rows: int, digest: str) -> dict[str, str]:
    """Read a shard's file and say what is wrong with it; {} when it holds the `rows` rows whose hash is `digest`.

    Keys are the checks of `shard_catalog` that fail: `ids_unique`, `rows_as_assigned`; both when the file is missing
    or cannot be read. Raises StorageError only when the root cannot be reached or may not be read.
    """
    name = catalog_name(shard)
    try:
        frame, _ = _decoded(_content(storage, name))
    except _DamagedError as error:
        return dict.fromkeys(("ids_unique", "rows_as_assigned"), f"{storage.uri(name)} {error}: {_REMEDY}")
    problems = {}
    if repeated := frame.height - frame["id"].n_unique():
        problems["ids_unique"] = f"{repeated} of {frame.height} ids are there more than once: {_REMEDY}"
    if frame.height != rows:
        problems["rows_as_assigned"] = f"holds {frame.height} rows, assigned were {rows}: {_REMEDY}"
    elif shard_hash(frame) != digest:
        problems["rows_as_assigned"] = f"the content of its {rows} rows is not what was assigned: {_REMEDY}"
    return problems


def stored_shard(storage: Storage, shard: str, assigned: ShardEntry | None) -> tuple[pl.DataFrame, ShardEntry] | None:
    """The rows that a shard's file holds, and their entry; None when it is missing or damaged.

    Sound is what has the hash that its footer names: a killed build leaves files newer than the index. A file
    without (from before there was one) is held against `assigned`, its entry in the index.
    """
    try:
        frame, named = _decoded(_content(storage, catalog_name(shard)))
    except _DamagedError:
        return None
    entry = ShardEntry(frame.height, shard_hash(frame))
    sound = entry.hash == named if named else assigned in (None, entry)
    return (frame, entry) if sound else None


def read_index(storage: Storage) -> dict[str, ShardEntry]:
    """The shards of the catalog, in build order; empty when there is no index yet, or it cannot be read.

    It says again what the files say, so that without it nothing is lost.
    """
    try:
        table = _table(_content(storage, CATALOG_INDEX))
        frame = cast(pl.DataFrame, pl.from_arrow(table)).select(list(INDEX_SCHEMA)).sort("shard")
    except (_DamagedError, pl.exceptions.PolarsError):
        return {}
    return {shard: ShardEntry(rows, digest) for shard, rows, digest in frame.iter_rows()}


def _content(storage: Storage, name: str) -> bytes:
    """The bytes of a file. Raises _DamagedError when it is missing or the disk cannot read it."""
    try:
        return storage.read_bytes(name)
    except StorageError:
        if storage.exists(name):
            raise  # credentials, network: says nothing about the file
        raise _DamagedError("is not there") from None
    except OSError as error:
        raise _DamagedError(f"cannot be read ({error.strerror or error})") from error


def _decoded(data: bytes) -> tuple[pl.DataFrame, str | None]:
    """The rows of a shard's file, and the hash that its footer names. Raises _DamagedError."""
    table = _table(data)
    try:
        frame = cast(pl.DataFrame, pl.from_arrow(table))
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise _DamagedError(f"cannot be read as a shard ({type(error).__name__})") from error
    if dict(frame.schema) != CATALOG_SCHEMA:
        raise _DamagedError("has not the columns of a shard")
    named = (table.schema.metadata or {}).get(HASH_KEY)
    return frame, named.decode("ascii", "replace") if named else None


def _table(data: bytes) -> pa.Table:
    try:
        table = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=False).read()
        table.validate(full=True)  # texts that are not UTF-8, lengths that do not fit
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _DamagedError(f"cannot be read as parquet ({reason[:200]})") from error
    return table


def catalog_version(shards: dict[str, ShardEntry]) -> str:
    """The data version of the whole catalog."""
    return fingerprint([(key, entry.hash) for key, entry in sorted(shards.items())])


def shard_files(storage: Storage) -> list[str]:
    """Keys of the shard files that are there, listed in an index or not (a killed build leaves such)."""
    keys = (name.removesuffix(".parquet") for name in storage.list(CATALOG, ".parquet"))
    return sorted(key for key in keys if key.isdigit())
