"""Bodies that servers send compressed although nobody asked for it (Content-Encoding, RFC 9110, 8.4).

How much of an answer is read is decided in `http_client`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress

from latent_assets.errors import StorageError
from latent_assets.images.decode.formats import sniff
from latent_assets.images.outcome import FetchError, Reason

_ZLIB = frozenset({"gzip", "x-gzip", "deflate"})
_ARROW = {"br": "brotli", "zstd": "zstd"}
_STEP = 1 << 20


def encodings_of(header: str | None) -> list[str]:
    """The compressions in a Content-Encoding header, in the order in which they were applied; others are no such."""
    if not header:
        return []
    names = [name.strip().lower() for name in header.split(",")]
    return [name for name in names if name in _ZLIB or name in _ARROW]


def plain_body(body: bytes, encodings: list[str], limit: int, image: bool) -> bytes:
    """A body without its compression, at most `limit` bytes of it: an image that has more is refused, a text is cut.

    One that is an image as it came never had any, whatever its headers say. Raises FetchError.
    """
    try:
        plain = _decompressed(body, encodings, limit)
    except FetchError:
        if not image:
            raise
        with suppress(FetchError):
            sniff(body)
            return body
        raise
    if image and len(plain) > limit:
        raise FetchError(Reason.TOO_MANY_BYTES, f"more than {limit} bytes", body_bytes=len(plain))
    return plain[:limit]


def _decompressed(body: bytes, encodings: list[str], limit: int) -> bytes:
    """The body as it was before; little more than `limit` bytes of it at most, the rest is left out.

    What cannot be decompressed raises FetchError.
    """
    for encoding in reversed(encodings):
        pieces: list[bytes] = []
        size = 0
        try:
            for piece in _inflated(body) if encoding in _ZLIB else _arrow(body, _ARROW[encoding]):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    break
        except (zlib.error, OSError, EOFError) as error:
            raise FetchError(Reason.INCOMPLETE, f"Content-Encoding: {encoding}: {error}") from error
        body = b"".join(pieces)
    return body


def _inflated(body: bytes) -> Iterator[bytes]:
    """gzip, also of several members, or deflate, also without zlib's header, as some servers send it."""
    while body:
        raw = body[0] & 0x0F != 8 and body[:2] != b"\x1f\x8b"
        stream = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
        while not stream.eof:
            piece = stream.decompress(body, _STEP)
            body = stream.unconsumed_tail
            if not piece and not body and not stream.eof:
                raise EOFError("the body ends too early")
            yield piece
        body = stream.unused_data if stream.unused_data[:2] == b"\x1f\x8b" else b""


def _arrow(body: bytes, codec: str) -> Iterator[bytes]:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise StorageError(f"Brotli and zstd cannot be read: {error}. Install pyarrow again.") from error
    with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
        while piece := stream.read(_STEP):
            yield piece
