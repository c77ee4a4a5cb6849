"""What is stored of a part, looked at: whether its ledger and its tar are there and whole, and fit together.

Nothing is written here, and damaged files raise nothing. What is done about them is decided in `shard`; a whole shard
is judged in `verify`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from latent_assets.errors import DataError
from latent_assets.images.outcome import LedgerRow, Outcome
from latent_assets.images.store.journal import Entry, Place
from latent_assets.images.store.ledger import ledger_rows, read_part
from latent_assets.images.store.sidecar import decode_sidecar, names_row
from latent_assets.images.store.tar import IMAGE_EXTENSIONS, TarIndex, index_members
from latent_assets.layout import ledger_name, tar_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_TOGETHER = 64  # images that are in memory at a time

# judges a stored image of a row; "" when nothing is wrong
Judge = Callable[[LedgerRow, bytes], str]


@dataclass
class StoredPart:
    """What is stored of a part.

    `rows` are those of the ledger, in its order, `places` where the images lie that are whole; `hashes` (SHA-256, of
    the same images) only when contents were read. `judged` is what the judge found wrong, by id. The problems are empty
    when nothing is wrong.
    """

    name: str
    rows: dict[str, LedgerRow] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    judged: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    ledger_problem: str = ""
    tar_problem: str = ""

    @property
    def sound(self) -> bool:
        """Whether tar and ledger are there, whole, and fit together."""
        return not self.ledger_problem and not self.tar_problem

    @property
    def entries(self) -> dict[str, Entry]:
        """The outcomes that hold: those of rows without an image, and of those whose image is whole."""
        return {
            key: Entry(row, self.places.get(key))
            for key, row in self.rows.items()
            if row.outcome != Outcome.OK or key in self.places
        }


def inspect_part(storage: Storage, part: str, *, contents: bool = False, judge: Judge | None = None) -> StoredPart:
    """Look at the ledger and the tar of a part.

    Without `contents` the tar's headers are read and compared with the ledger; with it, every file in the tar, and
    images are compared with their hashes. `judge` is asked about each image that is as the ledger says. Raises
    StorageError when the root cannot be reached.
    """
    found = StoredPart(part)
    try:
        rows = list(ledger_rows(read_part(storage, part)))
        found.rows = {row.id: row for row in rows}
        if len(found.rows) < len(rows):
            found.ledger_problem = f"{ledger_name(part)} has {len(rows) - len(found.rows)} rows twice"
    except DataError as error:
        found.ledger_problem = str(error)
    index = _index(storage, part)
    found.bytes, found.tar_problem = index.bytes, index.problem
    _compare(found, index)
    if contents and found.places:
        _read_contents(storage, found, index, judge)
    return found


def recover_entries(storage: Storage, part: str) -> dict[str, Entry]:
    """The images of a part whose ledger is lost, by id: those that are what their sidecars say, byte for byte."""
    index = _index(storage, part)
    found: dict[str, Entry] = {}
    if not index.members:
        return found
    with storage.local(tar_name(part)) as path, path.open("rb", buffering=0) as file:
        for name, (offset, size) in index.members.items():
            key, _, extension = name.rpartition(".")
            if extension not in IMAGE_EXTENSIONS or f"{key}.json" not in index.members:
                continue
            row = decode_sidecar(_read(file.fileno(), *index.members[f"{key}.json"]), key, extension, size)
            if row is not None and _sha256(_read(file.fileno(), offset, size)) == row.stored_sha256:
                found[key] = Entry(row, Place(tar_name(part), offset, size))
    return found


def _index(storage: Storage, part: str) -> TarIndex:
    name = tar_name(part)
    if not storage.exists(name):
        return TarIndex({}, 0, f"{name} is not there")
    try:
        with storage.open(name) as file:
            index = index_members(file)
    except OSError as error:
        return TarIndex({}, 0, f"{name} cannot be read ({error})")
    return TarIndex(index.members, index.bytes, f"{name}: {index.problem}" if index.problem else "")


def _compare(found: StoredPart, index: TarIndex) -> None:
    """Images by the ledger against files by the tar: each has its three, of the right size, and there are no others."""
    if found.ledger_problem and not found.rows:
        return  # nothing to compare with
    left = dict(index.members)
    lacking: list[str] = []
    for row in found.rows.values():
        if row.outcome != Outcome.OK:
            continue
        image = left.pop(f"{row.id}.{row.extension}", None)
        sidecars = [left.pop(f"{row.id}{suffix}", None) for suffix in (".txt", ".json")]
        if image is None or image[1] != row.stored_bytes:
            lacking.append(row.id)
            continue
        found.places[row.id] = Place(tar_name(found.name), *image)
        if None in sidecars:
            _note(found, f"the sidecars of {row.id} are not all there")
    if lacking:
        _note(found, f"the images of {len(lacking)} rows are missing or of another size, the first is {lacking[0]}")
    if left:
        _note(found, f"{len(left)} files of it are none of the ledger's, the first is {next(iter(left))}")


def _read_contents(storage: Storage, found: StoredPart, index: TarIndex, judge: Judge | None) -> None:
    """Take out of `places` what is not as the ledger says."""
    damaged: list[str] = []
    with storage.local(tar_name(found.name)) as path, _pool() as pool:
        for row, digest, sidecars, text in _judged(path, found, index, pool, judge):
            if digest != row.stored_sha256:
                damaged.append(row.id)
                del found.places[row.id]
                continue
            found.hashes[row.id] = digest
            if not sidecars:
                _note(found, f"the sidecars of {row.id} cannot be read")
            if text:
                found.judged[row.id] = text
    if damaged:
        _note(found, f"the bytes of {len(damaged)} images are not what was stored, the first is {damaged[0]}")


def _judged(
    path: Path, found: StoredPart, index: TarIndex, pool: ThreadPoolExecutor, judge: Judge | None
) -> Iterator[tuple[LedgerRow, str, bool, str]]:
    """(row, SHA-256 of its image, whether its sidecars are in order, what the judge says) of every image."""
    with path.open("rb", buffering=0) as file:

        def look(key: str) -> tuple[LedgerRow, str, bool, str]:
            row, place = found.rows[key], found.places[key]
            data = _read(file.fileno(), place.offset, place.size)
            digest = _sha256(data)
            text = judge(row, data) if judge and digest == row.stored_sha256 else ""
            return row, digest, _sidecars_fit(file.fileno(), row, index), text

        for keys in _batches(list(found.places), _TOGETHER):
            yield from pool.map(look, keys)


def _sidecars_fit(file: int, row: LedgerRow, index: TarIndex) -> bool:
    """Whether the files beside an image can be read and are its own. Missing ones are noted elsewhere."""
    members = (index.members.get(f"{row.id}{suffix}") for suffix in (".txt", ".json"))
    text, sidecar = (_read(file, *member) if member else None for member in members)
    try:
        (text or b"").decode()
    except UnicodeDecodeError:
        return False
    return sidecar is None or names_row(sidecar, row.id)


def _note(found: StoredPart, problem: str) -> None:
    """Keep the first problem of the tar: what follows mostly follows from it."""
    found.tar_problem = found.tar_problem or f"{tar_name(found.name)}: {problem}"


def _read(file: int, offset: int, size: int) -> bytes:
    """Bytes of a file, fewer where the disk does not give them: then they are not what they should be."""
    try:
        return os.pread(file, size, offset)
    except OSError:
        return b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="inspection")


def _batches(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    left = iter(keys)
    while batch := list(islice(left, size)):
        yield batch
