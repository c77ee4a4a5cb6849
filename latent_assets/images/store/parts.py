"""The parts of a shard: one tar with its ledger, or a group of them when a shard has more rows than a tar should.

    images/00012.tar                            a shard of at most `shards.rows` rows
    images/00012/00000-of-00003.tar             a larger one (see catalog.sharding.shard_rows)

A part's name is what stands between `images/` and the suffix. Which rows are in a part is decided here by their ids,
so that a row that leaves touches one tar only; what is done with a part in `shard`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.layout import journal_folder, ledger_name, parts_folder, tar_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_COUNTED = re.compile(r"/\d{5}-of-\d{5}$")


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
    single = [shard] if storage.exists(ledger_name(shard)) else []
    group = storage.list(parts_folder(shard), ".parquet")
    return single + [f"{shard}/{name.removesuffix('.parquet')}" for name in group]


def known_parts(storage: Storage, shard: str) -> list[str]:
    """The parts of which there is anything: finished ones, tars without a ledger, and those with a `journal`."""
    single = [shard] if any(map(storage.exists, (tar_name(shard), journal_folder(shard)))) else []
    tars = [name.removesuffix(".tar") for name in storage.list(parts_folder(shard), ".tar")]
    folders = storage.folders(parts_folder(shard))
    journals = [name.removesuffix(".partial") for name in folders if name.endswith(".partial")]
    begun = single + [f"{shard}/{name}" for name in [*tars, *journals]]
    return list(dict.fromkeys([*stored_parts(storage, shard), *begun]))


def due_parts(shard: str, found: Iterable[str]) -> list[str]:
    """The parts that a fetched shard must have, in order, when those `found` are there: [shard] when there are none.

    A part of which nothing is left is named by its neighbours, which say how many there are.
    """
    names = list(found)
    single = [name for name in names if name == shard]
    counts = sorted({int(name.rpartition("-of-")[2]) for name in names if _COUNTED.search(name)})
    return single + [f"{shard}/{number:05d}-of-{count:05d}" for count in counts for number in range(count)] or [shard]
