"""Thumbnails of the table: small WebP or JPEG files, made in the pass that feeds the encoders.

They are made from the image that the encoders see: the same bytes whatever else a pass makes.
"""

from __future__ import annotations

import io

from PIL import Image

from latent_assets.profile import Table
from latent_assets.storage import fingerprint

_REVISION = 2  # raised when the same settings give other bytes
# the fastest that still halves the size of JPEG at 96 px
_WEBP_EFFORT = 2


def thumbnail_fingerprint(settings: Table) -> str:
    """Decides a thumbnail, apart from its image: 32 hexadecimal characters."""
    return fingerprint(
        "thumbnails", _REVISION, settings.thumbnail_size, settings.thumbnail_format, settings.thumbnail_quality
    )


def thumbnail(image: Image.Image, settings: Table) -> bytes:
    """An RGB image (left as it is) as a file of at most `thumbnail_size` pixels a side, never enlarged."""
    size = settings.thumbnail_size
    small = image.copy()
    # a large image is first averaged over boxes, which costs less
    small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    if settings.thumbnail_format == "webp":
        small.save(buffer, "WEBP", quality=settings.thumbnail_quality, method=_WEBP_EFFORT)
    else:
        small.save(buffer, "JPEG", quality=settings.thumbnail_quality, optimize=True)
    return buffer.getvalue()
