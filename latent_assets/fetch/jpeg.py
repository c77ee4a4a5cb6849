"""The segments of a JPEG file, read without decoding: size, orientation, colour profile, and metadata to leave out.

Layout: ITU T.81 Annex B, EXIF 2.32 (orientation), ICC.1 Annex B.4 (profiles in APP2).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN = 0xDA
_END = 0xD9
_END_MARKER = re.compile(rb"\xff\xd9")
# a marker with content or the last one: coded pixels hold 0xFF only before 0 and before restart markers
_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class JpegHeader:
    """Pixels as coded (before orientation), components (1 grey, 3 colour, 4 CMYK), EXIF orientation 1..8, profile."""

    width: int
    height: int
    components: int
    orientation: int
    icc: bytes | None


def read_header(data: bytes) -> JpegHeader:
    """Raises ValueError when there is no frame header before the image data."""
    width = height = components = 0
    orientation = 1
    profile: dict[int, bytes] = {}
    for marker, start, end in segments(data):
        if marker in _START_OF_FRAME and end - start >= 6:
            height, width, components = struct.unpack_from(">xHHB", data, start)
        elif marker == 0xE1 and data[start : start + 6] == _EXIF:
            orientation = tiff_orientation(data[start + 6 : end])
        elif marker == 0xE2 and data[start : start + 12] == _ICC and end - start > 14:
            profile[data[start + 12]] = data[start + 14 : end]
    if not width or not height:
        raise ValueError("no JPEG frame header")
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return JpegHeader(width, height, components, orientation, icc)


def without_metadata(data: bytes) -> bytes:
    """The same JPEG, pixel for pixel, without EXIF (but its orientation), XMP, IPTC, comments and trailing bytes.

    Behind the end of the image phones put previews and films, with places of their own. `data` itself when there is
    nothing to leave out. Raises ValueError when the image has no end.
    """
    pieces = [b"\xff\xd8"]
    end_of_headers = 2
    orientation = 1
    found = segments(data)
    end = end_of_image(data, found[-1][2] if found else 2)
    if end == len(data) and all(_is_needed(marker, data[start : start + 12]) for marker, start, _ in found):
        return data
    for marker, start, stop in found:
        if marker == 0xE1 and data[start : start + 6] == _EXIF:
            orientation = tiff_orientation(data[start + 6 : stop])
        elif _is_needed(marker, data[start : start + 12]):
            pieces.append(data[start - 4 : stop])
        end_of_headers = stop
    if orientation != 1:
        pieces.insert(1, _orientation_segment(orientation))
    return b"".join([*pieces, data[end_of_headers:end]])


def end_of_image(data: bytes, at: int = 2) -> int:
    """Where the image ends: behind its end marker, which is sought from `at`, the end of a segment.

    Raises ValueError when there is none: the file is cut short.
    """
    first = _END_MARKER.search(data, at)
    if first is None or first.end() == len(data):  # as a rule; coded pixels never look like it
        at = first.start() if first else len(data)
    while (match := _MARKER.search(data, at)) is not None:
        marker = data[match.end() - 1]
        if marker == _END:
            return match.end()
        length = int.from_bytes(data[match.end() : match.end() + 2], "big")
        at = match.end() + max(length, 2)
    raise ValueError("the end of the image is missing")


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start of payload, end) of each segment up to and including the first start of scan's header."""
    found: list[tuple[int, int, int]] = []
    at, size = 2, len(data)
    while at + 4 <= size:
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > size:
            break
        if marker == _SCAN:
            break
        found.append((marker, at + 4, at + 2 + length))
        at += 2 + length
    return found


def _is_needed(marker: int, head: bytes) -> bool:
    """Segments that decide the pixels: tables and frames, JFIF, Adobe's colour transform, the colour profile."""
    if 0xE0 <= marker <= 0xFE:
        return marker in (0xE0, 0xEE) or (marker == 0xE2 and head == _ICC)
    return True


def tiff_orientation(tiff: bytes) -> int:
    """The orientation of an EXIF block (a TIFF structure), 1 when it has none."""
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
        if tag == _ORIENTATION and kind == 3:
            (value,) = struct.unpack_from(f"{order}H", tiff, at + 8)
            return int(value) if 1 <= value <= 8 else 1
    return 1


def orientation_tiff(orientation: int) -> bytes:
    """An EXIF block (a TIFF structure) that says the orientation and nothing else."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)


def _orientation_segment(orientation: int) -> bytes:
    content = _EXIF + orientation_tiff(orientation)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content
