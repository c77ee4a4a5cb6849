"""How long a takedown takes: a synthetic atlas of any size, everything stored as the pipeline stores it, one image out.

    python -m infra.bench.takedown --rows 100000 [--json FILE]

Catalog, tars, ledgers, vectors (768), features (256), thumbnails, latents (--latents), fitted points, coordinates and
two releases are made up; the image is taken out of all of them and a release without it is published. The pipeline's
manifests and Dagster's log are left out: their cost does not grow with the rows of a shard.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latent_assets.atlas.card import ModelInfo, describe_release
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import publish, stage
from latent_assets.atlas.rows import ShardContent
from latent_assets.catalog.hashing import row_ids
from latent_assets.catalog.removals import removals_of
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.catalog.sharding import write_shards
from latent_assets.embeddings.store import ShardEmbeddings, writing_embeddings, writing_thumbnails
from latent_assets.images.outcome import LedgerRow
from latent_assets.images.store.ledger import ledger_frame
from latent_assets.images.store.tar import TarWriter
from latent_assets.layout import coords_name, embedding_name, ledger_name, tar_name, thumbnail_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.takedown import begin, carry_out, match
from latent_assets.profile import Profile, parse_profile
from latent_assets.projection.features import Block, SpaceRecipe
from latent_assets.projection.model import content_version, header_of, model_arrays, write_model
from latent_assets.storage import Storage, fingerprint

SHARD_ROWS = 10_000
PROJECTION = "f" * 32
WIDTHS = {"clip": 768, "vae": 256}
FEATURES = {"clip": "vector", "vae": "pooled"}


def profile_of(root: Path) -> Profile:
    """A profile with CLIP and VAE, whose models are never loaded."""
    return parse_profile(
        {
            "name": "bench",
            "root": str(root),
            "source": {"path": str(root / "list.parquet")},
            "models": {"clip": {"name": "ViT-L-14", "pretrained": "openai"}, "vae": {"model": "bench/vae"}},
            "table": {"index_above_rows": 50_000},
        },
        root / "bench.toml",
        root,
    )


def build(profile: Profile, rows: int, latents: int) -> list[ShardEmbeddings]:
    """Write everything of `rows` rows up to their coordinates; latents: width of whole latents, 0 for none."""
    storage, rng = Storage(profile.root), np.random.default_rng(1)
    urls = pl.Series("url", [f"http://host{n % 997}.example/{n:09}.jpg" for n in range(rows)])
    ids = row_ids(urls).to_list()
    order = np.argsort(ids)
    found = []
    catalog: dict[str, pl.DataFrame] = {}
    fitted: dict[str, list[Any]] = {"ids": [], "clip": [], "vae": [], "xyz": []}
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        shard, chosen = f"{number:05}", order[start : start + SHARD_ROWS]
        named, links = [ids[n] for n in chosen], [urls[int(n)] for n in chosen]
        frame = pl.DataFrame(
            {"id": named, "url": links, "caption": [f"a caption of number {n}, as long as such are" for n in chosen]}
        )
        columns = [
            pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, kind).alias(name)
            for name, kind in CATALOG_SCHEMA.items()
        ]
        frame = frame.select(columns).with_columns(url_count=pl.lit(1, pl.Int32))
        catalog[shard] = frame
        _images(storage, shard, named, links, rng)
        found.append(_vectors(storage, shard, named, rng, fitted, latents))
        print(f"\rbuilt {start + len(chosen):,} of {rows:,}", end="", flush=True)
    print()
    write_shards(storage, catalog)
    _model(profile, storage, fitted)
    return found


def _images(storage: Storage, shard: str, ids: Sequence[str], urls: Sequence[str], rng: np.random.Generator) -> None:
    """A tar of files of 4 kB, and its ledger."""
    rows = []
    with storage.writing(tar_name(shard)) as path, path.open("wb", buffering=0) as file, TarWriter(file) as tar:
        for row_id, url in zip(ids, urls, strict=True):
            data = rng.bytes(4096)
            digest = hashlib.sha256(data).hexdigest()
            tar.add(f"{row_id}.jpg", data)
            tar.add(f"{row_id}.txt", b"a caption")
            tar.add(f"{row_id}.json", json.dumps({"key": row_id, "url": url}).encode())
            rows.append(
                LedgerRow(
                    row_id, url, "ok", "ok", width=512, height=512, extension="jpg", sha256=digest, stored_sha256=digest
                )
            )
        tar.close()
    storage.write_parquet(ledger_name(shard), ledger_frame(rows), compression="zstd")


def _vectors(
    storage: Storage,
    shard: str,
    ids: Sequence[str],
    rng: np.random.Generator,
    fitted: dict[str, list[Any]],
    latents: int,
) -> ShardEmbeddings:
    """Vectors in 64 clusters, thumbnails of 3 kB, coordinates; a tenth of the rows is fitted."""
    files = {}
    centres = np.random.default_rng(2).normal(size=(64, 768))
    labels = rng.integers(64, size=len(ids))
    for name, width in WIDTHS.items():
        values = centres[labels, :width] + 0.4 * rng.normal(size=(len(ids), width))
        if name == "clip":
            values /= np.linalg.norm(values, axis=1, keepdims=True)
        files[name] = embedding_name("0" * 31 + str(len(name)), shard)
        widths = {FEATURES[name]: width} | ({"latent": latents} if latents and name == "vae" else {})
        whole = "latent" if latents and name == "vae" else None
        with writing_embeddings(storage, files[name], widths, whole=whole) as writer:
            for at in range(0, len(ids), 1000):
                columns = {FEATURES[name]: values[at : at + 1000]}
                if whole:
                    columns[whole] = rng.normal(size=(len(values[at : at + 1000]), latents)).astype(np.float16)
                writer.append(ids[at : at + 1000], columns)
        fitted[name].append(values[::10].astype(np.float16))
    thumbnails = thumbnail_name("0" * 32, shard)
    picture = _thumbnail()
    with writing_thumbnails(storage, thumbnails) as small:
        small.append(ids, [picture] * len(ids))
    xyz = rng.normal(size=(len(ids), 3)).astype(np.float32)
    places = pl.Series("xyz_clip", xyz, dtype=pl.Array(pl.Float32, 3))
    frame = pl.DataFrame({"id": ids, "xyz_clip": places, "fitted": np.arange(len(ids)) % 10 == 0})
    storage.write_parquet(coords_name(PROJECTION, shard), frame)
    fitted["ids"] += list(ids[::10])
    fitted["xyz"].append(xyz[::10])
    return ShardEmbeddings(shard, files, thumbnails)


def _thumbnail() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((96, 96)).save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _model(profile: Profile, storage: Storage, fitted: dict[str, list[Any]]) -> None:
    vectors = {name: np.concatenate(fitted[name]) for name in WIDTHS}
    arrays = model_arrays(fitted["ids"], vectors, {"clip": np.concatenate(fitted["xyz"])})
    recipes = (SpaceRecipe("clip", "cosine", (Block("clip", True, 1.0),)),)
    header = header_of(recipes, FEATURES, WIDTHS, profile.projection)
    report = {
        "held_out": [],
        "rows": len(fitted["ids"]),
        "version": content_version(arrays, []),
        "features": {name: {"chosen": FEATURES[name], "recall": {}} for name in WIDTHS},
        "backend": "none",
        "device": "cpu",
        "spaces": {"clip": {"quality": {}}},
    }
    write_model(storage, PROJECTION, arrays, header | {"report": report})


def release(profile: Profile, shards: Sequence[ShardEmbeddings], number: int) -> None:
    """Stage, check and publish, from scratch the first time."""
    storage = Storage(profile.root)
    models = {name: ModelInfo(name, "1" * 32, {}) for name in WIDTHS}
    info = describe_release(profile, storage, [s.shard for s in shards], PROJECTION, f"{number:032}", models)
    contents = [ShardContent(s.shard, fingerprint("rows", s.shard), fingerprint("xyz", s.shard), s) for s in shards]
    staged = stage(profile, storage, contents, info)
    publish(storage, staged, check(profile, storage, staged))


def main() -> None:
    """Build, publish twice, take one image out; print seconds, bytes and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--latents", type=int, default=0, help="width of whole latents (16384 for SD at 512 px)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="takedown-"))
    try:
        profile = profile_of(folder)
        clock = time.perf_counter()
        shards = build(profile, options.rows, options.latents)
        built = time.perf_counter() - clock
        clock = time.perf_counter()
        release(profile, shards, 1)
        published = time.perf_counter() - clock
        release(profile, shards, 2)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        lineage = Lineage(profile)
        clock, used = time.perf_counter(), time.process_time()
        link = pl.read_parquet(folder / "catalog" / "00000.parquet")["url"][77]
        found = match(lineage, removals_of(urls=[link]))
        matched = time.perf_counter() - clock
        assert found.rows == 1 and found.shards == ("00000",), found.found
        done = carry_out(lineage, begin(lineage, found, "measured", {"url": 1}))
        whole, cpu = time.perf_counter() - clock, time.process_time() - used
        result = {
            "rows": options.rows,
            "bytes": size,
            "build_s": round(built, 1),
            "publish_from_scratch_s": round(published, 1),
            "match_s": round(matched, 1),
            "takedown_s": round(whole, 1),
            "takedown_cpu_s": round(cpu, 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "removed": done.record.removed,
            "release": asdict(done.record)["release"],
        }
        print(json.dumps(result, indent=1))
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
