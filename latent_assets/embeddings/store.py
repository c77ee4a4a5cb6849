"""The files of this room: Arrow IPC, one set per model and shard, read column by column.

    embeddings/{model fingerprint}/{shard}.arrow          id string; each feature float16 [k]
    embeddings/{model fingerprint}/{shard}.latents.arrow  id string; the whole embedding float16 [d], where there is one
    thumbnails/{fingerprint}/{shard}.arrow                id string; thumbnail binary (a WebP or JPEG file)

All have the same rows in the same order. Features lie in few large batches, so that reading one reads its bytes and
no others; latents in small ones, so that single rows can be read. What a column means for the map is the business of
`projection`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.layout import latents_name
from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_FEATURE_BATCH_ROWS = 64 * 1024
_WHOLE_BATCH_BYTES = 64 * 1024  # what reading a single row costs
_THUMBNAIL_BATCH_ROWS = 1_024
_BATCH_ROWS_KEY = b"batch_rows"


@dataclass(frozen=True)
class ShardEmbeddings:
    """Where one shard's vectors and thumbnails lie.

    files: storage name of the features of each embedding (`embedding_name`); `latents_name` gives that of its latents.
    thumbnails: storage name of the thumbnails (`thumbnail_name`), None where they are not wanted.
    """

    shard: str
    files: Mapping[str, str]
    thumbnails: str | None = None


# -- writing -------------------------------------------------------------------------------------------


class _File:
    """Collects rows to batches of `batch_rows` and writes them as they fill up."""

    def __init__(self, sink: pa.NativeFile, fields: Sequence[pa.Field], batch_rows: int, metadata: dict[str, str]):
        encoded = {key.encode(): value.encode() for key, value in metadata.items()}
        identity = pa.field("id", pa.string(), nullable=False)
        self._schema = pa.schema([identity, *fields], encoded | {_BATCH_ROWS_KEY: str(batch_rows).encode()})
        self._writer = pa.ipc.new_file(sink, self._schema)
        self._batch_rows = batch_rows
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def append(self, columns: Sequence[pa.Array]) -> None:
        self._waiting.append(pa.record_batch(columns, schema=self._schema))
        self._rows += len(columns[0])
        if self._rows >= self._batch_rows:
            self._write(self._rows - self._rows % self._batch_rows)

    def _write(self, rows: int) -> None:
        """Write the first `rows` of what waits, in whole batches; the last one of a file may be smaller."""
        waiting = pa.concat_batches(self._waiting)
        for start in range(0, rows, self._batch_rows):
            self._writer.write_batch(waiting.slice(start, min(self._batch_rows, rows - start)))
        self._rows -= rows
        self._waiting = [waiting.slice(rows)] if self._rows else []

    def close(self) -> None:
        if self._rows:
            self._write(self._rows)
        self._writer.close()


class EmbeddingWriter:
    """Appends rows to the features of an embedding, and to its latents. Use through `writing_embeddings`."""

    def __init__(self, features: _File, latents: _File | None, widths: Mapping[str, int], whole: str | None) -> None:
        self._features, self._latents = features, latents
        self._widths, self._whole = dict(widths), whole
        self.rows = 0

    def append(self, ids: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Add `len(ids)` rows; each column is float [n, width]."""
        arrays = {name: _vectors(name, columns[name], len(ids), width) for name, width in self._widths.items()}
        named = pa.array(list(ids), pa.string())
        if self._latents is not None:
            self._latents.append([named, arrays[str(self._whole)]])
        self._features.append([named, *(array for name, array in arrays.items() if name != self._whole)])
        self.rows += len(ids)

    def close(self) -> None:
        """Write what waits."""
        for file in (self._latents, self._features):
            if file is not None:
                file.close()


def _vectors(name: str, values: np.ndarray, rows: int, width: int) -> pa.FixedSizeListArray:
    halves = np.ascontiguousarray(values, dtype=np.float16)
    if halves.shape != (rows, width):
        raise ValueError(f"column {name}: shape {halves.shape}, expected {(rows, width)}")
    return pa.FixedSizeListArray.from_arrays(pa.array(halves.reshape(-1)), width)


