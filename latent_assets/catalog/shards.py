"""The catalog's shards as they are stored: files, rows, and the index of them. Written by `sharding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.catalog.schema import CATALOG_COLUMNS
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.storage import Storage

INDEX = "catalog/index.parquet"
INDEX_SCHEMA: dict[str, type[pl.DataType]] = {"shard": pl.String, "rows": pl.Int64, "hash": pl.String}


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the catalog: its rows and their hash."""

    rows: int
    hash: str


def catalog_name(shard: str) -> str:
    """Storage name of a shard of the catalog."""
    return f"catalog/{shard}.parquet"


def read_shard(storage: Storage, shard: str) -> pl.DataFrame:
    """The rows of one shard, CATALOG_SCHEMA, sorted by id. Raises StorageError when it is not there."""
    return storage.read_parquet(catalog_name(shard)).select(CATALOG_COLUMNS)


def read_index(storage: Storage) -> dict[str, ShardEntry]:
    """The shards of the catalog, in build order; empty when there is none yet."""
    if not storage.exists(INDEX):
        return {}
    frame = storage.read_parquet(INDEX).sort("shard")
    return {shard: ShardEntry(rows, digest) for shard, rows, digest in frame.select(list(INDEX_SCHEMA)).iter_rows()}


def catalog_version(shards: dict[str, ShardEntry]) -> str:
    """The data version of the whole catalog."""
    return fingerprint([(key, entry.hash) for key, entry in sorted(shards.items())])


def stored_shards(storage: Storage) -> list[str]:
    """Keys of the shard files that are there, listed in an index or not (a killed build leaves such)."""
    keys = (name.removesuffix(".parquet") for name in storage.list("catalog", ".parquet"))
    return sorted(key for key in keys if key.isdigit())
