"""What an image file holds besides its pixels, left out without touching them: EXIF, XMP, texts, times, profiles.

`without_metadata` makes the file that is stored raw: the orientation is kept, as the only field of a new EXIF block,
because the picture would turn without it. The file that a decoder is shown is made in `bare`. Layouts: PNG 3 (W3C),
WebP container (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from latent_assets.images.decode import jpeg

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_PNG_PIXELS = frozenset({b"IHDR", b"IDAT", b"IEND"})
_WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x08, 0x04


def without_metadata(data: bytes, kind: str) -> bytes:
    """The same image without metadata; `kind` as `formats.sniff` gives it. GIF and BMP, which have no EXIF, stay."""
    if kind == "jpeg":
        return jpeg.without_metadata(data)
    if kind == "png":
        return _png(data)
    return _webp(data) if kind == "webp" else data


# -- PNG -----------------------------------------------------------------------------------------------


def _png(data: bytes) -> bytes:
    pieces = [PNG_SIGNATURE]
    for name, start, end in png_chunks(data):
        if name in _PNG_PIXELS or (name == b"PLTE" and has_palette(data)):
            pieces.append(data[start - 8 : end + 4])
        elif name in _PNG_METADATA or not intact(data, start, end):
            continue
        elif name == b"eXIf":
            if (orientation := jpeg.tiff_orientation(data[start:end])) != 1:
                body = b"eXIf" + jpeg.orientation_tiff(orientation)
                pieces.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
        else:
            pieces.append(data[start - 8 : end + 4])
    return b"".join(pieces)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk's content. Pixels that are cut short come too: a decoder decides on them."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        name, length = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data) and name != b"IDAT":
            return
        yield name, at + 8, at + 8 + length
        if name == b"IEND":
            return
        at += 12 + length


def has_palette(png: bytes) -> bool:
    """Whether the pixels of a PNG are numbers of colours (colour type 3): to others a palette is a suggestion."""
    return png[25:26] == b"\3"


def intact(data: bytes, start: int, end: int) -> bool:
    """Whether the checksum of the chunk whose content that is fits."""
    return zlib.crc32(memoryview(data)[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big")


# -- WebP ----------------------------------------------------------------------------------------------


def _webp(data: bytes) -> bytes:
    chunks = whole_frames(data)
    orientation = webp_orientation(chunks)
    kept = [(name, content) for name, content in chunks if name not in (b"EXIF", b"XMP ")]
    extended = bool(kept) and kept[0][0] == b"VP8X"
    if extended and orientation != 1:
        kept.append((b"EXIF", jpeg.orientation_tiff(orientation)))
    return riff_file(kept, clear=_WEBP_XMP_FLAG | (_WEBP_EXIF_FLAG if orientation == 1 else 0))


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def whole_frames(data: bytes) -> list[tuple[bytes, bytes]]:
    """`riff_chunks`, without a last frame of an animation that ends too early."""
    chunks, at = list(riff_chunks(data)), 12
    for _, content in chunks[:-1]:
        at += 8 + len(content) + (len(content) & 1)
    frames = sum(name == b"ANMF" for name, _ in chunks)
    if frames > 1 and chunks[-1][0] == b"ANMF" and at + 8 + int.from_bytes(data[at + 4 : at + 8], "little") > len(data):
        chunks.pop()
    return chunks


def webp_orientation(chunks: list[tuple[bytes, bytes]]) -> int:
    return next((jpeg.tiff_orientation(content) for name, content in chunks if name == b"EXIF"), 1)


def riff_file(chunks: list[tuple[bytes, bytes]], clear: int) -> bytes:
    """A WebP file of these chunks, the flags `clear` of its header not set."""
    if chunks and chunks[0][0] == b"VP8X":
        header = chunks[0][1]
        chunks[0] = (b"VP8X", bytes([header[0] & ~clear]) + header[1:])
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body