@contextmanager
def writing_embeddings(
    storage: Storage,
    name: str,
    widths: Mapping[str, int],
    metadata: Mapping[str, str] | None = None,
    whole: str | None = None,
) -> Iterator[EmbeddingWriter]:
    """Write the columns `widths` of an embedding: features to `name`, the column `whole` to `latents_name(name)`.

    Both files appear atomically, the features last, and only when the block ends without an error.
    """
    described = dict(metadata or {})

    def file(stack: ExitStack, target: str, columns: Sequence[str], batch_rows: int) -> _File:
        path = stack.enter_context(storage.writing(target))
        sink = stack.enter_context(pa.OSFile(str(path), "wb"))
        fields = [pa.field(column, pa.list_(pa.float16(), widths[column]), nullable=False) for column in columns]
        return _File(sink, fields, batch_rows, described)

    with ExitStack() as stack:
        # what is entered first is left last: the features appear after the latents
        features = file(stack, name, [column for column in widths if column != whole], _FEATURE_BATCH_ROWS)
        latents = None
        if whole is not None:
            rows = max(1, _WHOLE_BATCH_BYTES // (2 * max(1, widths[whole])))
            latents = file(stack, latents_name(name), [whole], rows)
        writer = EmbeddingWriter(features, latents, widths, whole)
        yield writer
        writer.close()


class ThumbnailWriter:
    """Appends rows to a file of thumbnails. Use through `writing_thumbnails`."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self.rows = 0

    def append(self, ids: Sequence[str], files: Sequence[bytes]) -> None:
        """Add `len(ids)` rows; `files` are the bytes of the thumbnails."""
        self._file.append([pa.array(list(ids), pa.string()), pa.array(list(files), pa.binary())])
        self.rows += len(ids)


@contextmanager
def writing_thumbnails(storage: Storage, name: str) -> Iterator[ThumbnailWriter]:
    """Write a file of thumbnails atomically: it exists only when the block ends without an error."""
    with storage.writing(name) as path, pa.OSFile(str(path), "wb") as sink:
        file = _File(sink, [pa.field("thumbnail", pa.binary(), nullable=False)], _THUMBNAIL_BATCH_ROWS, {})
        yield ThumbnailWriter(file)
        file.close()


# -- taking out ----------------------------------------------------------------------------------------


def drop_rows(storage: Storage, name: str, ids: Collection[str]) -> int | None:
    """Write a file of this room anew without the rows `ids`; how many that were. One that has none is left alone.

    A file that cannot be read is removed, for nobody can tell what it holds: then None.
    """
    wanted = pa.array(sorted(ids), pa.string())
    try:
        found = pc.is_in(read_id_array(storage, name), value_set=wanted)
        dropped = int(pc.sum(found).as_py() or 0)
        if dropped:
            _write_without(storage, name, wanted)
    except (pa.ArrowException, KeyError, ValueError, OSError):
        storage.delete(name)
        return None
    return dropped


def _write_without(storage: Storage, name: str, ids: pa.Array) -> None:
    with _opened(storage, name, None) as source, storage.writing(name) as path, pa.OSFile(str(path), "wb") as sink:
        metadata = {key.decode(): value.decode() for key, value in (source.schema.metadata or {}).items()}
        fields = [field for field in source.schema if field.name != "id"]
        file = _File(sink, fields, source.batch_rows, metadata)
        for index in range(source.batches):
            batch = source.batch(index)
            kept = batch.filter(pc.invert(pc.is_in(batch.column("id"), value_set=ids)))
            file.append([kept.column(field.name) for field in source.schema])
        file.close()


# -- reading -------------------------------------------------------------------------------------------


def read_ids(storage: Storage, name: str) -> list[str]:
    """The row ids of a file of this room, in file order."""
    found: list[str] = read_id_array(storage, name).to_pylist()
    return found


def read_id_array(storage: Storage, name: str) -> pa.Array:
    """`read_ids` as an Arrow string array, without an object for each."""
    with _opened(storage, name, "id") as file:
        return _joined([file.column(index) for index in range(file.batches)], pa.string())


def read_width(storage: Storage, name: str, column: str) -> int:
    """Length of the vectors of a column, also when the file has no rows."""
    with _opened(storage, name, column) as file:
        return file.width


def column_batches(storage: Storage, name: str, column: str) -> Iterator[np.ndarray]:
    """One column batch by batch, as written: float16 [batch, width] each."""
    with _opened(storage, name, column) as file:
        for index in range(file.batches):
            yield _matrix(file.column(index))


def read_column(storage: Storage, name: str, column: str, rows: np.ndarray | None = None) -> np.ndarray:
    """One column as float16 [n, width]; `rows` (sorted indices) gives only those, and reads only their batches."""
    with _opened(storage, name, column) as file:
        if rows is None:
            parts = [_matrix(file.column(index)) for index in range(file.batches)]
        else:
            parts = []
            for index in np.unique(rows // file.batch_rows).tolist():
                start = index * file.batch_rows
                values = _matrix(file.column(index))
                chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + file.batch_rows)]
                parts.append(values[chosen - start])
        return np.concatenate(parts) if parts else np.zeros((0, file.width), np.float16)


def read_thumbnails(storage: Storage, name: str) -> pa.Table:
    """All thumbnails of a file: `id` string, `thumbnail` binary."""
    with _opened(storage, name, None) as file:
        return pa.Table.from_batches([file.batch(index) for index in range(file.batches)], file.schema)


def thumbnail_batches(storage: Storage, name: str) -> Iterator[pa.RecordBatch]:
    """`read_thumbnails` batch by batch."""
    with _opened(storage, name, None) as file:
        for index in range(file.batches):
            yield file.batch(index)


@dataclass(frozen=True)
class _OpenFile:
    """An Arrow file of which only one column is read, or all (`name` None)."""

    reader: pa.ipc.RecordBatchFileReader
    schema: pa.Schema
    name: str | None

    @property
    def batches(self) -> int:
        return int(self.reader.num_record_batches)

    @property
    def batch_rows(self) -> int:
        """Rows of every batch but the last."""
        return int(self.schema.metadata[_BATCH_ROWS_KEY])

    @property
    def width(self) -> int:
        return int(self.schema.field(self.name).type.list_size)

    def batch(self, index: int) -> pa.RecordBatch:
        return self.reader.get_batch(index)

    def column(self, index: int) -> pa.Array:
        return self.reader.get_batch(index).column(self.name)


@contextmanager
def _opened(storage: Storage, name: str, column: str | None) -> Iterator[_OpenFile]:
    """Read by position, never mapped: what is not asked for is not read, and a file cut short is an error."""
    with ExitStack() as stack:
        if storage.is_local:
            with explained(storage, name):
                source = stack.enter_context(pa.OSFile(storage.uri(name)))
        else:
            source = stack.enter_context(pa.PythonFile(stack.enter_context(storage.open(name)), mode="r"))
        reader = pa.ipc.open_file(source)
        schema = reader.schema
        if column is not None:
            if (position := schema.get_field_index(column)) < 0:
                raise KeyError(f"{name} has no column {column}; it has {', '.join(schema.names)}")
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[position]))
        yield _OpenFile(reader, schema, column)


def _joined(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.concat_arrays(parts) if parts else pa.array([], kind)


def _matrix(column: pa.Array) -> np.ndarray:
    # `flatten` honours a slice's offset
    found: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return found
