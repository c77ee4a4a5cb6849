"""What is known of a shard, or a part of one, that is not finished: outcomes and stored images, kept row by row.

Below `images/{part}.partial/`, in segments: `N.data` holds stored images one after the other, `N.jsonl` one line
per row with its outcome and where its image lies. On disk both are appended to as rows finish, a few at a time when
many do, so a killed process loses next to nothing it had finished; on S3 a segment is an object put every few seconds.
A line counts only when it is whole and its image lies within the data.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_assets.images.outcome import LedgerRow
from latent_assets.layout import journal_folder
from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_MOST_BUFFERS = 1000  # that one call takes at least
SEGMENT_BYTES = 16 << 20
SEGMENT_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Where a stored image lies: file (a storage name), offset and size in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One finished row and, when it has an image, where that is."""

    row: LedgerRow
    place: Place | None


class Journal:
    """The journal of one part of a shard. `add` may be called from any thread."""

    def __init__(self, storage: Storage, part: str) -> None:
        self._storage = storage
        self._folder = journal_folder(part)
        self._lock = threading.Lock()
        names = [*storage.list(self._folder, ".data"), *storage.list(self._folder, ".jsonl")]
        self._number = 1 + max((int(name.split("-")[0]) for name in names), default=-1)
        self._writer = os.urandom(4).hex()  # two processes at one shard never append to the same segment
        self._data: list[bytes] = []
        self._lines: list[bytes] = []
        self._size = 0
        self._since = time.monotonic()
        self._files: list[int] = []  # data, lines

    def entries(self) -> dict[str, Entry]:
        """Every finished row by id; of several the last."""
        found: dict[str, Entry] = {}
        for name in self._storage.list(self._folder, ".jsonl"):
            data = f"{self._folder}/{name.removesuffix('.jsonl')}.data"
            available = self._storage.size(data) if self._storage.exists(data) else 0
            for row, offset, size in _whole_lines(self._storage.read_bytes(f"{self._folder}/{name}")):
                if offset + size <= available:
                    place = Place(data, offset, size) if row.stored_sha256 else None
                    found[row.id] = Entry(row, place)
        return found

    def add(self, rows: Sequence[tuple[LedgerRow, bytes]]) -> None:
        """Keep finished rows and their stored images (b"" without one).

        Raises StorageError when the root is full or read-only.
        """
        with self._lock:
            size, lines = self._size, []
            for row, image in rows:
                lines.append(_line(row, size, len(image)))
                size += len(image)
            images = [image for _, image in rows if image]
            if self._storage.is_local:
                self._append(images, lines)
                self._size = size
                return
            self._size = size
            self._data += images
            self._lines += lines
            if self._size >= SEGMENT_BYTES or time.monotonic() - self._since >= SEGMENT_SECONDS:
                self._put()

    def close(self) -> None:
        """Store what is not stored yet."""
        with self._lock:
            if self._files:
                self._end_files()
            if self._lines:
                self._put()

    def delete(self) -> None:
        """Remove the journal: its rows are in a finished tar and ledger."""
        self.close()
        self._storage.delete(self._folder)

    def _segment(self) -> str:
        return f"{self._number:06d}-{self._writer}"

    def _append(self, images: list[bytes], lines: list[bytes]) -> None:
        with explained(self._storage, self._folder):
            try:
                while len(self._files) < 2:
                    self._files.append(self._opened(".jsonl" if self._files else ".data"))
                write_all(self._files[0], images)
                write_all(self._files[1], lines)
            except BaseException:
                self._end_files()  # what was written of it would shift the images that follow
                raise

    def _opened(self, suffix: str) -> int:
        folder = Path(self._storage.uri(self._folder))
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / f"{self._segment()}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _end_files(self) -> None:
        """Close the segment; the next row begins another."""
        while self._files:
            os.close(self._files.pop())
        self._number += 1
        self._size = 0

    def _put(self) -> None:
        name = f"{self._folder}/{self._segment()}"
        self._storage.write_bytes(f"{name}.data", b"".join(self._data))
        self._storage.write_bytes(f"{name}.jsonl", b"".join(self._lines))
        self._data, self._lines, self._size = [], [], 0
        self._number += 1
        self._since = time.monotonic()


class StoredImages:
    """The files that images lie in, opened once each; files on S3 are brought here."""

    def __init__(self, storage: Storage, stack: ExitStack) -> None:
        self._storage = storage
        self._stack = stack
        self._open: dict[str, int] = {}

    def handle(self, place: Place) -> int:
        """A file descriptor to read the image from, at the place's offset."""
        handle = self._open.get(place.name)
        if handle is None:
            path = self._stack.enter_context(self._storage.local(place.name))
            handle = self._open[place.name] = os.open(path, os.O_RDONLY)
            self._stack.callback(os.close, handle)
        return handle


@contextmanager
def stored_images(storage: Storage) -> Iterator[StoredImages]:
    """StoredImages for the duration of the block."""
    with ExitStack() as stack:
        yield StoredImages(storage, stack)


def _line(row: LedgerRow, offset: int, size: int) -> bytes:
    return _ENCODER.encode([vars(row), offset, size]).encode() + b"\n"


def _whole_lines(data: bytes) -> Iterator[tuple[LedgerRow, int, int]]:
    for values, offset, size in _parsed(data[: data.rfind(b"\n") + 1].splitlines()):
        try:
            yield LedgerRow(**values), offset, size
        except TypeError:
            continue


def _parsed(lines: list[bytes]) -> Iterator[list[Any]]:
    """The lines that are JSON arrays of three; all at once where there is nothing else, in half the time."""
    try:
        found = json.loads(b"[%s]" % b",".join(lines))
    except ValueError:
        found = None
    if found is None or len(found) != len(lines):
        found = []
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
    return (values for values in found if isinstance(values, list) and len(values) == 3)


def write_all(file: int, buffers: Iterable[bytes | memoryview]) -> None:
    """Write all of the buffers, one after the other, with as few system calls as the system makes of it."""
    left = deque(buffers)
    while left:
        written = os.writev(file, list(itertools.islice(left, _MOST_BUFFERS)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if left:
            left[0] = memoryview(left[0])[written:]
