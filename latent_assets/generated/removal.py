"""Taking images of the atlas out of what generated images were compared with: neighbours, possible copies.

The generated images themselves stay, unless one is the very file that was taken down.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latent_assets.generated import inbox
from latent_assets.generated.projecting import forget
from latent_assets.generated.table import GeneratedTable
from latent_assets.layout import ORIGINALS, QUARANTINE, VECTORS

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_EXPLANATION = "An image that this placement named was taken down. The next placement says what is near now."


@dataclass(frozen=True)
class GeneratedRemoval:
    """placements: rows that named one of the images, and do so no longer. older: placements on releases that are gone.
    images: generated images that were the very files."""

    placements: int
    older: int
    images: int


def drop_mentions(storage: Storage, ids: Collection[str], sha256: Collection[str]) -> GeneratedRemoval:
    """Write the table `generated` anew without the rows `ids` of the atlas, and remove all its earlier versions.

    Of each image the newest placement is kept: the release that is live now places it anew from there. sha256: of
    images that were taken down; a generated image with those bytes is forgotten.
    """
    images = _drop_originals(storage, set(sha256))
    table = GeneratedTable(storage.lance_uri)
    newest: dict[str, dict[str, Any]] = {}
    older = placements = 0
    for row in table.columns(table.names()):
        held = newest.get(row["id"])
        older += held is not None
        if held is None or held["release"] < row["release"]:
            newest[row["id"]] = row
    for row_id, row in newest.items():
        if (without := _without(row, ids)) is not None:
            newest[row_id] = without
            placements += 1
    table.replace(list(newest.values()))
    return GeneratedRemoval(placements, older, images)


def _drop_originals(storage: Storage, sha256: set[str]) -> int:
    """Forget generated images that are the very files, placed, accepted, put aside or only dropped."""
    if not sha256:
        return 0
    images = forget(storage, sorted(sha256))
    for folder in (ORIGINALS, QUARANTINE, VECTORS):
        for file in list(storage.files(folder)):
            if file.name.removeprefix(f"{folder}/").partition(".")[0] in sha256:
                storage.delete(file.name)
                images += folder == ORIGINALS
    for name, rows in list(inbox.accepted(storage)):
        if kept := [row for row in rows if row["id"] not in sha256]:
            if len(kept) < len(rows):
                inbox.accept(storage, kept)
                storage.delete(name)
        else:
            storage.delete(name)
    return images


def _without(row: Mapping[str, Any], ids: Collection[str]) -> dict[str, Any] | None:
    """A row of the table without what it says of the images `ids`; None when it says nothing of them."""
    changed = dict(row)
    for name, value in row.items():
        if name.startswith("near_") and value and any(found["id"] in ids for found in value):
            changed[name] = [found for found in value if found["id"] not in ids]
    if row["copy_of"] in ids:
        changed |= {"copy_of": None, "copy_correlation": None}
    if changed == row:
        return None
    # shares and the sentence were made from those neighbours
    return changed | {"behind": [], "explanation": _EXPLANATION}
