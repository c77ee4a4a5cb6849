"""What the table takes from the other rooms: a shard's catalog, ledger, thumbnails, vectors and places, joined by id.

The only module of this room that knows how those are stored. One shard is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.schema import CLUSTER, PLACE
from latent_assets.catalog.shards import read_shard
from latent_assets.embeddings.store import ShardEmbeddings, read_column, read_id_array, read_thumbnails
from latent_assets.errors import DataError
from latent_assets.images.outcome import Outcome
from latent_assets.images.store.ledger import read_ledger
from latent_assets.layout import clusters_name, coords_name
from latent_assets.projection.header import read_header
from latent_assets.storage import Storage

_CATALOG = (
    "url",
    "path",
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


@dataclass(frozen=True)
class ShardContent:
    """What a shard brings to a release, and the keys that tell whether the table has it already.

    `rows_key` stands for everything but places: it changes when the shard's catalog, images, thumbnails or embeddings
    do. `coords_key` stands for the places, and the clusters that they are in. `embeddings` names the files of the
    vectors and of the thumbnails.
    """

    shard: str
    rows_key: str
    coords_key: str
    embeddings: ShardEmbeddings


@dataclass(frozen=True)
class Maps:
    """What the fitted maps say of themselves; see `card.ReleaseInfo` for the meaning of each."""

    spaces: tuple[str, ...]
    dims: dict[str, int]
    features: dict[str, str]
    feature_recall: dict[str, dict[str, float]]
    settings: dict[str, Any]
    backend: str
    device: str
    quality: dict[str, dict[str, Any]]
    placed_quality: dict[str, dict[str, Any]]
    continues: str
    floor: dict[str, dict[str, Any]]


def read_maps(storage: Storage, projection: str) -> Maps:
    """The header of the maps with the fingerprint `projection`. Raises NotBuiltError when they are not there."""
    header = read_header(storage, projection)
    fit = header["report"]
    return Maps(
        spaces=tuple(recipe["space"] for recipe in header["recipes"]),
        dims=header["dims"],
        features=header["features"],
        feature_recall={
            name: choice["recall"] for name, choice in fit["features"].items() if len(choice["recall"]) > 1
        },
        settings=header["settings"],
        backend=fit["backend"],
        device=fit["device"],
        quality={name: space["quality"] for name, space in fit["spaces"].items()},
        placed_quality={name: space["placed"] for name, space in fit["spaces"].items() if space.get("placed")},
        continues=fit.get("aligned_to") or "",
        floor={name: space["floor"] for name, space in fit["spaces"].items() if space.get("floor")},
    )


def placed_rows(storage: Storage, projection: str, shard: str) -> int:
    """How many rows of a shard have coordinates."""
    with storage.open(coords_name(projection, shard)) as file:
        return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def read_places(storage: Storage, projection: str, shard: str, spaces: Sequence[str]) -> tuple[pa.Array, pa.Table]:
    """The ids of the rows of a shard that have coordinates, and their columns `xyz_SPACE`: float32 [n, 3] each."""
    names = [f"{PLACE}{space}" for space in spaces]
    coords = storage.read_parquet(coords_name(projection, shard), ["id", *names])
    places = {name: _fixed(coords[name].to_numpy().astype(np.float32, copy=False).reshape(-1, 3)) for name in names}
    return _plain(coords["id"]), pa.table(places)


def with_clusters(
    storage: Storage, labels: str, shard: str, spaces: Sequence[str], ids: pa.Array, places: pa.Table
) -> pa.Table:
    """`places` with the columns `cluster_SPACE` (string) of the rows `ids` of a shard.

    Raises DataError when a row is not in the labels.
    """
    found = storage.read_parquet(clusters_name(labels, shard))
    at = _positions(shard, "labels", ids, _plain(found["id"]))
    for space in spaces:
        column = _plain(found[f"{CLUSTER}{space}"])
        places = places.append_column(f"{CLUSTER}{space}", column if at is None else column.take(at))
    return places


def read_rows(storage: Storage, content: ShardContent, ids: pa.Array, features: Mapping[str, str]) -> pa.Table:
    """All columns but the places, for the rows `ids` (string) of a shard, in that order.

    `features`: the feature of each embedding that goes into the table. Raises DataError when a row is not in the
    catalog, the ledger, the thumbnails or an embedding.
    """
    facts = _facts(storage, content.shard, ids)
    columns = {"id": ids} | {name: _plain(facts[name]) for name in (*_CATALOG, *_LEDGER)}
    columns["thumbnail"] = _thumbnails(storage, content, ids)
    for name, feature in features.items():
        columns[name] = _vectors(storage, content, name, feature, ids)
    columns["shard"] = pa.repeat(pa.scalar(content.shard, pa.string()), len(ids))
    return pa.table(columns)


def _facts(storage: Storage, shard: str, ids: pa.Array) -> pl.DataFrame:
    """Catalog and ledger columns of the rows `ids`, in their order."""
    wanted = pl.DataFrame({"id": pl.Series(pl.from_arrow(ids), dtype=pl.String)})
    catalog = read_shard(storage, shard).select("id", *_CATALOG)
    fetched = read_ledger(storage, shard).filter(pl.col("outcome") == Outcome.OK.value).select("id", *_LEDGER)
    for place, frame in (("catalog", catalog), ("image ledger", fetched)):
        _refuse_missing(shard, place, wanted.join(frame, on="id", how="anti")["id"].to_list())
    return wanted.join(catalog, on="id", how="left", maintain_order="left").join(
        fetched, on="id", how="left", maintain_order="left"
    )


def _thumbnails(storage: Storage, content: ShardContent, ids: pa.Array) -> pa.ChunkedArray:
    name = content.embeddings.thumbnails
    if name is None:
        raise DataError(f"Shard {content.shard} has no thumbnails: encode it again with `latent-assets build`.")
    table = read_thumbnails(storage, name)
    at = _positions(content.shard, "thumbnails", ids, table["id"])
    return table["thumbnail"] if at is None else table["thumbnail"].take(at)


def _vectors(storage: Storage, content: ShardContent, name: str, feature: str, ids: pa.Array) -> pa.Array:
    """A feature of an embedding: float16 [n, d] in the order of `ids`."""
    file = content.embeddings.files[name]
    at = _positions(content.shard, "embeddings", ids, read_id_array(storage, file))
    values = read_column(storage, file, feature)
    return _fixed(values if at is None else values[at.to_numpy()])


def _positions(shard: str, place: str, ids: pa.Array, stored: pa.Array | pa.ChunkedArray) -> pa.Array | None:
    """Where each of `ids` is in `stored`; None when the two are the same. Raises DataError for ids that are not."""
    whole = stored.combine_chunks() if isinstance(stored, pa.ChunkedArray) else stored
    if ids.equals(whole):
        return None
    at = pc.index_in(ids, value_set=whole)
    _refuse_missing(shard, place, ids.filter(pc.is_null(at)).to_pylist() if at.null_count else [])
    return at


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


def _fixed(values: np.ndarray) -> pa.FixedSizeListArray:
    """[n, d] as a fixed-size list array of the same value type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
