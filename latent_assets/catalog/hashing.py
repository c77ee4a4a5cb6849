"""What identifies the catalog's rows and shards: ids and hashes, which follow from the values alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import xxhash

from latent_assets.catalog.schema import CATALOG_SCHEMA

# names of columns that frames have on their way into shards
DIGEST = "digest"  # of `row_digests`
HEAD = "head"  # of `id_heads`

_NULL = np.uint64(0x9E3779B97F4A7C15)


def row_id(key: bytes) -> str:
    """xxh3_128 of a key, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(key)


def row_ids(keys: pl.Series) -> pl.Series:
    """The `row_id` of the UTF-8 of each text; null counts as empty."""
    return _hexadecimal(_digits(keys))


def ids_and_heads(keys: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The `row_ids` of texts and their `id_heads`, which are had by the way."""
    digits = _digits(keys)
    return _hexadecimal(digits), pl.Series(HEAD, digits[:, 0].astype(np.uint64))


def _digits(keys: pl.Series) -> np.ndarray:
    """xxh3_128 of each text: big-endian uint64 [n, 2]."""
    digests = keys.fill_null("").to_frame("key").select(plh.col("key").nchash.xxh3_128().alias("digest"))
    halves = digests.select((pl.col("digest") // 2**64).cast(pl.UInt64), low=(pl.col("digest") % 2**64).cast(pl.UInt64))
    # neither NumPy nor Arrow knows 128-bit integers
    digits = np.empty((len(keys), 2), dtype=">u8")
    for index, half in enumerate(halves):
        digits[:, index] = half.to_numpy()
    return digits


def _hexadecimal(digits: np.ndarray) -> pl.Series:
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digits), [None, pa.py_buffer(digits)])
    return pl.Series("id", binary).bin.encode("hex")


def id_starts(column: str) -> pl.Expr:
    """The first four digits of the `row_id` of each text of a column, as a number; an id takes five times as long.

    Null stays null.
    """
    digest: pl.Expr = plh.col(column).nchash.xxh3_128()
    return (digest // 2**112).cast(pl.UInt32)


def id_heads(ids: pl.Series) -> pl.Series:
    """The first half of each id as a number, UInt64: ids are ordered by it, next to always."""
    return ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).alias(HEAD)


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
