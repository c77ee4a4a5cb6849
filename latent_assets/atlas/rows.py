"""The rows of the table, shard by shard: catalog, ledger, thumbnails, vectors and coordinates joined by id.

One shard is in memory at a time. How rows become a release is in `table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.atlas.release import ReleaseInfo
from latent_assets.atlas.schema import arrow_schema
from latent_assets.catalog.shards import read_shard
from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.embeddings.thumbnails import thumbnail
from latent_assets.errors import DataError
from latent_assets.images.ledger import read_ledger
from latent_assets.images.outcome import Outcome
from latent_assets.images.tar import read_images
from latent_assets.models.preprocessing import decode
from latent_assets.profile import Profile
from latent_assets.progress import report
from latent_assets.projection.rows import ShardRows, read_shard_rows
from latent_assets.projection.shard import read_coords
from latent_assets.storage import Storage

_BATCH_ROWS = 1_000
_CATALOG = (
    "url",
    "source_url",
    "caption",
    "category",
    "aesthetic",
    "similarity",
    "punsafe",
    "pwatermark",
    "source_hash",
)
_LEDGER = ("width", "height", "sha256")


def table_batches(
    profile: Profile, storage: Storage, shards: Sequence[ShardEmbeddings], release: ReleaseInfo
) -> Iterator[pa.RecordBatch]:
    """Record batches of all rows in shard order, in the schema of `release`."""
    schema = arrow_schema(release.dims, release.spaces, release.to_json())
    done = 0
    for shard in shards:
        report("atlas_table", done, release.rows, note=f"shard {shard.shard}")
        columns = _shard_columns(profile, storage, shard, release)
        batch = pa.record_batch([columns[name] for name in schema.names], schema=schema)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)
        done += batch.num_rows
    report("atlas_table", done, release.rows)


def _shard_columns(
    profile: Profile, storage: Storage, shard: ShardEmbeddings, release: ReleaseInfo
) -> dict[str, pa.Array]:
    """The table's columns for the rows of a shard that have coordinates."""
    coords = read_coords(storage, release.projection, shard.shard)
    ids: list[str] = coords["id"].to_list()
    facts = _facts(storage, shard.shard, coords)
    wanted = _wanted(read_images(storage, shard.shard), set(ids))
    pictures = {row_id: _thumbnail(row_id, data, shard.shard, profile) for row_id, data in wanted}
    _refuse_missing(shard.shard, "images", [row_id for row_id in ids if row_id not in pictures])
    columns = {"id": pa.array(ids, pa.string()), "shard": pa.array([shard.shard] * len(ids), pa.string())}
    columns |= {name: _plain(facts[name]) for name in (*_CATALOG, *_LEDGER)}
    columns["thumbnail"] = pa.array([pictures[row_id] for row_id in ids], pa.binary())
    columns |= _vectors(storage, read_shard_rows(storage, shard), ids, release)
    for space in release.spaces:
        values = coords[f"xyz_{space}"].to_numpy().astype(np.float32).reshape(len(ids), 3)
        columns[f"xyz_{space}"] = _fixed(values, pa.float32())
    return columns


def _thumbnail(row_id: str, data: bytes, shard: str, profile: Profile) -> bytes:
    try:
        return thumbnail(decode(data), profile.table)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"The stored image {row_id} of shard {shard} cannot be decoded ({error}). Fetch the shard again: "
            f"remove images/{shard}.tar and images/{shard}.parquet (or the folder images/{shard}) and "
            f"manifests/image_shards/{shard}.json, then run `latent-assets build`."
        ) from error


def _wanted(images: Iterable[tuple[str, bytes]], ids: set[str]) -> Iterator[tuple[str, bytes]]:
    return ((row_id, data) for row_id, data in images if row_id in ids)


def _facts(storage: Storage, shard: str, coords: pl.DataFrame) -> pl.DataFrame:
    """Catalog and ledger columns of the rows of `coords`, in their order."""
    catalog = read_shard(storage, shard).select("id", *_CATALOG)
    fetched = read_ledger(storage, shard).filter(pl.col("outcome") == Outcome.OK.value).select("id", *_LEDGER)
    for name, frame in (("catalog", catalog), ("image ledger", fetched)):
        _refuse_missing(shard, name, coords.join(frame, on="id", how="anti")["id"].to_list())
    return (
        coords.select("id")
        .join(catalog, on="id", how="left", maintain_order="left")
        .join(fetched, on="id", how="left", maintain_order="left")
    )


def _refuse_missing(shard: str, place: str, missing: Sequence[str]) -> None:
    if missing:
        raise DataError(
            f"Shard {shard}: {len(missing)} rows have coordinates but are not in the {place}, the first is "
            f"{missing[0]}. Stages are out of step: run `latent-assets build`."
        )


def _plain(values: pl.Series) -> pa.Array:
    """A column with Arrow's plain string type instead of polars' large or view types."""
    found = values.to_arrow()
    text = pa.types.is_large_string(found.type) or pa.types.is_string_view(found.type)
    return found.cast(pa.string()) if text else found


def _vectors(storage: Storage, rows: ShardRows, ids: Sequence[str], release: ReleaseInfo) -> dict[str, pa.Array]:
    """The clip and vae columns, float16, in the order of `ids`."""
    at = {row_id: position for position, row_id in enumerate(rows.ids)}
    _refuse_missing(rows.embeddings.shard, "embeddings", [row_id for row_id in ids if row_id not in at])
    chosen = np.array([at[row_id] for row_id in ids], dtype=np.int64)
    found = {"clip": rows.read(storage, "clip", "vector", chosen)} if "clip" in rows.rows else {}
    if release.vae_feature is not None:
        found["vae"] = rows.read(storage, "vae", release.vae_feature, chosen)
    return {name: _fixed(values, pa.float16()) for name, values in found.items()}


def _fixed(values: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    """[n, d] as a fixed-size list array."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind), values.shape[1])
