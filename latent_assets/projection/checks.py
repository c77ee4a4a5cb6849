"""What must hold of a shard's coordinates. A file that cannot be read is a problem here, not an error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from latent_assets.embeddings.quality import UNREADABLE, Problems, row_problems
from latent_assets.layout import coords_name
from latent_assets.projection.shard import read_coords
from latent_assets.storage import Storage


def coordinate_problems(
    storage: Storage,
    model_fingerprint: str,
    shard: str,
    spaces: Sequence[str],
    rows: int | None = None,
    ids: Sequence[str] | None = None,
) -> Problems:
    """What is wrong with a shard's coordinates (`rows`, `values`: what was found; {} when all is well).

    Expects distinct ids, as many as `rows` and equal to the set `ids` where these are known, and for each three finite
    coordinates in each of `spaces`. Never raises for what is in the file.
    """
    name = coords_name(model_fingerprint, shard)
    try:
        frame = read_coords(storage, model_fingerprint, shard)
        problems = row_problems(name, frame["id"].to_list(), rows, ids)
    except (*UNREADABLE, pl.exceptions.PolarsError) as error:
        return {"rows": f"{name} cannot be read ({str(error).splitlines()[0][:200]})"}
    for space in spaces:
        column = f"xyz_{space}"
        if frame.schema.get(column) != pl.Array(pl.Float32, 3):
            problems.setdefault("values", f"{name} has no coordinates of the space `{space}`")
            continue
        values = frame[column].to_numpy().reshape(-1, 3)
        missing = frame[column].is_null().to_numpy() | ~np.isfinite(values).all(axis=1)
        if missing.any():
            first = frame["id"][int(np.flatnonzero(missing)[0])]
            problems.setdefault(
                "values",
                f"{name} has coordinates of the space `{space}` that are not finite in {int(missing.sum())} rows, the "
                f"first is {first}",
            )
    return problems
