"""Thumbnails of the table: small WebP or JPEG files, made from the stored images.

Decoding is shared with the encoders (`models.preprocessing`), so both see the same picture.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from PIL import Image

from latent_assets.errors import DataError
from latent_assets.models.preprocessing import to_rgb
from latent_assets.profile import Table

_IN_FLIGHT = 64
# the fastest that still halves the size of JPEG at 96 px
_WEBP_EFFORT = 2


def thumbnail(data: bytes, settings: Table) -> bytes:
    """An image file as a thumbnail of at most `thumbnail_size` pixels a side, never enlarged.

    Raises OSError when `data` is not an image.
    """
    size = settings.thumbnail_size
    stored = Image.open(io.BytesIO(data))
    stored.draft("RGB", (2 * size, 2 * size))  # JPEG decodes at a fraction of its size
    stored.load()
    image = to_rgb(stored)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if settings.thumbnail_format == "webp":
        image.save(buffer, "WEBP", quality=settings.thumbnail_quality, method=_WEBP_EFFORT)
    else:
        image.save(buffer, "JPEG", quality=settings.thumbnail_quality, optimize=True)
    return buffer.getvalue()


def thumbnails(images: Iterable[tuple[str, bytes]], settings: Table, shard: str) -> Iterator[tuple[str, bytes]]:
    """Thumbnails of (id, file) pairs in their order, on as many threads as there are cores.

    Raises DataError naming the row whose image cannot be decoded.
    """

    def make(item: tuple[str, bytes]) -> tuple[str, bytes]:
        row_id, data = item
        try:
            return row_id, thumbnail(data, settings)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"The stored image {row_id} of shard {shard} cannot be decoded ({error}). Fetch the shard again: "
                f"remove images/{shard}.tar and images/{shard}.parquet (or the folder images/{shard}) and "
                f"manifests/image_shards/{shard}.json, then run `latent-assets build`."
            ) from error

    source = iter(images)
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="thumbnail") as pool:
        while batch := list(islice(source, _IN_FLIGHT)):
            yield from pool.map(make, batch)
