"""Pictures of a release, for the person who looks at a build: the map of every space, coloured by category."""

from __future__ import annotations

import numpy as np

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import open_table
from latent_assets.plots import map_picture

_DRAWN = 20_000


def release_pictures(lance_uri: str, version: int) -> dict[str, bytes]:
    """PNG pictures of a version of the table by name; {} when it has no rows. At most 20,000 rows are read."""
    table = open_table(lance_uri, version)
    release = ReleaseInfo.of_schema(table.schema, lance_uri)
    rows = table.count_rows()
    if not rows:
        return {}
    columns = ["category", *(f"{PLACE}{space}" for space in release.spaces)]
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, _DRAWN)).astype(np.int64))
    drawn = table.take_offsets(chosen.tolist()).select(columns).to_arrow()
    maps = {
        space: np.asarray(drawn[f"{PLACE}{space}"].combine_chunks().flatten(), np.float32).reshape(-1, 3)
        for space in release.spaces
    }
    return {"map": map_picture(maps, drawn["category"].to_pylist(), title=f"{release.title}: {rows:,} images")}
