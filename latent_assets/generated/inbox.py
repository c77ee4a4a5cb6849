"""The inbox: images from anywhere, dropped into a folder below the root, on disk or S3.

    generated/inbox/...                      what was dropped, in any folders; what lies here is not done yet
    generated/batches/{digest}.json          the files of the inbox that a run was asked to take
    generated/images/{sha256}.{ext}          the original bytes of what was taken
    generated/accepted/{digest}.json         what was taken and not placed yet
    generated/quarantine/{sha256}.{ext}      what cannot be taken; beside it {sha256}.reason.json: its name, and why

A file leaves the inbox only after it lies elsewhere: a process that is killed loses nothing, and does nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.layout import (
    ACCEPTED,
    BATCHES,
    INBOX,
    QUARANTINE,
    REASON_SUFFIX,
    accepted_name,
    batch_name,
    quarantined_name,
    reason_name,
)
from latent_assets.storage import StoredFile

if TYPE_CHECKING:
    from latent_assets.storage import Storage

SIDECAR_SUFFIXES = (".txt", ".json")
# a file that was changed less than so many seconds ago may still be being written; objects on S3 appear whole
_SETTLES = 2.0
# names that browsers and copying tools give to what they have not finished
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".filepart")
# a sidecar without an image is left that long for its image to come
_ALONE = 600.0
_SIDECAR_BYTES = 4 << 20
_NAME_LENGTH = 200
_BESIDE = ".sidecar"  # in quarantine


@dataclass(frozen=True)
class Dropped:
    """A file of the inbox that is ready to be taken, and its sidecar, if there is one."""

    file: StoredFile
    sidecar: StoredFile | None


@dataclass(frozen=True)
class Quarantined:
    """A file that could not be taken. name: as it lay in the inbox. reason: images.outcome.Reason, or `error`."""

    key: str
    name: str
    reason: str
    detail: str
    bytes: int
    when: float


def ready(storage: Storage, now: float | None = None) -> list[Dropped]:
    """The files of the inbox that nobody seems to be writing any more, oldest first.

    Everything counts but sidecars: what is no image will be quarantined with its reason.
    """
    moment = time.time() if now is None else now
    files = [file for file in storage.files(INBOX) if not file.name.lower().endswith(_UNFINISHED)]
    sidecars = {file.name: file for file in files if file.name.lower().endswith(SIDECAR_SUFFIXES)}
    images = [file for file in files if file.name not in sidecars]
    found, taken = [], set()
    for file in images:
        sidecar = _sidecar_of(file.name, sidecars)
        if sidecar is not None:
            taken.add(sidecar.name)
        parts = [file, sidecar] if sidecar is not None else [file]
        if all(_settled(storage, part, moment) for part in parts):
            found.append(Dropped(file, sidecar))
    # a text whose image does not come is no image either
    found += [
        Dropped(file, None) for file in sidecars.values() if file.name not in taken and moment - file.modified > _ALONE
    ]
    return sorted(found, key=lambda drop: (drop.file.modified, drop.file.name))


def write_batch(storage: Storage, dropped: Sequence[Dropped]) -> str:
    """Note files of the inbox for a run to take; the name of the note is equal for the same files."""
    text = json.dumps([asdict(drop) for drop in dropped])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    if not storage.exists(batch_name(digest)):
        storage.write_bytes(batch_name(digest), text.encode())
    return digest


def read_batch(storage: Storage, digest: str) -> list[Dropped]:
    """The files of a batch, as they were when it was noted; [] for one that was done."""
    if not storage.exists(batch_name(digest)):
        return []
    found = storage.read_json(batch_name(digest))
    return [
        Dropped(StoredFile(**drop["file"]), StoredFile(**drop["sidecar"]) if drop["sidecar"] else None)
        for drop in found
    ]


def end_batches(storage: Storage) -> None:
    """Drop the notes of batches, also of those whose run never began: what is not taken is noted again."""
    for name in storage.list(BATCHES, ".json"):
        storage.delete(f"{BATCHES}/{name}")


def read(storage: Storage, drop: Dropped, most: int) -> tuple[bytes, tuple[str, bytes] | None] | None:
    """The bytes of an image and its sidecar (name, bytes); None when it has gone, or is being written after all.

    Of a file of more than `most` bytes only that many and one are read.
    """
    try:
        data = _head(storage, drop.file, most + 1)
        sidecar = None
        if drop.sidecar is not None and drop.sidecar.size <= _SIDECAR_BYTES:
            sidecar = (drop.sidecar.name, _head(storage, drop.sidecar, _SIDECAR_BYTES))
        size = storage.size(drop.file.name)
    except (StorageError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    whole = len(data) == drop.file.size or len(data) > most
    return (data, sidecar) if whole and size == drop.file.size else None


def remove(storage: Storage, drop: Dropped) -> None:
    """Take a file and its sidecar out of the inbox: they lie elsewhere. What was written anew meanwhile stays."""
    for file in (drop.file, drop.sidecar):
        if file is not None and storage.stored_file(file.name) == file:
            storage.delete(file.name)


def shown_name(name: str) -> str:
    """A name from the inbox as text: without the folder of the inbox, controls and broken characters."""
    inside = name.removeprefix(f"{INBOX}/")
    text = inside.encode("utf-8", "replace").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:_NAME_LENGTH]


# -- what was taken and is not placed yet --------------------------------------------------------------


def accept(storage: Storage, rows: Sequence[dict[str, Any]]) -> str:
    """Note images (rows of `intake`) as taken; the name of the note, which is the same for the same images."""
    text = json.dumps(list(rows), sort_keys=True).encode()
    name = accepted_name(hashlib.sha256(text).hexdigest()[:32])
    storage.write_bytes(name, text)
    return name


def accepted_names(storage: Storage) -> list[str]:
    """The names of the notes of images that are not placed yet."""
    return [f"{ACCEPTED}/{name}" for name in storage.list(ACCEPTED, ".json")]


def accepted(storage: Storage) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The notes of images that are not placed yet, with their rows."""
    for name in accepted_names(storage):
        yield name, storage.read_json(name)


