"""What identifies the rows of a release: a digest over their values, whatever files they lie in.

Files differ from build to build (the training of an index is not seeded, compression changes with a version), rows do
not. A digest is a sum over rows, so neither their order nor the shard they belong to matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from latent_assets.storage import fingerprint

_MODULUS = 2**128
_LEFT_OUT = "shard"  # where a row lies, not what it is


def digest_rows(ids: pa.Array, columns: pa.Table) -> str:
    """The sum of a digest (xxh3_128) of each row, its id and its values: 32 hexadecimal digits.

    ids: string [n]; columns: [n] rows of strings, binaries, numbers and fixed-size lists of numbers. The shard's name
    does not count.
    """
    names = sorted(name for name in columns.column_names if name != _LEFT_OUT)
    total = 0
    digest = xxhash.xxh3_128_intdigest
    for values in zip(_values(ids), *(_values(columns[name].combine_chunks()) for name in names), strict=True):
        total += digest(b"".join(values))
    return f"{total % _MODULUS:032x}"


def add_digests(digests: Mapping[str, str]) -> str:
    """The digest of all rows of several sets of rows that have none in common; keys do not matter."""
    return f"{sum(int(digest, 16) for digest in digests.values()) % _MODULUS:032x}"


def content_hash(schema: pa.Schema, rows: Mapping[str, str], coords: Mapping[str, str]) -> str:
    """What a release holds: 32 hexadecimal digits, equal for equal rows in columns of equal names and types.

    rows, coords: by shard the `digest_rows` of its rows without their places, and of its places.
    """
    columns = sorted((field.name, str(field.type)) for field in schema if field.name != _LEFT_OUT)
    return fingerprint("rows", [list(column) for column in columns], add_digests(rows), add_digests(coords))


def _values(column: pa.Array) -> Iterator[bytes]:
    """Each value as bytes that no other value of its type has: how long it is, then what it is; null is nothing."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        for data in column.cast(pa.binary()).to_pylist():
            yield b"\0" if data is None else b"\1" + len(data).to_bytes(8, "little") + data
        return
    width, flat = 1, column
    if pa.types.is_fixed_size_list(column.type):
        width, flat = column.type.list_size, column.flatten()
    if flat.null_count:
        present = pc.is_valid(flat).to_pylist()
        flat = flat.fill_null(0)
    else:
        present = None
    numbers = flat.to_numpy(zero_copy_only=False)
    bytes_of = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()
    size = width * numbers.dtype.itemsize
    for row in range(len(column)):
        if present is not None and not present[row]:
            yield b"\0"
        else:
            yield b"\1" + bytes_of[row * size : (row + 1) * size]
