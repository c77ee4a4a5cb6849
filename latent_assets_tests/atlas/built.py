"""A synthetic atlas up to its coordinates: catalog, ledger, images and embeddings that agree with each other."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lancedb.table import LanceTable
from PIL import Image

from latent_assets.atlas.card import ModelInfo, ReleaseInfo, describe_release
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import Release, Staged, publish, stage
from latent_assets.atlas.rows import ShardContent
from latent_assets.atlas.table import LIVE, open_table, table_uri
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.embeddings.store import ShardEmbeddings, writing_thumbnails
from latent_assets.embeddings.thumbnails import thumbnail
from latent_assets.images.decode.image import decode_image
from latent_assets.images.outcome import LedgerRow
from latent_assets.images.store.ledger import ledger_frame
from latent_assets.images.store.tar import TarWriter
from latent_assets.layout import catalog_name, coords_name, ledger_name, tar_name, thumbnail_name
from latent_assets.profile import Profile, Table
from latent_assets.projection.fit import fit_map
from latent_assets.projection.shard import project_shard, read_coords
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

PROJECTION = "f" * 32
CATEGORIES = ("animals", "food", "flags")


@dataclass(frozen=True)
class Built:
    """Everything `stage` needs, and the truth to compare the table with."""

    profile: Profile
    storage: Storage
    embeddings: list[ShardEmbeddings]
    release: ReleaseInfo
    clip: np.ndarray
    ids: list[str]

    @property
    def shards(self) -> list[ShardContent]:
        """The shards as they are stored now: their keys follow the bytes of their files."""
        return contents(self.storage, self.embeddings)


def contents(storage: Storage, embeddings: Sequence[ShardEmbeddings]) -> list[ShardContent]:
    """Shards with keys made from the bytes of everything the table takes of them."""
    return [
        ShardContent(
            found.shard,
            _digest(
                storage,
                *(catalog_name(found.shard), ledger_name(found.shard), thumbnails_name(found.shard)),
                *found.files.values(),
            ),
            _digest(storage, coords_name(PROJECTION, found.shard)),
            found,
        )
        for found in embeddings
    ]


def _digest(storage: Storage, *names: str) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(storage.read_bytes(name) if storage.exists(name) else b"")
    return digest.hexdigest()[:32]


def thumbnails_name(shard: str) -> str:
    """Storage name of a shard's thumbnails."""
    return thumbnail_name(synthetic.THUMBNAILS, shard)


def picture(index: int) -> bytes:
    """A PNG of 160 x 120 whose colour tells its index; every other one has an alpha channel."""
    colour = (index * 37 % 256, index * 91 % 256, index * 53 % 256)
    buffer = io.BytesIO()
    image = Image.new("RGBA", (160, 120), (*colour, 255)) if index % 2 else Image.new("RGB", (160, 120), colour)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def build(
    root: Path | str, rows: int = 60, shards: int = 3, clip: np.ndarray | None = None, **projection: Any
) -> Built:
    """Write a whole small atlas below `root`, fit its maps and place its rows. `clip`: vectors [rows, d] to use."""
    profile = synthetic.profile(root, **projection)
    storage = Storage(str(root))
    vectors = synthetic.clip_vectors(rows)[0] if clip is None else clip
    embeddings = synthetic.write_shards(storage, rows, shards, clip=vectors)
    ids = synthetic.row_ids(rows)
    for number, cut in enumerate(np.array_split(np.arange(rows), shards)):
        write_facts(storage, f"{number:05d}", ids, cut.tolist())
    fit_map(profile, storage, embeddings, PROJECTION)
    for shard in embeddings:
        project_shard(profile, storage, PROJECTION, shard)
    return Built(profile, storage, embeddings, release(profile, storage, embeddings), vectors, ids)


def at(built: Built, root: Path) -> Built:
    """The same atlas at another place."""
    profile = built.profile.model_copy(update={"root": str(root)})
    return replace(built, profile=profile, storage=Storage(str(root)))


