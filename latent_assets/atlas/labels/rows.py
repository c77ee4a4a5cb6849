"""What labels are made of: the rows of all shards with their places on the maps, and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash

from latent_assets.atlas.labels.captions import Terms, terms_of
from latent_assets.atlas.rows import read_places
from latent_assets.atlas.schema import PLACE
from latent_assets.catalog.shards import read_shard
from latent_assets.layout import coords_name
from latent_assets.progress import report
from latent_assets.storage import Storage

CAPTIONS = 1_000_000  # rows whose captions name clusters


@dataclass(frozen=True)
class MapRows:
    """Rows of an atlas, shard by shard. ids: string [n]. places: float32 [n, 3] by space, map units. fitted: bool [n],
    those that the maps were fitted on. order: uint64 [n], a hash of each id. shards: (name, rows)."""

    ids: pl.Series
    places: dict[str, np.ndarray]
    fitted: np.ndarray
    order: np.ndarray
    shards: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, most: int) -> np.ndarray:
        """Positions, in their order, of the fitted rows, or of the `most` of them with the smallest hashes."""
        fitted = np.flatnonzero(self.fitted)
        if len(fitted) <= most:
            return fitted
        return np.sort(fitted[np.argpartition(self.order[fitted], most)[:most]])


@dataclass(frozen=True)
class Captions:
    """Captions of rows. of: for each row the number of its caption in `terms`, null for none; equal ones have the same.
    categories: for each row its category, null for none."""

    of: pl.Series
    terms: Terms
    categories: pl.Series


def read_map_rows(storage: Storage, projection: str, shards: Sequence[str], spaces: Sequence[str]) -> MapRows:
    """Read the coordinates of all shards on the maps `projection`. Raises StorageError when some are not there."""
    ids: list[pl.Series] = []
    fitted: list[np.ndarray] = []
    places: dict[str, list[np.ndarray]] = {space: [] for space in spaces}
    for number, shard in enumerate(shards):
        report("atlas_labels", number, len(shards), "shards", "coordinates")
        found, columns = read_places(storage, projection, shard, spaces)
        ids.append(pl.Series("id", pl.from_arrow(found), dtype=pl.String))
        fitted.append(storage.read_parquet(coords_name(projection, shard), ["fitted"])["fitted"].to_numpy())
        for space in spaces:
            values = columns[f"{PLACE}{space}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            places[space].append(values.reshape(-1, 3))
    every = pl.concat([pl.Series("id", [], dtype=pl.String), *ids])
    order = np.array([xxhash.xxh64_intdigest(row_id.encode()) for row_id in every.to_list()], dtype=np.uint64)
    return MapRows(
        every,
        {space: np.concatenate([np.zeros((0, 3), np.float32), *found]) for space, found in places.items()},
        np.concatenate([np.zeros(0, bool), *fitted]),
        order,
        [(shard, len(found)) for shard, found in zip(shards, ids, strict=True)],
    )


def read_captions(storage: Storage, rows: MapRows, boilerplate: Sequence[str] = ()) -> Captions:
    """Captions of the rows, of about a million of them where there are more; a row without has its category's name."""
    share = min(1.0, CAPTIONS / max(1, len(rows)))
    chosen = rows.order <= np.uint64(min(share * 2.0**64, 2**64 - 2**11))
    found: list[pl.DataFrame] = []
    first = 0
    for number, (shard, count) in enumerate(rows.shards):
        report("atlas_labels", number, len(rows.shards), "shards", "captions")
        mine = rows.ids[first : first + count].to_frame().with_columns(chosen=pl.Series(chosen[first : first + count]))
        catalog = read_shard(storage, shard).select("id", "caption", "category")
        joined = mine.join(catalog, on="id", how="left", maintain_order="left")
        text = pl.coalesce(pl.col("caption").str.strip_chars().replace("", None), "category")
        found.append(joined.select("category", caption=pl.when("chosen").then(text)))
        first += count
    schema = {"category": pl.String, "caption": pl.String}
    every = pl.concat([pl.DataFrame(schema=schema), *found])
    distinct = every.select(pl.col("caption").drop_nulls().unique().sort()).with_row_index("of")
    report("atlas_labels", 0, None, "captions", "words")
    terms = terms_of(distinct["caption"].to_list(), boilerplate)
    of = every.join(distinct, on="caption", how="left", maintain_order="left")["of"].cast(pl.Int32)
    return Captions(of, terms, every["category"])
