"""Coordinates of whole shards: rows of the fit keep their place, all others are placed.

projection/{fingerprint}/coords/{shard}.parquet
  id string; xyz_{space} Array(f32, 3) for each space of the model; fitted bool
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import polars as pl

from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.errors import DataError
from latent_assets.layout import coords_name
from latent_assets.profile import Profile
from latent_assets.projection.fit import corner
from latent_assets.projection.model import MapModel, content_version, load_model
from latent_assets.projection.rows import ShardRows, read_shard_rows
from latent_assets.storage import Storage


@dataclass(frozen=True)
class CoordsReport:
    """Coordinates of one shard. `version`: hash of ids and coordinates. `unmatched`: rows a model lacks.

    `lower`, `upper`: corners of each space's box (map units); absent for a shard without rows.
    """

    shard: str
    version: str
    rows: int
    fitted: int
    placed: int
    unmatched: int
    lower: dict[str, tuple[float, float, float]]
    upper: dict[str, tuple[float, float, float]]
    bytes: int
    seconds: float


def project_shard(profile: Profile, storage: Storage, model_fingerprint: str, shard: ShardEmbeddings) -> CoordsReport:
    """Give every row of `shard` its coordinates in every space and store them.

    Raises NotBuiltError when the model is not there, DataError when a row's embedding is not finite or the
    model was fitted for other spaces than the profile has.
    """
    started = time.monotonic()
    model = load_model(storage, model_fingerprint)
    spaces = [recipe.space for recipe in model.recipes]
    if set(spaces) != set(profile.projection.spaces):
        raise DataError(
            f"The fitted model has the spaces {', '.join(spaces)}, the profile {', '.join(profile.projection.spaces)}: "
            "fit the maps again with `latent-assets build`."
        )
    rows = read_shard_rows(storage, shard)
    if rows.ids and not model.ids:
        raise DataError(
            f"The maps were fitted when the atlas had no rows, and shard {shard.shard} has {len(rows.ids)}: fit them "
            "again with `latent-assets build`."
        )
    at = np.array([model.row_of.get(row_id, -1) for row_id in rows.ids], dtype=np.int64)
    coords = _coordinates(storage, model, rows, at)
    frame = pl.DataFrame(
        {"id": pl.Series(rows.ids, dtype=pl.String)}
        | {f"xyz_{space}": pl.Series(values, dtype=pl.Array(pl.Float32, 3)) for space, values in coords.items()}
        | {"fitted": pl.Series(at >= 0, dtype=pl.Boolean)}
    )
    name = coords_name(model_fingerprint, shard.shard)
    storage.write_parquet(name, frame)
    boxes = {space: values for space, values in coords.items() if len(values)}
    return CoordsReport(
        shard=shard.shard,
        version=content_version(dict(coords), rows.ids),
        rows=len(rows.ids),
        fitted=int((at >= 0).sum()),
        placed=int((at < 0).sum()),
        unmatched=rows.unmatched,
        lower={space: corner(values.min(axis=0)) for space, values in boxes.items()},
        upper={space: corner(values.max(axis=0)) for space, values in boxes.items()},
        bytes=storage.size(name),
        seconds=round(time.monotonic() - started, 3),
    )


def _coordinates(storage: Storage, model: MapModel, rows: ShardRows, at: np.ndarray) -> dict[str, np.ndarray]:
    """float32 [n, 3] per space; `at` int64 [n] is a row's position in the fit, -1 for a row to place."""
    further = np.flatnonzero(at < 0)
    vectors = {
        name: rows.read(storage, name, column, further) for name, column in model.features.items() if len(further)
    }
    coords: dict[str, np.ndarray] = {}
    for recipe in model.recipes:
        values = np.empty((len(at), 3), np.float32)
        values[at >= 0] = model.coords[recipe.space][at[at >= 0]]
        if len(further):
            values[further] = model.placers[recipe.space].coordinates(recipe.features(vectors))
        coords[recipe.space] = values
    return coords


def read_coords(storage: Storage, model_fingerprint: str, shard: str) -> pl.DataFrame:
    """The stored coordinates of a shard."""
    return storage.read_parquet(coords_name(model_fingerprint, shard))