def release(
    profile: Profile,
    storage: Storage,
    shards: Sequence[ShardEmbeddings] | Sequence[ShardContent],
    fingerprint: str = "a" * 32,
) -> ReleaseInfo:
    """The release of the shards as they are stored now."""
    clip = profile.models.clip
    assert clip is not None
    models = {"clip": ModelInfo("synthetic-clip", "1" * 32, clip.model_dump(mode="json"))}
    return describe_release(profile, storage, [s.shard for s in shards], PROJECTION, fingerprint, models)


def write_facts(storage: Storage, shard: str, ids: list[str], rows: list[int]) -> None:
    """Catalog, ledger (with one failed row more than there are images), images and thumbnails of a shard."""
    pictures = {ids[i]: picture(i) for i in rows}
    catalog = pl.DataFrame(
        [
            {
                "id": ids[i],
                "url": f"http://example.org/{i}.png",
                "caption": f"picture number {i} — фото",
                "source_url": f"http://example.org/page/{i}" if i % 5 else None,
                "category": CATEGORIES[i % 3],
                "aesthetic": 5.0 + i / 100,
                "similarity": 0.3,
                "punsafe": 0.01,
                "width": 1,
                "height": 1,
                "source_hash": -i,
                "url_count": 1,
            }
            for i in rows
        ]
        + [{"id": f"{0xDEAD:032x}", "url": "http://example.org/gone.png", "caption": "gone"}],
        schema=CATALOG_SCHEMA,
    )
    storage.write_parquet(catalog_name(shard), catalog)
    entries = [
        LedgerRow(
            ids[i],
            f"http://example.org/{i}.png",
            "ok",
            "ok",
            width=160,
            height=120,
            sha256=hashlib.sha256(pictures[ids[i]]).hexdigest(),
        )
        for i in rows
    ]
    entries.append(LedgerRow(f"{0xDEAD:032x}", "http://example.org/gone.png", "failed", "http_not_found"))
    storage.write_parquet(ledger_name(shard), ledger_frame(entries))
    with storage.writing(tar_name(shard)) as path, path.open("wb") as file:
        tar = TarWriter(file)
        for row_id, data in pictures.items():
            tar.add(f"{row_id}.png", data)
            tar.add(f"{row_id}.json", b"{}")
        tar.close()
    made = {row_id: thumbnail(decode_image(data), Table()) for row_id, data in pictures.items()}
    write_thumbnails(storage, shard, list(made), list(made.values()))


def write_thumbnails(storage: Storage, shard: str, ids: list[str], files: list[bytes]) -> None:
    """Store thumbnails of a shard as the embeddings pass does."""
    with writing_thumbnails(storage, thumbnails_name(shard)) as writer:
        writer.append(ids, files)


def staged(built: Built, info: ReleaseInfo | None = None) -> Staged:
    return stage(built.profile, built.storage, built.shards, info or built.release)


def published(built: Built, info: ReleaseInfo | None = None) -> Release:
    made = staged(built, info)
    return publish(built.storage, made, check(built.profile, built.storage, made))


def live(built: Built) -> LanceTable:
    return open_table(built.storage.lance_uri, LIVE)


def data_files(built: Built) -> dict[str, bytes]:
    folder = Path(table_uri(built.storage.lance_uri)) / "data"
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def change_caption(built: Built, row: int, caption: str) -> None:
    name = catalog_name(f"{row // 20:05d}")
    changed = pl.when(pl.col("id") == built.ids[row]).then(pl.lit(caption)).otherwise("caption").alias("caption")
    built.storage.write_parquet(name, built.storage.read_parquet(name).with_columns(changed))


def move_places(built: Built, shard: str) -> np.ndarray:
    """Other coordinates for a shard, as after a refit; those of `clip`, float32 [20, 3]."""
    frame = read_coords(built.storage, PROJECTION, shard)
    places = pl.Series(frame["xyz_clip"].to_numpy() + 5, dtype=pl.Array(pl.Float32, 3))
    built.storage.write_parquet(coords_name(PROJECTION, shard), frame.with_columns(xyz_clip=places))
    return np.asarray(places.to_numpy(), np.float32)
