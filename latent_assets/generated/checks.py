"""The checks of generated images, by their names in Dagster: each lists what it finds wrong."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from latent_assets.atlas.schema import PLACE
from latent_assets.generated import inbox
from latent_assets.generated.projecting import live_target
from latent_assets.generated.table import GeneratedTable
from latent_assets.layout import ORIGINALS

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_HASHED = 200


def originals_kept(storage: Storage) -> list[str]:
    """Finds images whose original is not there or has another size; of the newest 200 also those with other bytes."""
    there = {file.name: file.size for file in storage.files(ORIGINALS)}
    rows = GeneratedTable(storage.lance_uri).columns(["id", "file", "bytes", "received"])
    newest = sorted({(row["received"], row["id"], row["file"], row["bytes"]) for row in rows}, reverse=True)
    lost = [f"{name}: not there, or of another size" for _, _, name, size in newest if there.get(name) != size]
    for _, row_id, name, size in newest[:_HASHED]:
        if there.get(name) == size and hashlib.sha256(storage.read_bytes(name)).hexdigest() != row_id:
            lost.append(f"{name}: other bytes than were taken")
    return lost


def nothing_put_aside(storage: Storage) -> list[str]:
    """Finds files in quarantine, with their reasons."""
    return [f"{item.name}: {item.reason} ({item.detail})" for item in inbox.quarantined(storage)]


def placed_once(storage: Storage) -> list[str]:
    """Finds images without a place on the release that is live, with two, with values that are not finite, or with a
    verdict that follows an older calibration."""
    table = GeneratedTable(storage.lance_uri)
    live, calibration = live_target(storage) or (None, None)
    aside = inbox.ids_aside(storage)
    counts: dict[str, int] = {}
    problems: list[str] = []
    spaces = [name for name in table.names() if name.startswith(PLACE)]
    for row in table.columns(["id", "release", "calibration", *spaces]):
        counts.setdefault(row["id"], 0)
        if row["release"] != live:
            continue
        counts[row["id"]] += 1
        places = [row[space] for space in spaces if row[space] is not None]
        if not places or not np.isfinite(np.array(places, np.float64)).all():
            problems.append(f"{row['id']}: no place, or one that is not finite")
        if row["calibration"] != calibration:
            problems.append(f"{row['id']}: its verdict follows an older calibration")
    for row_id, count in counts.items():
        if count > 1 or (count == 0 and live is not None and row_id not in aside):
            problems.append(f"{row_id}: {count} places on release {live}")
    return problems
