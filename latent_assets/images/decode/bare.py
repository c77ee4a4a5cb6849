"""The file that a decoder is shown of an image: its pixels and nothing else.

A broken or oversized extra must not make a decoder refuse the image; what extras say of how pixels are shown is read
here. Layouts: PNG 3 (W3C), WebP container (RFC 9649), GIF89a, TIFF 6.0, ISO media (ISO/IEC 14496-12).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from latent_assets.images.decode import jpeg
from latent_assets.images.decode.metadata import (
    PNG_SIGNATURE,
    has_palette,
    intact,
    png_chunks,
    riff_file,
    webp_orientation,
    whole_frames,
)

_PNG_PIXELS = frozenset({b"IHDR", b"IDAT", b"IEND"})
_TRANSPARENT = {b"\0": 2, b"\2": 6}  # bytes of the colour that is clear, by colour type
_WEBP_ANIMATION = frozenset({b"VP8X", b"ANIM", b"ANMF"})
_WEBP_FLAGS = 0x20 | 0x08 | 0x04  # profile, EXIF, XMP
_WEBP_ALPHA = 0x10
_AVIF_METADATA = frozenset({b"Exif", b"mime"})  # XMP is an item of the type `mime`
# texts, dates, XMP, IPTC, Photoshop, EXIF, places
_TIFF_METADATA = frozenset({270, 271, 272, 285, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34665, 34853, 37724})
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by type
_LARGEST_PROFILE = 32_000_000  # bytes; those of printers have up to a few million
_MOST_PAGES = 10_000
_MOST_BLOCKS = 200_000


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
    """What a decoder is to be shown of an image; `kind` as `formats.sniff` gives it. BMP stays."""
    if kind == "jpeg":
        header = jpeg.read_header(data)
        return Bare(jpeg.without_extras(data), header.orientation, header.icc, 1)
    if kind == "png":
        return _png(data)
    if kind == "webp":
        return _webp(data)
    if kind == "tiff":
        return _tiff(data)
    return Bare({"avif": _avif, "gif": _gif}[kind](data) if kind in ("avif", "gif") else data)


# -- PNG -----------------------------------------------------------------------------------------------


def _png(data: bytes) -> Bare:
    """Extras with a wrong checksum are passed over, as libpng does; so is transparency that does not fit the pixels."""
    pieces = [PNG_SIGNATURE]
    orientation, icc, frames = 1, None, 1
    colours = 0  # of the palette, once it was met
    in_pixels = False
    for name, start, end in png_chunks(data):
        size = end - start
        if name in _PNG_PIXELS or (name == b"PLTE" and has_palette(data)):
            pieces.append(data[start - 8 : end + 4])
            in_pixels = in_pixels or name == b"IDAT"
            colours = size // 3 if name == b"PLTE" else colours
        elif not intact(data, start, end):
            continue
        elif name == b"tRNS" and not in_pixels:
            if _TRANSPARENT.get(data[25:26]) == size or (has_palette(data) and 0 < size <= colours):
                pieces.append(data[start - 8 : end + 4])
        elif name == b"eXIf":
            orientation = jpeg.tiff_orientation(data[start:end])
        elif name == b"iCCP":
            icc = _inflated_profile(data[start:end])
        elif name == b"acTL" and size >= 8:
            frames = max(1, int.from_bytes(data[start : start + 4], "big"))
    return Bare(b"".join(pieces), orientation, icc, frames)


def _inflated_profile(content: bytes) -> bytes | None:
    """The colour profile in an iCCP chunk (name, 0, method 0, deflated), None when it is broken or absurdly large."""
    _, _, deflated = content.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(deflated[1:], _LARGEST_PROFILE + 1)
    except zlib.error:
        return None
    return profile if 0 < len(profile) <= _LARGEST_PROFILE else None


# -- WebP ----------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Bare:
    """A single picture gets a new header, from what its pixels say; a last frame that is cut short is left out."""
    chunks = whole_frames(data)
    icc = next((content for name, content in chunks if name == b"ICCP"), None)
    orientation = webp_orientation(chunks)
    if any(name == b"ANMF" for name, _ in chunks):
        kept = [(name, content) for name, content in chunks if name in _WEBP_ANIMATION]
        return Bare(riff_file(kept, clear=_WEBP_FLAGS), orientation, icc)
    return Bare(_webp_still(chunks), orientation, icc, 1)


def _webp_still(chunks: list[tuple[bytes, bytes]]) -> bytes:
    coded = next(((name, content) for name, content in chunks if name in (b"VP8 ", b"VP8L")), None)
    if coded is None:
        return riff_file([], clear=0)
    alpha = next((content for name, content in chunks if name == b"ALPH"), None)
    if coded[0] == b"VP8L" or alpha is None:
        return riff_file([coded], clear=0)
    width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", coded[1].ljust(10, b"\0"), 6))
    canvas = (max(width, 1) - 1).to_bytes(3, "little") + (max(height, 1) - 1).to_bytes(3, "little")
    header = bytes([_WEBP_ALPHA, 0, 0, 0]) + canvas
    return riff_file([(b"VP8X", header), (b"ALPH", alpha), coded], clear=0)


# -- GIF -----------------------------------------------------------------------------------------------


def _gif(data: bytes) -> bytes:
    """Without the extensions that decide no pixel: of those only graphic controls (0xF9) of the right length stay."""
    cuts: list[tuple[int, int]] = []
    steps = _Steps(_MOST_BLOCKS)
    at = 13 + _colours(data[10:11])
    while at < len(data) and steps.left():
        kind = data[at]
        if kind == 0x2C:
            end = _blocks_end(data, at + 11 + _colours(data[at + 9 : at + 10]), steps)
        elif kind == 0x21:
            end = _blocks_end(data, at + 2, steps)
            if data[at + 1 : at + 3] != b"\xf9\4" and steps.taken <= steps.most:
                cuts.append((at, end))
        elif kind == 0x3B:
            break
        else:
            end = at + 1
        at = end
    pieces, begin = [], 0
    for start, end in cuts:
        pieces.append(data[begin:start])
        begin = end
    return b"".join([*pieces, data[begin:]]) if cuts else data


@dataclass
class _Steps:
    """Files of millions of tiny blocks are made to cost time: they are looked at so far, and the rest stays."""

    most: int
    taken: int = 0

    def left(self) -> bool:
        self.taken += 1
        return self.taken <= self.most


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that follows."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _blocks_end(data: bytes, at: int, steps: _Steps) -> int:
    """Where a row of blocks ends, each with its length before it."""
    while at < len(data) and data[at] and steps.left():
        at += 1 + data[at]
    return at + 1


# -- TIFF ----------------------------------------------------------------------------------------------


def _tiff(data: bytes) -> Bare:
    """Its first page alone, without what lies outside of the file; pages behind it are counted as far as they go.

    A decoder gives up at a text that is not there, and misses the pixels' place, which is said behind it.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    first = at = _number(data, 4, order)
    pages: set[int] = set()
    while at and at not in pages and len(pages) < _MOST_PAGES and 8 <= at <= len(data) - 2:
        (entries,) = struct.unpack_from(f"{order}H", data, at)
        if (end := at + 2 + 12 * entries) > len(data):
            break
        pages.add(at)
        at = _number(data, end, order)
    if first not in pages:
        return Bare(data)
    (entries,) = struct.unpack_from(f"{order}H", data, first)
    places = range(first + 2, first + 2 + 12 * entries, 12)
    kept = [data[place : place + 12] for place in places if _decides(data, place, order)]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return Bare(data[:first] + directory + data[first + len(directory) :], frames=len(pages))


def _decides(data: bytes, entry: int, order: str) -> bool:
    """Whether a tag may decide pixels, and its values are there."""
    tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
    size = _TIFF_SIZES.get(kind, 0) * count
    place = entry + 8 if size <= 4 else _number(data, entry + 8, order)
    return tag not in _TIFF_METADATA and 0 < size <= len(data) - place


def _number(data: bytes, at: int, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", data, at)[0]) if at + 4 <= len(data) else 0


# -- AVIF ----------------------------------------------------------------------------------------------


def _avif(data: bytes) -> bytes:
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
