"""The catalog's columns, in one place, and the identity of its rows and shards.

Which columns of a source they are read from is decided in `columns`; what happens to the rows in `build`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
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

DIGEST = "digest"  # name of a column of `row_digests`, which frames have on their way into shards

_NULL = np.uint64(0x9E3779B97F4A7C15)


def shard_key(number: int) -> str:
    """`3` -> `"00003"`: keys sort in build order."""
    return f"{number:0{SHARD_DIGITS}d}"


def row_id(key: bytes) -> str:
    """xxh3_128 of a key, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(key)


def row_ids(keys: pl.Series) -> pl.Series:
    """The `row_id` of the UTF-8 of each text; null counts as empty."""
    digests = keys.fill_null("").to_frame("key").select(plh.col("key").nchash.xxh3_128().alias("digest"))
    halves = digests.select((pl.col("digest") // 2**64).cast(pl.UInt64), low=(pl.col("digest") % 2**64).cast(pl.UInt64))
    # neither NumPy nor Arrow knows 128-bit integers
    digits = np.empty((len(keys), 2), dtype=">u8")
    for index, half in enumerate(halves):
        digits[:, index] = half.to_numpy()
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(digits)])
    return pl.Series("id", binary).bin.encode("hex")


def id_heads(ids: pl.Series) -> np.ndarray:
    """The first half of each id as a number, uint64: ids are ordered by it, next to always."""
    heads: np.ndarray = ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
    return heads


def empty_catalog() -> pl.DataFrame:
    """A catalog without rows."""
    return pl.DataFrame(schema=CATALOG_SCHEMA)


def shard_hash(frame: pl.DataFrame) -> str:
    """Hash of a shard's rows, their order included: 32 hexadecimal digits.

    Depends on the values only, not on how they lie in memory or on the version of a library.
    """
    return hash_of_digests(row_digests(frame))


def hash_of_digests(digests: np.ndarray) -> str:
    """The `shard_hash` of the rows that have these digests."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(digests, dtype="<u8").data)


def row_digests(frame: pl.DataFrame) -> np.ndarray:
    """A digest of each row over all columns, uint64 [n]."""
    digests = np.zeros(frame.height, dtype=np.uint64)
    for name in CATALOG_SCHEMA:
        digests = mixed(digests ^ _column_digests(frame[name]))
    return digests


def _column_digests(column: pl.Series) -> np.ndarray | np.uint64:
    """The values of a column as uint64: bits of numbers, xxh3_64 of texts, a fixed one for null."""
    if column.null_count() == len(column):
        return _NULL
    if column.dtype == pl.String:
        texts = column.fill_null("").to_frame("value")
        values = texts.select(plh.col("value").nchash.xxh3_64()).to_series().to_numpy()
    elif column.dtype == pl.Float32:
        values = column.fill_null(0).to_numpy().view(np.uint32).astype(np.uint64)
    else:
        values = column.fill_null(0).to_numpy().astype(np.int64).view(np.uint64)
    return np.where(column.is_null().to_numpy(), _NULL, values) if column.null_count() else values


def mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014): spreads uint64 over all of their range."""
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    spread: np.ndarray = values ^ (values >> np.uint64(31))
    return spread


def row_hashes(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """One hash per row over the named columns: 16 hexadecimal digits each."""
    names = list(columns)
    digest = xxhash.xxh3_64_hexdigest
    return [digest(repr(row).encode("utf-8", "surrogatepass")) for row in frame.select(names).iter_rows()]
