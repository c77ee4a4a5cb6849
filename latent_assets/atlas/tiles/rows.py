"""What tiles are made of: the rows of a release as arrays, read from its table; thumbnails a shard at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.schema import CLUSTER, PLACE
from latent_assets.atlas.table import open_table
from latent_assets.errors import DataError

_NUMBERS = ("aesthetic", "similarity", "punsafe", "pwatermark", "width", "height")
_BATCH_ROWS = 65_536
_THUMBNAIL_ROWS = 1_024


@dataclass(frozen=True)
class Codes:
    """A column of few values. codes: int64 [n], 0 for none, otherwise the n-th of `values` (value, rows)."""

    codes: np.ndarray
    values: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class TileRows:
    """The rows of a release. ids: uint8 [n, 16]. places: float32 [n, 3] by space, map units. numbers: float64 [n], NaN
    where there is none. shards: (name, rows) in the order of the rows. clusters: by space, the finest cluster of each
    row; none for maps without labels."""

    ids: np.ndarray
    places: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]
    codes: Mapping[str, Codes]
    shards: Sequence[tuple[str, int]]
    clusters: Mapping[str, Codes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class _Coder:
    """Counts the values of a column batch by batch, and numbers them when all are seen."""

    names: dict[str, int] = field(default_factory=dict)
    batches: list[np.ndarray] = field(default_factory=list)

    def add(self, values: pa.Array) -> None:
        encoded = pc.dictionary_encode(values)
        known = np.array([self.names.setdefault(name, len(self.names)) for name in encoded.dictionary.to_pylist()], int)
        at = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        self.batches.append(np.append(known, -1)[at])

    def codes(self) -> Codes:
        """Values with most rows first, those of as many rows in the order of their names."""
        found = np.concatenate([np.zeros(0, int), *self.batches])
        counts = np.bincount(found[found >= 0], minlength=len(self.names))
        listed = list(self.names)
        order = sorted(range(len(listed)), key=lambda at: (-counts[at], listed[at]))
        rank = np.zeros(len(listed) + 1, np.int64)
        for number, at in enumerate(order):
            rank[at] = number + 1
        return Codes(rank[found], [(listed[at], int(counts[at])) for at in order])


def read_tile_rows(lance_uri: str, version: int) -> tuple[ReleaseInfo, TileRows]:
    """The release that is the version of the table, and its rows in their order.

    Raises NotBuiltError when there is no such version, DataError when rows of a shard do not stand together.
    """
    table = open_table(lance_uri, version)
    info = ReleaseInfo.of_schema(table.schema, lance_uri)
    present = set(table.schema.names)
    names = [name for name in _NUMBERS if name in present]
    places = [f"{PLACE}{space}" for space in info.spaces]
    clusters = [f"{CLUSTER}{space}" for space in info.spaces if f"{CLUSTER}{space}" in present]
    wanted = ["id", "url", "category", "shard", *names, *places, *clusters]
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*names, *places, "id")}
    coders = {name: _Coder() for name in ("category", "domain", "shard", *clusters)}
    for batch in table.search().select(wanted).to_batches(_BATCH_ROWS):
        text = "".join(batch.column("id").to_pylist())
        found["id"].append(np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 16))
        coders["domain"].add(_hosts(batch.column("url")))
        for name in ("category", "shard", *clusters):
            coders[name].add(batch.column(name))
        for name in names:
            values = batch.column(name).cast(pa.float64())
            found[name].append(pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False))
        for name in places:
            found[name].append(batch.column(name).flatten().to_numpy(zero_copy_only=False).reshape(-1, 3))
    codes = {name: coder.codes() for name, coder in coders.items()}
    rows = TileRows(
        ids=np.concatenate([np.zeros((0, 16), np.uint8), *found["id"]]),
        places={
            space: np.concatenate([np.zeros((0, 3), np.float32), *found[f"{PLACE}{space}"]]) for space in info.spaces
        },
        numbers={name: np.concatenate([np.zeros(0), *found[name]]) for name in names},
        codes={name: column for name, column in codes.items() if name not in clusters},
        clusters={name.removeprefix(CLUSTER): codes[name] for name in clusters},
        shards=_runs(codes["shard"]),
    )
    return info, rows


def _hosts(urls: pa.Array) -> pa.Array:
    """Hosts of URLs, null for what is a path of a folder."""
    found = pc.extract_regex(urls, r"^https?://(?P<host>[^/:?#]+)")
    return pc.utf8_lower(pc.struct_field(found, "host"))


def _runs(shard: Codes) -> list[tuple[str, int]]:
    starts = np.flatnonzero(np.diff(shard.codes, prepend=-1))
    counts = np.diff(np.append(starts, len(shard.codes)))
    runs = [(shard.values[shard.codes[at] - 1][0], int(rows)) for at, rows in zip(starts, counts, strict=True)]
    if twice := [name for name, count in Counter(name for name, _ in runs).items() if count > 1]:
        raise DataError(f"Rows of shard {twice[0]} do not stand together in the table: build the table again.")
    return runs


def read_thumbnails_of(lance_uri: str, version: int, first: int, rows: int) -> Iterator[bytes]:
    """Thumbnails of the rows from `first`, in their order; `rows` of them."""
    dataset: Any = open_table(lance_uri, version).to_lance()
    scan = dataset.scanner(columns=["thumbnail"], offset=first, limit=rows, batch_size=_THUMBNAIL_ROWS)
    for batch in scan.to_batches():
        yield from (value.as_py() for value in batch.column("thumbnail"))
