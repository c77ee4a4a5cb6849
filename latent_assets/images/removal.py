"""Taking images out of what is stored of them: tars, ledgers and journals, part by part.

Which images those are is decided elsewhere. Files are written anew without them; what cannot be read is left out, for
nobody can tell what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.errors import DataError
from latent_assets.images.store.inspection import recover_entries
from latent_assets.images.store.journal import Journal, StoredImages, stored_images
from latent_assets.images.store.ledger import read_part
from latent_assets.images.store.tar import TarWriter, index_members
from latent_assets.layout import IMAGES, journal_folder, ledger_name, tar_name

if TYPE_CHECKING:
    from latent_assets.images.store.journal import Entry
    from latent_assets.storage import Storage

_FACTS: dict[str, type[pl.DataType]] = {"id": pl.String, "url": pl.String, "sha256": pl.String}
_JOURNAL = ".partial"


@dataclass(frozen=True)
class PartRemoval:
    """What was taken out of a part: rows of its ledger, images of its tar, rows of its journal."""

    part: str
    rows: int
    images: int
    pending: int

    @property
    def shard(self) -> str:
        """The shard it is a part of."""
        return self.part.partition("/")[0]


def all_parts(storage: Storage) -> list[str]:
    """Every part of any shard of which there is anything, in the catalog or not."""
    found = set()
    for file in storage.files(IMAGES):
        name = file.name.removeprefix(f"{IMAGES}/")
        folder = name.rpartition("/")[0]
        if folder.endswith(_JOURNAL):
            found.add(folder.removesuffix(_JOURNAL))
        elif name.endswith((".tar", ".parquet")):
            found.add(name.rpartition(".")[0])
    return sorted(found)


def image_facts(storage: Storage) -> Iterator[tuple[str, pl.DataFrame]]:
    """(part, `id`, `url` and `sha256` of all that is known of its rows), from ledgers, journals and tars."""
    for part in all_parts(storage):
        yield part, pl.concat([_ledger_facts(storage, part), _facts(Journal(storage, part).entries())]).unique()


def _ledger_facts(storage: Storage, part: str) -> pl.DataFrame:
    try:
        return read_part(storage, part).select(list(_FACTS))
    except DataError:
        return _facts(recover_entries(storage, part))


def _facts(entries: dict[str, Entry]) -> pl.DataFrame:
    rows = [(entry.row.id, entry.row.url, entry.row.sha256) for entry in entries.values()]
    return pl.DataFrame(rows, schema=_FACTS, orient="row")


def drop_images(storage: Storage, part: str, ids: Collection[str]) -> PartRemoval:
    """Take the rows `ids` out of a part, whatever state it is in. Files that have none of them are left alone."""
    images = _drop_from_tar(storage, part, ids)
    rows = _drop_from_ledger(storage, part, ids)
    return PartRemoval(part, rows, images, _drop_from_journal(storage, part, ids))


def _drop_from_ledger(storage: Storage, part: str, ids: Collection[str]) -> int:
    name = ledger_name(part)
    if not storage.exists(name):
        return 0
    try:
        frame = read_part(storage, part)
    except DataError:
        storage.delete(name)  # the tar knows its images
        return 0
    kept = frame.filter(~pl.col("id").is_in(list(ids)))
    if kept.height < frame.height:
        storage.write_parquet(name, kept, compression="zstd")
    return frame.height - kept.height


def _drop_from_tar(storage: Storage, part: str, ids: Collection[str]) -> int:
    name = tar_name(part)
    if not storage.exists(name):
        return 0
    with storage.open(name) as file:
        index = index_members(file)
    gone = {member for member in index.members if member.rpartition(".")[0] in ids}
    # behind a damaged place may lie anything
    if not gone and not index.problem:
        return 0
    with storage.local(name) as source, storage.writing(name) as target:
        handle = os.open(source, os.O_RDONLY)
        try:
            with target.open("wb", buffering=0) as file, TarWriter(file) as tar:
                for member, (offset, size) in index.members.items():
                    if member not in gone:
                        tar.copy(member, handle, offset, size)
                tar.close()
        finally:
            os.close(handle)
    return len({member.rpartition(".")[0] for member in gone})


def _drop_from_journal(storage: Storage, part: str, ids: Collection[str]) -> int:
    """A journal is written anew, without what later lines of it replaced and without halves of lines."""
    if not any(True for _ in storage.files(journal_folder(part))):
        return 0
    entries = Journal(storage, part).entries()
    kept = {key: entry for key, entry in entries.items() if key not in ids}
    before = [file.name for file in storage.files(journal_folder(part))]
    journal = Journal(storage, part)
    with stored_images(storage) as images:
        for entry in kept.values():
            journal.add([(entry.row, _image(images, entry))])
    journal.close()
    for name in before:
        storage.delete(name)
    return len(entries) - len(kept)


def _image(images: StoredImages, entry: Entry) -> bytes:
    place = entry.place
    return os.pread(images.handle(place), place.size, place.offset) if place is not None else b""
