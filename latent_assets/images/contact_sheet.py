"""A contact sheet: the first images of a shard in one picture, for the person who looks at a run."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice

from PIL import Image


def contact_sheet(images: Iterable[bytes], columns: int = 12, rows: int = 4, tile: int = 64) -> bytes:
    """WebP picture of up to `columns * rows` images, each fitted into `tile` pixels; broken ones stay grey."""
    files = list(islice(images, columns * rows))
    lines = max(1, -(-len(files) // columns))
    sheet = Image.new("RGB", (columns * tile, lines * tile), (255, 255, 255))
    for index, data in enumerate(files):
        place = (index % columns * tile, index // columns * tile)
        try:
            file = Image.open(io.BytesIO(data))
            file.draft("RGB", (tile, tile))
            image = file.convert("RGB")
            image.thumbnail((tile - 2, tile - 2))
        except (OSError, ValueError, SyntaxError):
            image = Image.new("RGB", (tile - 2, tile - 2), (200, 200, 200))
        sheet.paste(image, (place[0] + (tile - image.width) // 2, place[1] + (tile - image.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
