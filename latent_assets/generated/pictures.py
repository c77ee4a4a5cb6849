"""Pictures of a batch of generated images, for the person who looks at a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latent_assets.atlas.pictures import release_maps
from latent_assets.atlas.schema import PLACE
from latent_assets.images.contact_sheet import contact_sheet
from latent_assets.plots import map_picture

_MARKED = 200


def batch_pictures(lance_uri: str, release: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The images of `rows` (of the table `generated`) on the maps of their release, and their contact sheet; PNG."""
    if not rows:
        return {}
    maps, categories = release_maps(lance_uri, release)
    marks = {space: np.array([row[f"{PLACE}{space}"] for row in rows[:_MARKED]], np.float32) for space in maps}
    return {
        "batch on the map": map_picture(
            maps, categories, marks=marks, title=f"Generated images of one run: {len(rows):,}"
        ),
        "contact sheet": contact_sheet(row["thumbnail"] for row in rows),
    }
