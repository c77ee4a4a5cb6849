"""The catalog's columns, in one place.

Which columns of a source they are read from is decided in `columns`, what identifies rows in `hashing`, what happens
to them in `build`.
"""

from __future__ import annotations

import polars as pl

# column -> dtype. Every shard file has exactly these columns in this order.
CATALOG_SCHEMA: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "url": pl.String,
    "caption": pl.String,
    "source_url": pl.String,
    "category": pl.String,
    "aesthetic": pl.Float32,
    "similarity": pl.Float32,
    "punsafe": pl.Float32,
    "pwatermark": pl.Float32,
    "width": pl.Int32,
    "height": pl.Int32,
    "source_hash": pl.Int64,
    "url_count": pl.Int32,
    "path": pl.String,
}

COLUMN_MEANING: dict[str, str] = {
    "id": "32 hexadecimal digits: xxh3_128 of the URL, or of the path below a folder or tar",
    "url": "where the image is; for a folder its path relative to the folder",
    "caption": "the text that came with the image, or null",
    "source_url": "the page the image stands on, or null (LAION does not give it)",
    "category": "a label of the source, or null",
    "aesthetic": "aesthetic score of the source; predictors differ, so scores of two sources do not compare",
    "similarity": "cosine of image and caption under the source's CLIP",
    "punsafe": "probability that the image is unsafe, as the source claims",
    "pwatermark": "probability that the image has a watermark, as the source claims",
    "width": "pixels, as the source claims",
    "height": "pixels, as the source claims",
    "source_hash": "the source's own hash of the row; for files a hash of size and modification time",
    "url_count": "rows of the source with this URL, collapsed into this one",
    "path": "null for links; the file, or the member of a tar and where it lies in it",
}

NEVER_NULL = ("id", "url", "url_count")

CATALOG_COLUMNS = tuple(CATALOG_SCHEMA)

# columns that a source may provide; id, url_count and path are made here
SOURCE_COLUMNS = tuple(name for name in CATALOG_SCHEMA if name not in ("id", "url_count", "path"))

SHARD_DIGITS = 5


def shard_key(number: int) -> str:
    """`3` -> `"00003"`: keys sort in build order."""
    return f"{number:0{SHARD_DIGITS}d}"


def empty_catalog() -> pl.DataFrame:
    """A catalog without rows."""
    return pl.DataFrame(schema=CATALOG_SCHEMA)
