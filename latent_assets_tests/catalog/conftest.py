"""A profile over metadata files in a temporary directory, and rows in the schemas found in the wild."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from latent_assets.catalog.build import CatalogReport, build_catalog
from latent_assets.catalog.shards import read_index, read_shard
from latent_assets.profile import ClipModel, Filters, Models, Profile, Projection, Shards, Source
from latent_assets.storage import Storage


@dataclass
class Collection:
    """Metadata files, and the catalog built from them."""

    folder: Path
    source: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, Any] = field(default_factory=lambda: {"rows": 10})

    @property
    def storage(self) -> Storage:
        return Storage(str(self.folder / "root"))

    @property
    def profile(self) -> Profile:
        return Profile(
            name="collection",
            root=str(self.folder / "root"),
            source=Source(**{"path": str(self.folder / "source"), **self.source}),
            filters=Filters(**self.filters),
            shards=Shards(**self.shards),
            models=Models(clip=ClipModel(config="none", weights="none")),
            projection=Projection(spaces=("clip",)),
        )

    def write(self, name: str, frame: pl.DataFrame) -> Path:
        """Write a source file; the suffix decides the format."""
        path = self.folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".csv"):
            frame.write_csv(path)
        elif name.endswith(".tsv"):
            frame.write_csv(path, separator="\t")
        elif name.endswith(".jsonl"):
            frame.write_ndjson(path)
        else:
            frame.write_parquet(path)
        return path

    def build(self) -> CatalogReport:
        return build_catalog(self.profile, self.storage)

    def rows(self) -> pl.DataFrame:
        """The whole catalog with a column `shard`."""
        return pl.concat(
            [read_shard(self.storage, key).with_columns(pl.lit(key).alias("shard")) for key in read_index(self.storage)]
        )

    def shard_of(self) -> dict[str, str]:
        """URL -> shard."""
        rows = self.rows()
        return dict(zip(rows["url"].to_list(), rows["shard"].to_list(), strict=True))

    def files(self) -> dict[str, tuple[int, bytes]]:
        """name -> (modification time, content) of every file of the catalog."""
        folder = Path(self.storage.uri("catalog"))
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def aesthetics(count: int, start: int = 0) -> pl.DataFrame:
    """Rows in the exact schema of improved_aesthetics_6.5plus."""
    numbers = range(start, start + count)
    return pl.DataFrame(
        {
            "URL": [f"https://cdn{n % 7}.example.com/{n}.jpg" for n in numbers],
            "TEXT": [f"picture number {n}" for n in numbers],
            "WIDTH": [float(300 + n) for n in numbers],
            "HEIGHT": [float(200 + n) for n in numbers],
            "similarity": [0.3 + n / 10_000 for n in numbers],
            "punsafe": [n % 10 / 10 for n in numbers],
            "pwatermark": [n % 5 / 5 for n in numbers],
            "AESTHETIC_SCORE": [6.5 + n % 20 / 20 for n in numbers],
            "hash": [n * 7919 - 2**62 for n in numbers],
            "__index_level_0__": list(numbers),
        },
        schema={
            "URL": pl.String,
            "TEXT": pl.String,
            "WIDTH": pl.Float64,
            "HEIGHT": pl.Float64,
            "similarity": pl.Float64,
            "punsafe": pl.Float32,
            "pwatermark": pl.Float32,
            "AESTHETIC_SCORE": pl.Float32,
            "hash": pl.Int64,
            "__index_level_0__": pl.Int64,
        },
    )
