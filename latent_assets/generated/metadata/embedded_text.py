"""The texts that an image file carries: PNG text chunks and EXIF fields, by name. What they mean is read in `metadata`.

Nothing is decoded but the texts. Files are hostile: everything is bounded, and what is broken is left out. Layouts:
PNG 3 (W3C), TIFF 6, EXIF 2.32, WebP container (RFC 9649); AVIF through Pillow.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image

from latent_assets.images.decode import jpeg
from latent_assets.images.decode.formats import sniff
from latent_assets.images.decode.metadata import png_chunks, riff_chunks
from latent_assets.images.outcome import FetchError

TEXT_LIMIT = 4 << 20
_ALL_TEXTS_LIMIT = 4 * TEXT_LIMIT
_MOST_TEXTS = 64
_MOST_CHUNKS = 100_000

_EXIF = b"Exif\0\0"
_MODEL, _EXIF_DIRECTORY, _MAKER_NOTE, _USER_COMMENT = 0x0110, 0x8769, 0x927C, 0x9286
_NAMES = {_MODEL: "exif:Model", _MAKER_NOTE: "exif:MakerNote", _USER_COMMENT: "exif:UserComment"}
# ComfyUI's WebP fields, "name:{json}": the graph in Model, all else from Make downwards
_COMFYUI_TAGS = range(0x0100, _MODEL + 1)
_COMFYUI_FIELD = re.compile(r"(\w{1,64}):(?=[{\[])")
_TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"comf", b"eXIf"})
_BYTES = frozenset({1, 2, 7})  # TIFF's types of one byte each: BYTE, ASCII, UNDEFINED

# Pillow's remarks about odd files, one for each of thousands of fields
warnings.filterwarnings("ignore", module=r"PIL\.")


def embedded_texts(data: bytes) -> dict[str, str]:
    """The texts of a PNG, JPEG, WebP or AVIF file: PNG chunks by keyword, EXIF fields as `exif:UserComment` and so on.

    ComfyUI's fields have the names that it gives them (`prompt`, `workflow`) in all formats. At most 64 texts of 4 MiB
    each and 16 MiB together; a longer one is cut, and of several with one name the last counts. Never raises.
    """
    try:
        kind = sniff(data)
    except FetchError:
        return {}
    found: dict[str, str] = {}
    room = _ALL_TEXTS_LIMIT
    for name, text in itertools.islice(_png(data) if kind == "png" else _exif(_exif_block(data, kind)), _MOST_TEXTS):
        text = text[:room]
        room -= len(text)
        found[name] = text
    return found


def _png(data: bytes) -> Iterator[tuple[str, str]]:
    chunks = (chunk for chunk in itertools.islice(png_chunks(data), _MOST_CHUNKS) if chunk[0] in _TEXT_CHUNKS)
    block = b""
    for kind, start, end in itertools.islice(chunks, _MOST_TEXTS):
        if kind == b"eXIf":
            block = block or data[start:end]
            continue
        keyword_end = data.find(b"\0", start, min(end, start + 80))
        if keyword_end > start and (text := _chunk_text(kind, memoryview(data)[keyword_end + 1 : end])) is not None:
            yield data[start:keyword_end].decode("latin-1"), text
    yield from _exif(block)


def _chunk_text(kind: bytes, content: memoryview) -> str | None:
    """The text after a chunk's keyword. `comf`, in ComfyUI's animated PNGs after the pixels, is laid out as tEXt is."""
    if kind in (b"tEXt", b"comf"):
        return bytes(content[:TEXT_LIMIT]).decode("latin-1")
    if kind == b"zTXt":
        inflated = _inflated(content[1:])
        return None if inflated is None else inflated.decode("latin-1")
    compressed, head = bytes(content[:1]) == b"\1", bytes(content[2:1000])
    language, separator, rest = head.partition(b"\0")
    translated, end, _ = rest.partition(b"\0")
    if not (separator and end):
        return None
    body = content[2 + len(language) + 1 + len(translated) + 1 :]
    text = _inflated(body) if compressed else bytes(body[:TEXT_LIMIT])
    return None if text is None else text.decode("utf-8", "replace")


def _inflated(content: memoryview) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(content, TEXT_LIMIT)
    except zlib.error:
        return None


def _exif_block(data: bytes, kind: str) -> bytes:
    """The TIFF structure with an image's EXIF fields, empty without one."""
    if kind == "jpeg":
        try:
            blocks = [data[start:end] for marker, start, end in jpeg.segments(data) if marker == 0xE1]
        except ValueError:
            return b""
        return next((block for block in blocks if block.startswith(_EXIF)), b"").removeprefix(_EXIF)
    if kind == "webp":
        chunks = itertools.islice(riff_chunks(data), _MOST_CHUNKS)
        return next((content for name, content in chunks if name == b"EXIF"), b"").removeprefix(_EXIF)
    if kind == "avif":
        try:
            with Image.open(io.BytesIO(data)) as image:
                return bytes(image.info.get("exif", b"")).removeprefix(_EXIF)
        except Exception:  # decoders raise whatever they like on hostile input
            return b""
    return b""


def _exif(tiff: bytes) -> Iterator[tuple[str, str]]:
    """Only of the named fields: thousands of others may lie over the same megabytes."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    fields = _fields(tiff, directory, order)
    if _EXIF_DIRECTORY in fields:
        (directory,) = struct.unpack_from(f"{order}I", tiff, fields[_EXIF_DIRECTORY][2])
        fields = {**_fields(tiff, directory, order), **fields}
    for tag, (kind, count, at) in fields.items():
        if kind in _BYTES and (tag in _NAMES or tag in _COMFYUI_TAGS):
            if count > 4:
                (at,) = struct.unpack_from(f"{order}I", tiff, at)
            text = _exif_text(tiff[at : at + min(count, TEXT_LIMIT)], order)
            if tag in _COMFYUI_TAGS and (field := _COMFYUI_FIELD.match(text)):
                yield field[1], text[field.end() :]
            elif tag in _NAMES:
                yield _NAMES[tag], text


def _fields(tiff: bytes, directory: int, order: str) -> dict[int, tuple[int, int, int]]:
    """Of each tag in a TIFF directory: type, count, where its value or the value's place stands."""
    if directory + 2 > len(tiff):
        return {}
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    fields: dict[int, tuple[int, int, int]] = {}
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, at)
        fields[tag] = (kind, length, at + 8)
    return fields


def _exif_text(value: bytes, order: str) -> str:
    """A text field, or a user comment: a character code of eight bytes and the text. Fooocus leaves the code out."""
    code, body = value[:8], value[8:]
    if code == b"UNICODE\0":
        return _utf16(body, order).rstrip("\0")
    if code in (b"ASCII\0\0\0", b"\0" * 8):
        value = body
    value = value.rstrip(b"\0")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _utf16(value: bytes, order: str) -> str:
    """UTF-16 in the byte order that its zero bytes tell; the file's own order says nothing (EXIF leaves it open)."""
    if value[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return value.decode("utf-16", "replace")
    high, low = value[::2].count(0), value[1::2].count(0)
    big = high > low if high != low else order == ">"
    return value.decode("utf-16-be" if big else "utf-16-le", "replace")