# -- quarantine ----------------------------------------------------------------------------------------


def quarantine(storage: Storage, drop: Dropped, data: bytes, reason: str, detail: str) -> Quarantined:
    """Put a file aside, and its sidecar, with the reason. Its key is the hash of what was read of it."""
    key = hashlib.sha256(data).hexdigest()
    suffix = PurePosixPath(drop.file.name).suffix.lower()
    safe = suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 6 else ""
    found = set_aside(storage, f"{key}{safe}", shown_name(drop.file.name), reason, detail, drop.file.size)
    for file, place in ((drop.sidecar, f"{key}{_BESIDE}"), (drop.file, f"{key}{safe}")):
        if file is not None:
            beside = PurePosixPath(file.name).suffix.lower() if file is drop.sidecar else ""
            storage.move(file.name, quarantined_name(f"{place}{beside}"))
    return found


def set_aside(storage: Storage, key: str, name: str, reason: str, detail: str, size: int = 0) -> Quarantined:
    """Note why a file (`key`: its hash and suffix) cannot be taken or placed."""
    found = Quarantined(key, name, reason, detail[:500], size, time.time())
    storage.write_json(reason_name(key.partition(".")[0]), asdict(found))
    return found


def quarantined(storage: Storage) -> list[Quarantined]:
    """What was put aside, by name."""
    notes = (storage.read_json(quarantined_name(name)) for name in storage.list(QUARANTINE, REASON_SUFFIX))
    return sorted((Quarantined(**note) for note in notes), key=lambda found: (found.name, found.key))


def ids_aside(storage: Storage) -> set[str]:
    """Hashes of what was put aside."""
    return {name.partition(".")[0] for name in storage.list(QUARANTINE, REASON_SUFFIX)}


def restore(storage: Storage, keys: Sequence[str] = ()) -> list[Quarantined]:
    """Put quarantined files back into the inbox, with their sidecars: all, or those of `keys`, which may be shortened.

    Returns those that are back. A note without a file, of an original that is lost, stays until the file is dropped
    again. Raises NotBuiltError for a key that names nothing.
    """
    found = quarantined(storage)
    for key in keys:
        if not any(item.key.startswith(key) for item in found):
            raise NotBuiltError(f"Nothing in quarantine has the key {key}: `latent-assets inbox` lists what is there.")
    chosen = [item for item in found if not keys or any(item.key.startswith(key) for key in keys)]
    back = [item for item in chosen if storage.exists(quarantined_name(item.key))]
    for item in back:
        base = item.key.partition(".")[0]
        for suffix in SIDECAR_SUFFIXES:
            if storage.exists(quarantined_name(f"{base}{_BESIDE}{suffix}")):
                storage.move(quarantined_name(f"{base}{_BESIDE}{suffix}"), f"{INBOX}/{base}{suffix}")
        storage.move(quarantined_name(item.key), f"{INBOX}/{item.key}")
        clear_reason(storage, base)
    return back


def clear_reason(storage: Storage, row_id: str) -> None:
    """Drop the note of a file that is in quarantine no longer."""
    storage.delete(reason_name(row_id))


# -- inside --------------------------------------------------------------------------------------------


def _sidecar_of(name: str, sidecars: dict[str, StoredFile]) -> StoredFile | None:
    """`a.txt` or `a.json` of `a.png`, or `a.png.txt` or `a.png.json`."""
    stem = name.rpartition(".")[0]
    for base in (stem, name):
        for suffix in SIDECAR_SUFFIXES:
            if found := sidecars.get(f"{base}{suffix}"):
                return found
    return None


def _settled(storage: Storage, file: StoredFile, now: float) -> bool:
    # a clock that is behind, or a file from the future, must not keep it here for ever
    return not storage.is_local or not 0 <= now - file.modified < _SETTLES


def _head(storage: Storage, file: StoredFile, most: int) -> bytes:
    if file.size <= most:
        return storage.read_bytes(file.name)
    with storage.open(file.name) as source:
        return source.read(most)
