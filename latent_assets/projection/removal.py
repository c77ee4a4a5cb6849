"""Taking rows out of fitted maps and of the coordinates placed on them. Nothing is fitted or placed anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from latent_assets.errors import DataError
from latent_assets.layout import coords_name, model_name, projection_folder
from latent_assets.projection.header import read_header
from latent_assets.projection.model import content_version, write_model

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_IDS = "ids"


@dataclass(frozen=True)
class ModelRemoval:
    """What was taken out of a fit: `dropped` of its rows; `rows` are left. `version`: that of the maps as they are now,
    None when nothing changed."""

    dropped: int
    rows: int
    version: str | None


def drop_from_model(storage: Storage, fingerprint: str, ids: Collection[str]) -> ModelRemoval | None:
    """Take rows out of fitted maps: their ids, vectors and places, and their names among those held out.

    None when there is no such model, or it cannot be read: then it is removed. Raises DataError for an array that this
    version does not know how to shorten.
    """
    name = model_name(fingerprint)
    if not storage.exists(name):
        return None
    try:
        header = read_header(storage, fingerprint)
        with storage.local(name) as path:
            arrays = load_file(path)
        packed = arrays[_IDS]
        listed = [row.decode() for row in packed.reshape(-1).view(f"S{packed.shape[1]}").tolist()]
    except (OSError, ValueError, KeyError):
        storage.delete(name)
        return None
    keep = np.array([row_id not in ids for row_id in listed], dtype=bool)
    held_out = [row_id for row_id in header["report"]["held_out"] if row_id not in ids]
    dropped = int((~keep).sum())
    if not dropped and len(held_out) == len(header["report"]["held_out"]):
        return ModelRemoval(0, len(listed), None)
    if odd := [key for key, values in arrays.items() if len(values) != len(listed)]:
        raise DataError(f"{name}: the array `{odd[0]}` is not one of rows, so rows cannot be taken out of it.")
    kept = {key: values[keep] for key, values in arrays.items()}
    decisions = [header["recipes"], header["features"], header["settings"]["n_neighbors"]]
    version = content_version(kept, decisions)
    report = header["report"] | {"held_out": held_out, "rows": int(keep.sum()), "version": version}
    write_model(storage, fingerprint, kept, header | {"report": report})
    return ModelRemoval(dropped, int(keep.sum()), version)


def drop_coordinates(storage: Storage, fingerprint: str, shard: str, ids: Collection[str]) -> int:
    """Take rows out of a shard's coordinates; how many that were. A file that cannot be read is removed."""
    name = coords_name(fingerprint, shard)
    try:
        frame = storage.read_parquet(name)
        kept = frame.filter(~pl.col("id").is_in(list(ids)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError):
        storage.delete(name)
        return 0
    if kept.height < frame.height:
        storage.write_parquet(name, kept)
    return frame.height - kept.height


def placed_shards(storage: Storage, fingerprint: str) -> list[str]:
    """The shards that have coordinates on the maps of a fingerprint."""
    names = storage.list(f"{projection_folder(fingerprint)}/coords", ".parquet")
    return [name.removesuffix(".parquet") for name in names]


def move_projection(storage: Storage, fingerprint: str, to: str) -> None:
    """Give fitted maps and all coordinates on them another fingerprint: they are made from other parents now."""
    for file in list(storage.files(projection_folder(fingerprint))):
        inside = file.name.removeprefix(f"{projection_folder(fingerprint)}/")
        storage.move(file.name, f"{projection_folder(to)}/{inside}")
    storage.delete(projection_folder(fingerprint))
