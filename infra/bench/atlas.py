"""What publishing the table costs when little changed: bytes and seconds, against Lance writing the same columns.

    .venv/bin/python infra/bench/atlas.py [--rows N] [--dims N] [--shards N] [--thumbnail-bytes N] [--root FOLDER]

Synthetic shards, as the stages before leave them, are written first and not counted. Then: the first release, none,
one changed shard, a refit, a changed caption, an emptied shard; checks, look-ups and searches; Lance alone. Bytes are
those of data files that were not there before. Peak memory is that of the process up to that line.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lance
import lancedb  # noqa: F401  loading it is no part of publishing
import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import Staged, publish, stage
from latent_assets.atlas.rows import ShardContent, read_places, read_rows
from latent_assets.atlas.schema import arrow_schema
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.client import Atlas
from latent_assets.embeddings.store import ShardEmbeddings, writing_embeddings, writing_thumbnails
from latent_assets.images.store.ledger import LEDGER_SCHEMA
from latent_assets.layout import catalog_name, coords_name, embedding_name, ledger_name, thumbnail_name
from latent_assets.profile import Profile, parse_profile
from latent_assets.storage import Storage, fingerprint

SPACES = ("clip", "vae", "joint")
PROJECTION, THUMBNAILS = "f" * 32, "e" * 32
FEATURES = {"clip": "vector", "vae": "pooled"}
VAE_DIMS = 256


class Shards:
    """Synthetic shards below a root; what is changed has another key from then on."""

    def __init__(self, storage: Storage, rows: int, dims: int, shards: int, thumbnail_bytes: int) -> None:
        self.storage, self.dims, self.thumbnail_bytes = storage, dims, thumbnail_bytes
        self.counts = {f"{i:05d}": len(cut) for i, cut in enumerate(np.array_split(np.arange(rows), shards))}
        self.changes: dict[tuple[str, str], int] = {}

    def ids(self, shard: str) -> list[str]:
        return [hashlib.md5(f"{shard}-{row}".encode()).hexdigest() for row in range(self.counts[shard])]

    def content(self, shard: str) -> ShardContent:
        rows = [self.changes.get((shard, what), 0) for what in ("vectors", "caption")]
        places = self.changes.get((shard, "places"), 0)
        files = {name: embedding_name(name[0] * 32, shard) for name in FEATURES}
        embeddings = ShardEmbeddings(shard, files, thumbnail_name(THUMBNAILS, shard))
        return ShardContent(shard, fingerprint(shard, rows), fingerprint(shard, places), embeddings)

    def write(self, shard: str, what: str) -> None:
        """Make a part of a shard (anew: other values, another key)."""
        turn = self.changes[shard, what] = self.changes.get((shard, what), -1) + 1
        rng = np.random.default_rng(int(fingerprint(shard, what, turn)[:12], 16))
        ids = self.ids(shard)
        getattr(self, f"_{what}")(shard, ids, rng)

    def _caption(self, shard: str, ids: list[str], rng: np.random.Generator) -> None:
        words = rng.integers(0, 5_000, (len(ids), 8))
        frame = pl.DataFrame(
            {
                "id": ids,
                "url": [
                    f"https://pictures-{row[0]}.example.org/{row_id}.jpg"
                    for row, row_id in zip(words, ids, strict=True)
                ],
                "caption": [" ".join(f"word{word}" for word in row) for row in words.tolist()],
                "aesthetic": rng.random(len(ids)) * 3 + 5,
            }
        )
        missing = [pl.lit(None, kind).alias(name) for name, kind in CATALOG_SCHEMA.items() if name not in frame.columns]
        self.storage.write_parquet(catalog_name(shard), frame.with_columns(missing).cast(CATALOG_SCHEMA))  # type: ignore[arg-type]
        facts = {"id": ids, "outcome": "ok", "reason": "ok", "width": 512, "height": 512, "sha256": "0" * 64}
        ledger = pl.DataFrame(facts)
        missing = [pl.lit(None, kind).alias(name) for name, kind in LEDGER_SCHEMA.items() if name not in facts]
        self.storage.write_parquet(
            ledger_name(shard),
            ledger.with_columns(missing).select(list(LEDGER_SCHEMA)).cast(LEDGER_SCHEMA),  # type: ignore[arg-type]
        )

    def _values(self, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Vectors of so many rows, float32 [rows, d], by embedding."""
        clip = rng.standard_normal((rows, self.dims), np.float32)
        clip /= np.linalg.norm(clip, axis=1, keepdims=True)
        return {"clip": clip, "vae": rng.standard_normal((rows, VAE_DIMS), np.float32)}

    def _vectors(self, shard: str, ids: list[str], rng: np.random.Generator) -> None:
        files = self.content(shard).embeddings.files
        for name, values in self._values(len(ids), rng).items():
            with writing_embeddings(self.storage, files[name], {FEATURES[name]: values.shape[1]}) as writer:
                writer.append(ids, {FEATURES[name]: values})
        with writing_thumbnails(self.storage, thumbnail_name(THUMBNAILS, shard)) as thumbnails:
            size = self.thumbnail_bytes
            data = rng.bytes(size * len(ids))
            thumbnails.append(ids, [data[i * size : (i + 1) * size] for i in range(len(ids))])

    def _places(self, shard: str, ids: list[str], rng: np.random.Generator) -> None:
        columns = {
            f"xyz_{space}": pl.Series(rng.standard_normal((len(ids), 3), np.float32), dtype=pl.Array(pl.Float32, 3))
            for space in SPACES
        }
        frame = pl.DataFrame({"id": ids} | columns).with_columns(fitted=True)
        self.storage.write_parquet(coords_name(PROJECTION, shard), frame)

    @property
    def release(self) -> ReleaseInfo:
        return ReleaseInfo(
            profile="bench",
            title="bench",
            attribution="",
            created="2026-01-01T00:00:00+00:00",
            fingerprint="a" * 32,
            projection=PROJECTION,
            rows=sum(self.counts.values()),
            shards=dict(self.counts),
            spaces=SPACES,
            dims={"clip": self.dims, "vae": VAE_DIMS},
            metrics={"clip": "cosine", "vae": "euclidean"},
            models={},
            umap={},
            backend="",
            device="",
            quality={},
            features=FEATURES,
            feature_recall={},
        )


