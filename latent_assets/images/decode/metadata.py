"""What an image file holds besides its pixels, left out without touching them: EXIF, XMP, texts, times, profiles.

`without_metadata` makes the file that is stored raw: the orientation is kept, as the only field of a new EXIF block,
because the picture would turn without it. `bare` makes the file that a decoder is shown: a broken or oversized extra
must not make it refuse the image. Layouts: PNG 3 (W3C), WebP container (RFC 9649), ISO media (ISO/IEC 14496-12).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from latent_assets.images.decode import jpeg

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_WEBP_PIXELS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
_WEBP_ICC_FLAG, _WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x20, 0x08, 0x04
_AVIF_METADATA = frozenset({b"Exif", b"mime"})  # XMP is an item of the type `mime`
_LARGEST_PROFILE = 32_000_000  # bytes; those of printers have up to a few million


@dataclass(frozen=True)
class Bare:
    """An image file with nothing but pixels in it, and what the rest of it says about how they are shown.

    `orientation`: as EXIF counts, 1 to 8. `icc`: the colour profile. Both, and `frames`, are None where the decoder
    that gets `data` has to say.
    """

    data: bytes
    orientation: int | None = None
    icc: bytes | None = None
    frames: int | None = None


def bare(data: bytes, kind: str) -> Bare:
    """What a decoder is to be shown of an image; `kind` as `formats.sniff` gives it. GIF, BMP and TIFF stay."""
    if kind == "jpeg":
        header = jpeg.read_header(data)
        return Bare(jpeg.without_extras(data), header.orientation, header.icc, 1)
    if kind == "png":
        return _bare_png(data)
    if kind == "webp":
        return _bare_webp(data)
    return Bare(_bare_avif(data) if kind == "avif" else data)


def without_metadata(data: bytes, kind: str) -> bytes:
    """The same image without metadata; `kind` as `formats.sniff` gives it. GIF and BMP, which have no EXIF, stay."""
    if kind == "jpeg":
        return jpeg.without_metadata(data)
    if kind == "png":
        return _png(data)
    return _webp(data) if kind == "webp" else data


# -- PNG -----------------------------------------------------------------------------------------------


def _png(data: bytes) -> bytes:
    pieces = [_PNG_SIGNATURE]
    for name, start, end in png_chunks(data):
        if name in _PNG_PIXELS:
            pieces.append(data[start - 8 : end + 4])
        elif name in _PNG_METADATA or not _intact(data, start, end):
            continue
        elif name == b"eXIf":
            if (orientation := jpeg.tiff_orientation(data[start:end])) != 1:
                body = b"eXIf" + jpeg.orientation_tiff(orientation)
                pieces.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
        else:
            pieces.append(data[start - 8 : end + 4])
    return b"".join(pieces)


def _bare_png(data: bytes) -> Bare:
    """Extras with a wrong checksum are passed over, as libpng does."""
    pieces = [_PNG_SIGNATURE]
    orientation, icc, frames = 1, None, 1
    for name, start, end in png_chunks(data):
        if name in _PNG_PIXELS:
            pieces.append(data[start - 8 : end + 4])
        elif name == b"eXIf" and _intact(data, start, end):
            orientation = jpeg.tiff_orientation(data[start:end])
        elif name == b"iCCP" and _intact(data, start, end):
            icc = _inflated_profile(data[start:end])
        elif name == b"acTL" and end - start >= 8 and _intact(data, start, end):
            frames = max(1, int.from_bytes(data[start : start + 4], "big"))
    return Bare(b"".join(pieces), orientation, icc, frames)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk's content. Pixels that are cut short come too: a decoder decides on them."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        name, length = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data) and name != b"IDAT":
            return
        yield name, at + 8, at + 8 + length
        if name == b"IEND":
            return
        at += 12 + length


def _intact(data: bytes, start: int, end: int) -> bool:
    """Whether the checksum of the chunk whose content that is fits."""
    return zlib.crc32(memoryview(data)[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big")


def _inflated_profile(content: bytes) -> bytes | None:
    """The colour profile in an iCCP chunk (name, 0, method 0, deflated), None when it is broken or absurdly large."""
    _, _, deflated = content.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(deflated[1:], _LARGEST_PROFILE + 1)
    except zlib.error:
        return None
    return profile if 0 < len(profile) <= _LARGEST_PROFILE else None


# -- WebP ----------------------------------------------------------------------------------------------


def _webp(data: bytes) -> bytes:
    chunks = list(riff_chunks(data))
    orientation = _webp_orientation(chunks)
    kept = [(name, content) for name, content in chunks if name not in (b"EXIF", b"XMP ")]
    extended = bool(kept) and kept[0][0] == b"VP8X"
    if extended and orientation != 1:
        kept.append((b"EXIF", jpeg.orientation_tiff(orientation)))
    return _riff_file(kept, clear=_WEBP_XMP_FLAG | (_WEBP_EXIF_FLAG if orientation == 1 else 0))


def _bare_webp(data: bytes) -> Bare:
    chunks = list(riff_chunks(data))
    kept = [(name, content) for name, content in chunks if name in _WEBP_PIXELS]
    icc = next((content for name, content in chunks if name == b"ICCP"), None)
    file = _riff_file(kept, clear=_WEBP_ICC_FLAG | _WEBP_EXIF_FLAG | _WEBP_XMP_FLAG)
    return Bare(file, _webp_orientation(chunks), icc)


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _webp_orientation(chunks: list[tuple[bytes, bytes]]) -> int:
    return next((jpeg.tiff_orientation(content) for name, content in chunks if name == b"EXIF"), 1)


def _riff_file(chunks: list[tuple[bytes, bytes]], clear: int) -> bytes:
    """A WebP file of these chunks, the flags `clear` of its header not set."""
    if chunks and chunks[0][0] == b"VP8X":
        header = chunks[0][1]
        chunks[0] = (b"VP8X", bytes([header[0] & ~clear]) + header[1:])
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


# -- AVIF ----------------------------------------------------------------------------------------------


def _bare_avif(data: bytes) -> bytes:
    """EXIF and XMP renamed to items that no decoder knows: everything else stays where the file says it is.

    The brand becomes the one that decoders look for: it may be among the compatible ones only.
    """
    found = bytearray(data)
    if data[8:12] not in (b"avif", b"avis"):
        found[8:12] = b"avif"
    for entry in _item_entries(data):
        version = data[entry]
        place = entry + 8 if version == 2 else entry + 10  # version, flags, item (2 or 4 bytes), protection
        if version in (2, 3) and data[place : place + 4] in _AVIF_METADATA:
            found[place : place + 4] = b"skip"
    return bytes(found)


def _item_entries(data: bytes) -> Iterator[int]:
    """Where the contents of the boxes `infe` in `iinf` in `meta` begin; each of them begins with version and flags."""
    for name, start, end in _boxes(data, 0, len(data)):
        if name == b"meta":
            for inner, begin, stop in _boxes(data, start + 4, end):
                if inner == b"iinf":
                    count = 2 if data[begin : begin + 1] == b"\0" else 4
                    yield from (at for kind, at, _ in _boxes(data, begin + 4 + count, stop) if kind == b"infe")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the content of each box."""
    while at + 8 <= end:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or end - at
        if size < head or at + size > end:
            return
        yield data[at + 4 : at + 8], at + head, at + size
        at += size
