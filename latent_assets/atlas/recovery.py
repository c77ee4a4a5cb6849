"""A table that lost files, after a power cut or at other hands: what of it still opens, and going back to that.

Whatever Lance wrote and nobody flushed comes back empty, or not at all. All of it is derived: what is empty is removed,
and readers get the newest release that is whole, until a build has made another. Files with content are left alone.

    lance/atlas.lance/_versions/{number}.manifest    one for each version; 20 digits: 2^64 - 1 - version
    lance/atlas.lance/_refs/tags/{tag}.json          the version that a tag names
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from latent_assets.atlas.fragments import table_files
from latent_assets.atlas.history import last_move, note_recovery
from latent_assets.atlas.release import move_live
from latent_assets.atlas.table import LIVE, open_table, release_tag
from latent_assets.errors import LatentAssetsError
from latent_assets.layout import ATLAS_TABLE, LANCE, table_folder
from latent_assets.storage import Storage

_TABLE = f"{LANCE}/{table_folder(ATLAS_TABLE)}"
_VERSIONS, _TAGS = f"{_TABLE}/_versions", f"{_TABLE}/_refs/tags"
_HINT = f"{_VERSIONS}/latest_version_hint.json"
_END = b"LANC"  # of a version's manifest
_INVERTED_DIGITS, _INVERTED_FROM = 20, 2**64 - 1


@dataclass(frozen=True)
class _Found:
    """What there is of the table: versions by number, tags that name one of them, and files that are no more."""

    versions: frozenset[int]
    tags: dict[str, int]
    lost: Sequence[str]


def problem_of(storage: Storage, version: int) -> str:
    """Why a published version, or the one that readers see, does not open; "" when both do. Reads no rows."""
    try:
        lost = _look(storage).lost
        if not lost:
            for wanted in (version, LIVE):
                open_table(storage.lance_uri, wanted)
    except LatentAssetsError as error:
        return str(error)
    return f"the table lost {lost[0]}" + (f" and {len(lost) - 1} more files" if lost[1:] else "") if lost else ""


def recover(storage: Storage) -> str:
    """Make a table with lost files one that opens again; says in a sentence what was done, "" when nothing was lost.

    Version manifests and tags without content are removed, and tags that name no version. Without any version the
    whole table is. When readers have nothing whole, `live` goes to the newest release whose files are all there.
    """
    found = _look(storage)
    if not found.lost and not found.versions:
        if (last := last_move(storage)) is None or last.version is None:
            return ""
        note_recovery(storage, None)
        return "The table atlas is gone and is made anew."
    # a table that was never published has nothing for readers to lose
    if not found.lost and (not found.tags or (LIVE in found.tags and _is_whole(storage, LIVE))):
        return ""
    for name in found.lost:
        storage.delete(name)
    if not found.versions:
        storage.delete(_TABLE)
        note_recovery(storage, None)
        return "The table atlas had lost all its versions and is made anew."
    live = found.tags.get(LIVE)
    if live is not None and _is_whole(storage, live):
        return (
            f"The table atlas had lost {len(found.lost)} files; the release that readers see (version {live}) is whole."
        )
    releases = sorted((v for tag, v in found.tags.items() if tag == release_tag(v) and v != live), reverse=True)
    whole = next((version for version in releases if _is_whole(storage, version)), None)
    lost = "The release that readers saw had lost files"
    if whole is None:
        note_recovery(storage, live)
        return f"{lost}; it is made anew."
    note_recovery(storage, whole)
    move_live(storage, whole)
    return f"{lost}: until it is made anew they see the release before, version {whole}."


def _is_whole(storage: Storage, version: int | str) -> bool:
    """Whether a version opens and all its data files are there."""
    try:
        return all(file.sound for file in table_files(storage, version))
    except (LatentAssetsError, OSError, ValueError, RuntimeError):
        return False


def _look(storage: Storage) -> _Found:
    versions, lost = set[int](), []
    for file in storage.list(_VERSIONS, ".manifest"):
        number = file.removesuffix(".manifest")
        if not number.isdigit():
            continue  # of no branch
        if _ends_well(storage, f"{_VERSIONS}/{file}"):
            versions.add(_INVERTED_FROM - int(number) if len(number) == _INVERTED_DIGITS else int(number))
        else:
            lost.append(f"{_VERSIONS}/{file}")
    tags = {}
    for file in storage.list(_TAGS, ".json"):
        version = _version_in(storage, f"{_TAGS}/{file}")
        if version in versions:
            tags[file.removesuffix(".json")] = version
        else:
            lost.append(f"{_TAGS}/{file}")
    if storage.exists(_HINT) and _version_in(storage, _HINT) not in versions:
        lost.append(_HINT)
    return _Found(frozenset(versions), tags, lost)


def _ends_well(storage: Storage, name: str) -> bool:
    size = storage.size(name)
    if size < len(_END):
        return False
    with storage.open(name) as file:
        file.seek(size - len(_END))
        return file.read() == _END


def _version_in(storage: Storage, name: str) -> int:
    """The version that a tag or the hint names; -1 when it says nothing."""
    try:
        return int(json.loads(storage.read_bytes(name))["version"])
    except (ValueError, TypeError, KeyError):
        return -1
