"""Which image format bytes are in, by their beginning. What is inside is the business of `image`."""

from __future__ import annotations

from latent_assets.images.outcome import FetchError, Reason

EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "avif": "avif", "tiff": "tif"}
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?php", b"{", b"[")
_UNSUPPORTED = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_AVIF = frozenset({b"avif", b"avis"})
_HEAD = 1024


def sniff(data: bytes) -> str:
    """The format by the first bytes: jpeg, png, webp, gif, bmp, avif or tiff. Raises FetchError for all else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[4:8] == b"ftyp" and _brands(data) & _AVIF:
        return "avif"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if data[:2] == b"BM" and len(data) >= 26:
        return "bmp"
    raise _not_supported(data)


def _brands(data: bytes) -> set[bytes]:
    """The major and compatible brands of an ISO media file; 8 bytes in stands its major brand, then its version."""
    end = min(int.from_bytes(data[:4], "big"), _HEAD)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def _not_supported(data: bytes) -> FetchError:
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return FetchError(Reason.VECTOR_IMAGE, "SVG: it has no pixels and may hold scripts")
    for magic, name in _UNSUPPORTED.items():
        if data.startswith(magic):
            return FetchError(Reason.UNSUPPORTED_FORMAT, name)
    if data[4:8] == b"ftyp":
        return FetchError(Reason.UNSUPPORTED_FORMAT, f"ISO media {data[8:12].decode('latin-1')}")
    looks = "a page or script" if head.startswith(_MARKUP) else "no known image format"
    return FetchError(Reason.NOT_AN_IMAGE, f"{looks}: starts with {data[:16]!r}")
