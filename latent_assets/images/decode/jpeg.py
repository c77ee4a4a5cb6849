"""The segments of a JPEG file, read without decoding: size, orientation, colour profile, and metadata to leave out.

Layout: ITU T.81 Annex B, EXIF 2.32 (orientation), ICC.1 Annex B.4 (profiles in APP2).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN = 0xDA
_END = 0xD9
END = b"\xff\xd9"
_METADATA = frozenset(range(0xE0, 0xFF))
# by the second byte of a marker: the end, metadata, or a segment whose content may look like either
_NOTABLE = frozenset({*range(0xC0, 0xD0), *range(0xD9, 0xFF)})
_NOTABLE_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_LOOKS = 1000
_MOST_SEGMENTS = 10_000
_TRANSPOSED = frozenset({5, 6, 7, 8})
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112
_Edit = tuple[int, int, bytes]  # start, end, what stands there instead


class NoEndError(ValueError):
    """A JPEG without its last marker: pixels may be missing, too."""


@dataclass(frozen=True)
class JpegHeader:
    """Pixels as coded (before orientation), components (1 grey, 3 colour, 4 CMYK), EXIF orientation 1..8, profile."""

    width: int
    height: int
    components: int
    orientation: int
    icc: bytes | None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after orientation."""
        return upright_size(self.width, self.height, self.orientation)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of pixels once they are turned as an EXIF orientation (1 to 8) says."""
    return (height, width) if orientation in _TRANSPOSED else (width, height)


def read_header(data: bytes) -> JpegHeader:
    """Raises ValueError when there is no frame header before the image data."""
    width = height = components = 0
    orientation = 1
    profile: dict[int, bytes] = {}
    for marker, start, end in segments(data):
        if marker in _START_OF_FRAME and end - start >= 6:
            height, width, components = struct.unpack_from(">xHHB", data, start)
        elif marker == 0xE1 and data[start : start + 6] == _EXIF:
            orientation = tiff_orientation(data[start:end])
        elif marker == 0xE2 and data[start : start + 12] == _ICC and end - start > 14:
            profile[data[start + 12]] = data[start + 14 : end]
    if not width or not height:
        raise ValueError("no JPEG frame header")
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return JpegHeader(width, height, components, orientation, icc)


def without_metadata(data: bytes) -> bytes:
    """The same JPEG, pixel for pixel, without EXIF (but its orientation), XMP, IPTC, thumbnails, comments and trailers.

    Behind the end of the image phones put previews and films, with places of their own. `data` itself when there is
    nothing to leave out. Raises ValueError when the image has no end.
    """
    edits: list[_Edit] = []
    at = 2
    orientation = 1
    for marker, start, end in segments(data):
        needed = data[start:end]
        if marker == 0xE1 and needed.startswith(_EXIF):
            orientation = tiff_orientation(needed)
            needed = b""
        elif marker in _METADATA:
            needed = _needed(marker, needed)
        replaced = _segment(marker, needed) if needed else b""
        if len(replaced) != end - at or needed != data[start:end]:
            edits.append((at, end, replaced))
        at = end
    if orientation != 1:
        edits.insert(0, (2, 2, _segment(0xE1, _EXIF + orientation_tiff(orientation))))
    edits += _scan_edits(data, at)
    if not edits:
        return data
    stored = _edited(data, edits)
    return data if stored == data else stored


def without_extras(data: bytes) -> bytes:
    """The same JPEG without what stands before its pixels and decides none of them, its colour profile included."""
    edits: list[_Edit] = []
    at = 2
    for marker, start, end in segments(data):
        if marker in _METADATA:
            needed = b"" if marker == 0xE2 else _needed(marker, data[start:end])
            edits.append((at, end, _segment(marker, needed) if needed else b""))
        at = end
    return _edited(data, edits)


def _edited(data: bytes, edits: list[_Edit]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, end, replacement in edits:
        pieces += [data[at:start], replacement]
        at = end
    return b"".join([*pieces, data[at:]])


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start of payload, end) of each segment before the first scan. What stands between them is skipped.

    Raises ValueError when there are more than 10,000.
    """
    found: list[tuple[int, int, int]] = []
    at = 2
    while (at := data.find(0xFF, at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0 or marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (_SCAN, _END) or length < 2 or at + 2 + length > len(data):
            break
        found.append((marker, at + 4, at + 2 + length))
        _refuse_crowds(found)
        at += 2 + length
    return found


def _scan_edits(data: bytes, at: int) -> list[_Edit]:
    """What to leave out from `at`, where the coded pixels begin: metadata between scans and all behind the end."""
    edits: list[_Edit] = []
    while (found := _notable(data, at)) >= 0:
        marker, at = data[found + 1], found + 2
        if marker == _END:
            return [*edits, (at, len(data), b"")] if at < len(data) else edits
        # passed as a whole: a table may look like metadata or an end
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if marker in _METADATA:
            edits.append((found, at, b""))
            _refuse_crowds(edits)
    raise NoEndError("the end of the image is missing")


def _refuse_crowds(found: list[Any]) -> None:
    """Files of millions of tiny segments are made to cost time and memory."""
    if len(found) > _MOST_SEGMENTS:
        raise ValueError(f"more than {_MOST_SEGMENTS} segments")


def _notable(data: bytes, at: int) -> int:
    """Where the next marker stands that coded pixels do not hold, -1 without one.

    The few hundred bytes 0xFF of a photograph are looked at one by one: half as long as a search takes. An image may
    consist of them.
    """
    for _ in range(_LOOKS):
        at = data.find(0xFF, at)
        if not 0 <= at < len(data) - 1:
            return -1
        if data[at + 1] in _NOTABLE:
            return at
        at += 1
    found = _NOTABLE_MARKER.search(data, at)
    return found.start() if found else -1


def _needed(marker: int, content: bytes) -> bytes:
    """What of an application's segment decides the pixels: JFIF, Adobe's colour transform, the colour profile."""
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        return content[:12] + b"\0\0"  # no thumbnail
    if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
        return content[:12]
    return content if marker == 0xE2 and content.startswith(_ICC) else b""


def _segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def tiff_orientation(tiff: bytes) -> int:
    """The orientation of an EXIF block (a TIFF structure), 1 when it has none."""
    while tiff.startswith(_EXIF):  # some writers put JPEG's prefix into other formats, or twice
        tiff = tiff[len(_EXIF) :]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(min(count, 200)):
        at = directory + 2 + 12 * entry
        if at + 12 > len(tiff):
            return 1
        tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
        if tag == _ORIENTATION and kind in (3, 4):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", tiff, at + 8)
            return int(value) if 1 <= value <= 8 else 1
    return 1


def orientation_tiff(orientation: int) -> bytes:
    """An EXIF block (a TIFF structure) that says the orientation and nothing else."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
