"""Everything below a directory, decoded: what a scan of raw bytes cannot see because it is compressed or packed.

Each file is opened by the reader of its own format. A format that is not known here fails the test that meets it.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import polars as pl
import pyarrow as pa
from lance.file import LanceFileReader
from safetensors.numpy import load_file

_PLAIN = (
    ".txn",
    ".manifest",
    ".yaml",
    ".toml",
    ".lock",
    ".txt",
    ".jsonl",
    ".data",
    ".err",
    ".out",
    ".complete",
    ".db-shm",
    ".db-wal",
    ".bin",
    "",
)
_PICTURES = (".png", ".webp", ".jpg", ".jpeg")
_DATA_URI = re.compile(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Wanted:
    """What to look for: texts (links, ids, captions, hashes), and bytes (image, thumbnail, vectors as they lie)."""

    texts: dict[str, str]
    data: dict[str, bytes]


def mentions(folder: Path, wanted: Wanted, without: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Names of what was found -> files (relative to `folder`) that hold it. `without`: folders that are left out."""
    found: dict[str, set[str]] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if not file.is_file() or name.startswith(without):
            continue
        for value in values(file):
            for key in _hits(value, wanted):
                found.setdefault(key, set()).add(name)
    return found


def _hits(value: bytes, wanted: Wanted) -> Iterator[str]:
    for key, text in wanted.texts.items():
        if text.encode() in value or json.dumps(text)[1:-1].encode() in value:
            yield key
    for key, data in wanted.data.items():
        if data in value:
            yield key


def values(file: Path) -> Iterator[bytes]:
    """The decoded content of a file, piece by piece, and its raw bytes."""
    raw = file.read_bytes()
    yield raw
    suffix = file.suffix.lower()
    if suffix in (".lance", ".idx"):
        yield from _lance(file)
    elif suffix == ".parquet":
        yield from _frame(pl.read_parquet(file).to_arrow())
    elif suffix == ".arrow":
        yield from _frame(pa.ipc.open_file(pa.OSFile(str(file))).read_all())
    elif suffix == ".safetensors":
        yield from _safetensors(file, raw)
    elif suffix == ".tar":
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                yield member.name.encode()
                content = tar.extractfile(member)
                yield content.read() if content else b""
    elif suffix in (".db", ".sqlite") or raw[:16] == b"SQLite format 3\0":
        yield from _sqlite(file)
    elif suffix == ".json":
        yield json.dumps(json.loads(raw), ensure_ascii=False).encode("utf-8", "surrogatepass")
    elif suffix in _PICTURES:
        return
    elif suffix not in _PLAIN and not suffix[1:].isdigit():
        raise AssertionError(f"{file}: no reader for this format")


def _lance(file: Path) -> Iterator[bytes]:
    """Columns of any Lance file: data, and every kind of index's."""
    reader = LanceFileReader(str(file))
    yield str(reader.metadata().schema).encode()
    for key, value in (reader.metadata().schema.metadata or {}).items():
        yield key + value
    yield from _frame(reader.read_all().to_table())


def _frame(table: pa.Table) -> Iterator[bytes]:
    for name in table.column_names:
        for chunk in table[name].chunks:
            yield from _array(chunk)


def _array(array: pa.Array) -> Iterator[bytes]:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _array(array.field(index))
    elif pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type):
        yield np.ascontiguousarray(array.flatten().to_numpy(zero_copy_only=False)).tobytes()
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _array(array.flatten())
    elif pa.types.is_primitive(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        if not pa.types.is_boolean(kind) and not pa.types.is_temporal(kind):
            yield np.ascontiguousarray(array.fill_null(0).to_numpy(zero_copy_only=False)).tobytes()
    else:
        for value in array.to_pylist():
            if value is not None:
                yield value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def _safetensors(file: Path, raw: bytes) -> Iterator[bytes]:
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    yield json.dumps(header.get("__metadata__", {}), ensure_ascii=False).encode()
    for text in header.get("__metadata__", {}).values():
        yield text.encode()
    for values in load_file(file).values():
        yield np.ascontiguousarray(values).tobytes()


def _sqlite(file: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    yield from _cell(value)


def _cell(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        data = value
        with suppress(zlib.error):
            yield zlib.decompress(value)
    else:
        return
    yield data
    for encoded in _DATA_URI.findall(data):
        yield base64.b64decode(encoded)


def versions(uri: str) -> list[int]:
    """The versions that a Lance table has."""
    return [int(version["version"]) for version in lance.dataset(uri).versions()]
