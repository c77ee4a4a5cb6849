"""Maps whose clusters are known: continents of towns of rows with captions of their own, and rows in between."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.layout import catalog_name, coords_name
from latent_assets.storage import Storage

PROJECTION = "f" * 32
TOWNS = (
    *("red fox in the snow", "grey wolf at night", "brown bear fishing"),
    *("sailing boat at sea", "steam train in the station", "yellow taxi downtown"),
    *("红色的狐狸在雪地里奔跑", "蓝色的鲸鱼在海里游泳", "白色的兔子在草地上"),
    *("雪の中の赤いキツネ", "ช้างในป่าใหญ่", "bowl of ramen noodles"),
)
CONTINENTS = 4  # of three towns each


@dataclass(frozen=True)
class Mapped:
    """A map that is stored. town: of each row, -1 for those in between. captions: of each row."""

    storage: Storage
    ids: list[str]
    places: np.ndarray
    town: np.ndarray
    captions: list[str | None]
    shards: tuple[str, ...]


def places_of(town: np.ndarray, seed: int) -> np.ndarray:
    """Places of rows, float32 [n, 3]: continents 100 apart, towns 20, rows 1; those of no town anywhere."""
    drawn = np.random.default_rng(seed)
    corners = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]], float)
    within = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0]], float)
    middles = np.concatenate([corners[number] + within for number in range(CONTINENTS)])
    places = middles[np.maximum(town, 0)] + 0.5 * drawn.normal(size=(len(town), 3))
    anywhere = drawn.uniform(-60, 160, (len(town), 3))
    return np.where(town[:, None] < 0, anywhere, places).astype(np.float32)


def row_id(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def mapped(root: Path, each: int = 60, loose: int = 40, seed: int = 1, share: float = 1.0, first: int = 0) -> Mapped:
    """Store the catalog and coordinates of `each` rows a town and `loose` in between; `share` of them is fitted.

    Rows are numbered from `first`: what has the number of another map's row has its id and its town.
    """
    number = np.arange(first, first + each * len(TOWNS) + loose)
    town = np.where(number - first < each * len(TOWNS), number % len(TOWNS), -1)
    places = places_of(town, seed)
    captions = [
        f"{TOWNS[at]} — stock photo {row}.JPG" if at >= 0 else f"image nr {row}"
        for row, at in zip(number.tolist(), town.tolist(), strict=True)
    ]
    fitted = np.random.default_rng(seed).random(len(number)) < share
    storage = Storage(str(root))
    ids = [row_id(row) for row in number.tolist()]
    cuts = np.array_split(np.arange(len(number)), 3)
    shards = tuple(f"{shard:05d}" for shard in range(len(cuts)))
    for shard, cut in zip(shards, cuts, strict=True):
        write_coordinates(storage, shard, [ids[at] for at in cut], places[cut], fitted[cut])
        write_catalog(storage, shard, [ids[at] for at in cut], [captions[at] for at in cut])
    return Mapped(storage, ids, places, town, list(captions), shards)


def write_coordinates(storage: Storage, shard: str, ids: Sequence[str], places: np.ndarray, fitted: np.ndarray) -> None:
    frame = pl.DataFrame(
        {"id": list(ids), "xyz_clip": pl.Series(places, dtype=pl.Array(pl.Float32, 3)), "fitted": fitted}
    )
    storage.write_parquet(coords_name(PROJECTION, shard), frame)


def write_catalog(storage: Storage, shard: str, ids: Sequence[str], captions: Sequence[str | None]) -> None:
    rows = [
        {"id": each, "url": f"http://example.org/{each}.png", "caption": caption, "url_count": 1}
        for each, caption in zip(ids, captions, strict=True)
    ]
    storage.write_parquet(catalog_name(shard), pl.DataFrame(rows, schema=CATALOG_SCHEMA))
