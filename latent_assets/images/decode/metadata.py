"""Leaving metadata out of an image file without touching its coded pixels: EXIF, XMP, texts, times.

The orientation is kept, as the only field of a new EXIF block, because the picture would turn without it. For images
that are stored raw; re-encoded ones have no metadata to begin with. Layouts: PNG 3 (W3C), WebP container (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from latent_assets.images.decode import jpeg

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x08, 0x04


def without_metadata(data: bytes, kind: str) -> bytes:
    """The same image without metadata; `kind` as `formats.sniff` gives it. GIF and BMP, which have no EXIF, stay."""
    if kind == "jpeg":
        return jpeg.without_metadata(data)
    if kind == "png":
        return _png(data)
    return _webp(data) if kind == "webp" else data


def _png(data: bytes) -> bytes:
    pieces = [_PNG_SIGNATURE]
    for name, start, end in png_chunks(data):
        if name == b"eXIf":
            if (orientation := jpeg.tiff_orientation(data[start:end])) != 1:
                body = b"eXIf" + jpeg.orientation_tiff(orientation)
                pieces.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
        elif name not in _PNG_METADATA:
            pieces.append(data[start - 8 : end + 4])
    return b"".join(pieces)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk's content of a PNG file."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, at + 8 + length
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + length


def _webp(data: bytes) -> bytes:
    pieces: list[bytes] = []
    orientation = 1
    for name, content in riff_chunks(data):
        if name == b"EXIF":
            orientation = jpeg.tiff_orientation(content.removeprefix(b"Exif\0\0"))
        elif name != b"XMP ":
            pieces.append(_riff(name, content))
    extended = bool(pieces) and pieces[0][:4] == b"VP8X"
    if extended:
        flags = pieces[0][8] & ~(_WEBP_EXIF_FLAG | _WEBP_XMP_FLAG) | (_WEBP_EXIF_FLAG if orientation != 1 else 0)
        pieces[0] = pieces[0][:8] + bytes([flags]) + pieces[0][9:]
        if orientation != 1:
            pieces.append(_riff(b"EXIF", jpeg.orientation_tiff(orientation)))
    body = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk of a WebP file; the last may be cut short."""
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1)
