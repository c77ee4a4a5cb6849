"""The catalog's columns, in one place, and the identity of its rows and shards.

Which columns of a source they are read from is decided in `columns`; what happens to the rows in `build`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import xxhash

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

CATALOG_COLUMNS = tuple(CATALOG_SCHEMA)

# columns that a source may provide; id, url_count and path are made here
SOURCE_COLUMNS = tuple(name for name in CATALOG_SCHEMA if name not in ("id", "url_count", "path"))

SHARD_DIGITS = 5


def shard_key(number: int) -> str:
    """`3` -> `"00003"`: keys sort in build order."""
    return f"{number:0{SHARD_DIGITS}d}"


def row_ids(keys: Iterable[bytes]) -> list[str]:
    """xxh3_128 of each key (a URL or a path, UTF-8), as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128_hexdigest
    return [digest(key) for key in keys]


def empty_catalog() -> pl.DataFrame:
    """A catalog without rows."""
    return pl.DataFrame(schema=CATALOG_SCHEMA)


def shard_hash(frame: pl.DataFrame) -> str:
    """Hash of a shard's rows, their order included: 32 hexadecimal digits.

    Depends on the values only, not on how they lie in memory or on the version of a library.
    """
    return _digest(frame).hexdigest()


def row_hashes(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """One hash per row over the named columns: 16 hexadecimal digits each."""
    names = list(columns)
    digest = xxhash.xxh3_64_hexdigest
    return [digest(repr(row).encode("utf-8", "surrogatepass")) for row in frame.select(names).iter_rows()]


def sorted_by_id(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows in ascending order of their ids."""
    head = pl.col("id").str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64)
    ordered = frame.with_columns(head.alias("head")).sort("head", maintain_order=True)
    # integers sort seven times faster than texts; ids that differ only in their second half are next to unheard of
    clash = (ordered["head"] == ordered["head"].shift(1)) & (ordered["id"] < ordered["id"].shift(1))
    return frame.sort("id", maintain_order=True) if clash.any() else ordered.drop("head")


def _digest(frame: pl.DataFrame) -> xxhash.xxh3_128:
    state = xxhash.xxh3_128()
    for name in CATALOG_SCHEMA:
        column = frame[name]
        state.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype == pl.String:
            text = column.fill_null("")
            state.update(text.str.len_bytes().cast(pl.UInt32).to_numpy().astype("<u4").tobytes())
            state.update(text.str.join("").cast(pl.Binary).item())
        else:
            values = column.fill_null(0).to_numpy()
            state.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return state
