"""The parts of a shard: one tar with its ledger, or a group of them when a shard has more rows than a tar should.

    images/00012.tar                            a shard of at most `shards.rows` rows
    images/00012/00000-of-00003.tar             a larger one (see catalog.sharding.shard_rows)

A part's name is what stands between `images/` and the suffix. Which rows are in a part is decided here by their ids,
so that a row that leaves touches one tar only; what is done with a part in `shard`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from latent_assets.storage import Storage


def part_names(shard: str, rows: int, rows_per_tar: int) -> list[str]:
    """The parts that a shard of `rows` rows has."""
    count = -(-rows // rows_per_tar)
    return [shard] if count <= 1 else [f"{shard}/{number:05d}-of-{count:05d}" for number in range(count)]


def split(frame: pl.DataFrame, parts: list[str]) -> Iterator[tuple[str, pl.DataFrame]]:
    """(part, its rows) of a shard's catalog rows, in the catalog's order.

    A row's part follows from the second half of its id: shards are ranges of the first half.
    """
    number = frame["id"].str.slice(16, 8).str.to_integer(base=16, dtype=pl.UInt32) % len(parts)
    for index, part in enumerate(parts):
        yield part, frame.filter(number == index)


def stored_parts(storage: Storage, shard: str) -> list[str]:
    """The parts of a shard that have been finished, in order.

    More than one layout only while a shard is being fetched whose number of parts changed.
    """
    single = [shard] if storage.exists(f"images/{shard}.parquet") else []
    group = storage.list(f"images/{shard}", ".parquet")
    return single + [f"{shard}/{name.removesuffix('.parquet')}" for name in group]


def known_parts(storage: Storage, shard: str) -> list[str]:
    """The parts of which there is anything: finished ones, and those that have a journal (`journal`)."""
    single = [shard] if storage.exists(f"images/{shard}.partial") else []
    group = [name for name in storage.folders(f"images/{shard}") if name.endswith(".partial")]
    begun = single + [f"{shard}/{name.removesuffix('.partial')}" for name in group]
    return list(dict.fromkeys([*stored_parts(storage, shard), *begun]))
