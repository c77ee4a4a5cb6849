"""WebDataset tars: `key.jpg`, `key.txt`, `key.json` one after the other, written and read as a stream.

Which images are in one and in what order is decided in `shard`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from latent_assets.errors import DataError

if TYPE_CHECKING:
    from latent_assets.storage import Storage

BLOCK = 512
IMAGE_EXTENSIONS = frozenset({"jpg", "png", "webp", "gif", "bmp", "avif", "tif"})
_END = bytes(2 * BLOCK)
_LAYOUT = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12s")
_READ_AHEAD = 4 << 20


def tar_name(shard: str) -> str:
    """Storage name of a shard's images."""
    return f"images/{shard}.tar"


class TarWriter:
    """Appends files to a tar (ustar, no owner, no time: same content, same bytes)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Append a file; return the offset of its content."""
        start = self.offset + BLOCK
        padding = -len(data) % BLOCK
        self._file.write(_header(name, len(data)))
        self._file.write(data)
        if padding:
            self._file.write(bytes(padding))
        self.offset = start + len(data) + padding
        return start

    def close(self) -> None:
        """Write the end of the archive; the file itself stays open."""
        self._file.write(_END)


def read_members(file: BinaryIO) -> Iterator[tuple[str, int, bytes]]:
    """(name, offset of the content, content) of each file of a tar we wrote, in order, read as a stream."""
    offset = 0
    while True:
        header = file.read(BLOCK)
        if len(header) < BLOCK or not header.strip(b"\0"):
            return
        name, size = _parse(header)
        data = file.read(size)
        if len(data) < size:
            raise DataError(f"The tar ends within {name}: remove it and fetch the shard again.")
        file.read(-size % BLOCK)
        yield name, offset + BLOCK, data
        offset += BLOCK + size + (-size % BLOCK)


def index_members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """name -> (offset, size) of each file of a tar we wrote; contents are skipped."""
    found: dict[str, tuple[int, int]] = {}
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(BLOCK)
        if len(header) < BLOCK or not header.strip(b"\0"):
            return found
        name, size = _parse(header)
        found[name] = (offset + BLOCK, size)
        offset += BLOCK + size + (-size % BLOCK)


def read_images(storage: Storage, shard: str) -> Iterator[tuple[str, bytes]]:
    """(row id, encoded image) of every stored image of a shard, in the tar's order, one at a time in memory.

    Raises StorageError when the shard has not been fetched.
    """
    with storage.open(tar_name(shard)) as file:
        for name, _, data in read_members(file):
            key, _, extension = name.rpartition(".")
            if extension in IMAGE_EXTENSIONS:
                yield key, data


def _header(name: str, size: int) -> bytes:
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8 << 30:
        raise ValueError(f"{name} ({size} bytes) does not fit a ustar header")
    head = _LAYOUT.pack(
        encoded, b"0000644", b"0000000", b"0000000", b"%011o" % size, b"00000000000", b" " * 8, b"0",
        b"", b"ustar\0", b"00", b"", b"", b"0000000", b"0000000", b"", b"",
    )  # fmt: skip
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _parse(header: bytes) -> tuple[str, int]:
    if header[257:262] != b"ustar" or header[156:157] != b"0":
        raise DataError("This is not a tar that latent_assets wrote: remove it and fetch the shard again.")
    return header[:100].rstrip(b"\0").decode(), int(header[124:135], 8)
