"""The embedding files: Arrow IPC, one per model and shard, written batch by batch and read column by column.

    embeddings/{model fingerprint}/{shard}.arrow
      CLIP: id string; vector float16 [d], unit length
      VAE:  id string; latent float16 [C*h*w] (row-major C, h, w); pooled, random float16 [k] (map features)

What the columns mean for the map is the business of `project`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.storage import Storage


@dataclass(frozen=True)
class ShardEmbeddings:
    """Where one shard's embeddings lie: storage names, None for a model the profile does not use."""

    shard: str
    clip: str | None
    vae: str | None


def embedding_name(model_fingerprint: str, shard: str) -> str:
    """Storage name of the embeddings of `shard` under one model."""
    return f"embeddings/{model_fingerprint}/{shard}.arrow"


class EmbeddingWriter:
    """Appends batches of rows to an embedding file. Use through `writing_embeddings`."""

    def __init__(self, sink: pa.NativeFile, widths: Mapping[str, int], metadata: Mapping[str, str]) -> None:
        self._widths = dict(widths)
        self._schema = pa.schema(
            [pa.field("id", pa.string(), nullable=False)]
            + [pa.field(name, pa.list_(pa.float16(), width), nullable=False) for name, width in widths.items()],
            metadata={key.encode(): value.encode() for key, value in metadata.items()},
        )
        self._writer = pa.ipc.new_file(sink, self._schema)
        self.rows = 0

    def append(self, ids: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Add `len(ids)` rows; each column is float [n, width]."""
        arrays: list[pa.Array] = [pa.array(list(ids), pa.string())]
        for name, width in self._widths.items():
            values = np.ascontiguousarray(columns[name], dtype=np.float16)
            if values.shape != (len(ids), width):
                raise ValueError(f"column {name}: shape {values.shape}, expected {(len(ids), width)}")
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width))
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self.rows += len(ids)

    def close(self) -> None:
        self._writer.close()


@contextmanager
def writing_embeddings(
    storage: Storage, name: str, widths: Mapping[str, int], metadata: Mapping[str, str] | None = None
) -> Iterator[EmbeddingWriter]:
    """Write an embedding file atomically: it exists only when the block ends without an error."""
    with storage.writing(name) as path, pa.OSFile(str(path), "wb") as sink:
        writer = EmbeddingWriter(sink, widths, metadata or {})
        yield writer
        writer.close()


def read_ids(storage: Storage, name: str) -> list[str]:
    """The row ids of an embedding file, in file order."""
    ids: list[str] = []
    for batch in _column_batches(storage, name, "id"):
        ids += batch.to_pylist()
    return ids


def column_batches(storage: Storage, name: str, column: str) -> Iterator[np.ndarray]:
    """One column batch by batch, as written: float16 [batch, width] each."""
    for batch in _column_batches(storage, name, column):
        # `flatten` honours a slice's offset
        yield batch.flatten().to_numpy(zero_copy_only=False).reshape(-1, batch.type.list_size)


def _column_batches(storage: Storage, name: str, column: str) -> Iterator[pa.Array]:
    """Memory-mapped on disk; on S3 only the bytes of that column are fetched, by range."""
    with ExitStack() as stack:
        if storage.is_local:
            with explained(storage, name):
                source = stack.enter_context(pa.memory_map(storage.uri(name)))
        else:
            source = pa.PythonFile(stack.enter_context(storage.open(name)), mode="r")
        schema = pa.ipc.open_file(source).schema
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(column)])
        reader = pa.ipc.open_file(source, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index).column(column)


def read_column(storage: Storage, name: str, column: str, rows: np.ndarray | None = None) -> np.ndarray:
    """One column as float16 [n, width]; `rows` (sorted indices) reads only those."""
    parts: list[np.ndarray] = []
    start = 0
    for values in column_batches(storage, name, column):
        end = start + len(values)
        chosen = values if rows is None else values[rows[(rows >= start) & (rows < end)] - start]
        parts.append(np.array(chosen, dtype=np.float16))
        start = end
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float16)
