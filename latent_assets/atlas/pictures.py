"""Pictures of a release, for the person who looks at a build: the map of every space, coloured by category."""

from __future__ import annotations

import numpy as np

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import open_table
from latent_assets.plots import map_picture

_DRAWN = 20_000


def release_pictures(lance_uri: str, version: int) -> dict[str, bytes]:
    """PNG pictures of a version of the table by name; {} when it has no rows."""
    table = open_table(lance_uri, version)
    if not (rows := table.count_rows()):
        return {}
    maps, categories = release_maps(lance_uri, version)
    release = ReleaseInfo.of_schema(table.schema, lance_uri)
    return {"map": map_picture(maps, categories, title=f"{release.title}: {rows:,} images")}


def release_maps(lance_uri: str, version: int) -> tuple[dict[str, np.ndarray], list[str | None]]:
    """Places float32 [n, 3] by space and categories [n] of a version: at most 20,000 rows, evenly chosen."""
    table = open_table(lance_uri, version)
    release = ReleaseInfo.of_schema(table.schema, lance_uri)
    rows = table.count_rows()
    columns = ["category", *(f"{PLACE}{space}" for space in release.spaces)]
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, _DRAWN)).astype(np.int64))
    drawn = table.take_offsets(chosen.tolist()).select(columns).to_arrow()
    maps = {
        space: np.asarray(drawn[f"{PLACE}{space}"].combine_chunks().flatten(), np.float32).reshape(-1, 3)
        for space in release.spaces
    }
    return maps, drawn["category"].to_pylist()
