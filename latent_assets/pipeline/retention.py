"""What is kept of an atlas's past: old releases, and the artefacts of fits and models that nothing refers to any more.

Which releases go is decided in `atlas.release`; here is what else only they needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from latent_assets.errors import LatentAssetsError
from latent_assets.layout import BY_FINGERPRINT, fingerprint_folder, labels_folder, projection_folder

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage


@dataclass(frozen=True)
class Pruned:
    """What was dropped, or would be: tags of releases, folders of artefacts, bytes freed."""

    releases: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int


def prune_atlas(lineage: Lineage, keep: int, younger_than: timedelta, dry_run: bool = False) -> Pruned:
    """Drop the releases that `atlas.release.prune` drops, and folders of models and fits that nothing needs.

    A folder is needed while a manifest names a file in it, a kept release was made from it, the profile would make
    its files there, or one of its files is younger than `younger_than`. Nothing is dropped while artefacts are made:
    whoever makes one is waited for.
    """
    from latent_assets.atlas.release import dropped_by, prune

    storage = lineage.storage
    with lineage.claims.alone("retention"):
        gone = dropped_by(storage, keep, younger_than)
        needed = set(_needed(lineage, gone))
        since = time.time() - younger_than.total_seconds()
        folders = {
            folder: size
            for folder, (size, newest) in _folders(lineage).items()
            if folder not in needed and newest < since
        }
        freed = sum(folders.values())
        if not dry_run:
            freed += prune(storage, keep, younger_than)
            for folder in folders:
                storage.delete(folder)
    return Pruned(tuple(gone.values()), tuple(folders), 0 if dry_run else freed)


def _folders(lineage: Lineage) -> Mapping[str, tuple[int, float]]:
    """Bytes in each folder of artefacts, and when a file in it was changed last."""
    found = {}
    for room in BY_FINGERPRINT:
        for name in lineage.storage.folders(room):
            files = list(lineage.storage.files(f"{room}/{name}"))
            found[f"{room}/{name}"] = (
                sum(file.size for file in files),
                max((file.modified for file in files), default=0.0),
            )
    return found


def _needed(lineage: Lineage, gone: Iterable[int]) -> Iterator[str]:
    """Folders of artefacts that something refers to."""
    from latent_assets.atlas.history import releases
    from latent_assets.pipeline.makers.embeddings import places

    for stage in lineage.stages:
        for manifest in lineage.manifests.all(stage).values():
            for name in manifest.files:
                yield fingerprint_folder(name)
    for release in releases(lineage.storage.lance_uri):
        if release.version not in gone:
            yield projection_folder(release.info.projection)
            yield labels_folder(release.info.labels)
    try:
        where = places(lineage, "")
    except LatentAssetsError:  # a model that is not on this machine
        return
    for name in (*where.files.values(), where.thumbnails or ""):
        yield fingerprint_folder(name)