def profile(root: Path) -> Profile:
    """A profile whose models are never loaded."""
    values = {
        "name": "bench",
        "root": str(root),
        "source": {"path": "/nowhere.parquet"},
        "models": {
            "clip": {"config": "/nowhere/config.json", "weights": "/nowhere/model.safetensors"},
            "vae": {"model": "/nowhere/vae", "size": 64, "feature_dim": 16},
        },
    }
    return parse_profile(values, root / "bench.toml", root)


def memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"


def median(act: Callable[[], object], times: int = 30) -> str:
    """Milliseconds, median and 95th percentile."""
    taken = []
    for _ in range(times + 3):
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1e3)
    ordered = sorted(taken[3:])
    return f"{statistics.median(ordered):.1f} ms, p95 {ordered[int(times * 0.95)]:.1f}"


def batches(shards: Shards) -> Iterator[pa.RecordBatch]:
    """All rows of the table, read by the code that reads them for a release."""
    release = shards.release
    schema = arrow_schema(release.dims, release.spaces)
    for shard in shards.counts:
        ids, places = read_places(shards.storage, PROJECTION, shard, SPACES)
        rows = read_rows(shards.storage, shards.content(shard), ids, FEATURES)
        arrays = {name: table[name] for table in (rows, places) for name in table.column_names}
        yield from pa.table([arrays[name] for name in schema.names], schema=schema).to_batches()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--thumbnail-bytes", type=int, default=3_000)
    parser.add_argument("--root", type=Path, default=None, help="default: a temporary folder")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="latent-assets-bench-", dir=given.root))
    try:
        run(given, folder)
    finally:
        shutil.rmtree(folder)


def run(given: argparse.Namespace, folder: Path) -> None:
    storage, settings = Storage(str(folder)), profile(folder)
    shards = Shards(storage, given.rows, given.dims, given.shards, given.thumbnail_bytes)
    for shard in shards.counts:
        for what in ("caption", "vectors", "places"):
            shards.write(shard, what)
    print(f"{given.rows:,} rows x {given.dims} in {given.shards} shards; inputs made, {memory()}\n")
    print(f"{'':24}{'seconds':>9}{'bytes written':>16}{'shards rewritten':>18}{'moved':>7}{'peak memory':>13}")

    def staged(label: str) -> Staged:
        started = time.perf_counter()
        made = stage(settings, storage, [shards.content(shard) for shard in shards.counts], shards.release)
        seconds = time.perf_counter() - started
        print(f"{label:24}{seconds:>9.2f}{made.written:>16,}{made.rewritten:>18}{made.moved:>7}{memory():>13}")
        return made

    first = staged("first release")
    publish(storage, first, [replace(passed, passed=True) for passed in check(settings, storage, first)[:1]])
    staged("nothing changed")
    names = list(shards.counts)
    shards.write(names[0], "vectors")
    staged(f"one shard of {given.shards}")
    for shard in names:
        shards.write(shard, "places")
    staged("refit")
    shards.write(names[1], "caption")
    made = staged("changed captions")
    started = time.perf_counter()
    found = [one.name for one in check(settings, storage, made) if not one.passed]
    print(f"\nchecks: {time.perf_counter() - started:.2f} s, failed: {', '.join(found)} (thumbnails are random bytes)")

    atlas = Atlas.open(folder, tag=made.version)
    ids = shards.ids(names[len(names) // 2])
    vector = np.asarray(atlas.to_polars(["clip"], limit=1)["clip"].to_list()[0], np.float32)
    print(f"row: {median(lambda: atlas.row(ids[0]))}")
    print(f"search, clip: {median(lambda: atlas.search_vector(vector, 10))}")
    print(f"neighbours, vae: {median(lambda: atlas.neighbors(ids[0], 10, 'vae'))}")

    stored = list(batches(shards))  # in memory: only writing is timed
    started = time.perf_counter()
    reader = pa.RecordBatchReader.from_batches(stored[0].schema, stored)
    lance.write_dataset(reader, str(folder / "alone.lance"), mode="create")
    alone = time.perf_counter() - started
    size = sum(file.stat().st_size for file in (folder / "alone.lance" / "data").iterdir())
    print(
        f"\nLance alone, same columns from memory: {alone:.2f} s, {size:,} bytes; first release / this: "
        f"{first.seconds / alone:.2f}"
    )


if __name__ == "__main__":
    main()
