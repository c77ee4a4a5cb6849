"""A small release held in memory: its rows by position, and exact search, without a database's cost for every question.

Larger releases are asked through LanceDB alone. For who answers many questions: the service, the placing of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets.projection.neighbors import ExactIndex, unit

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import LanceTable

    from latent_assets.spaces import Metric

_MOST_BYTES = 96 << 20  # of vectors in float32 and thumbnails
_THUMBNAIL = 4 << 10  # bytes, about


class Resident:
    """The rows of a release, in the order of the table."""

    def __init__(self, rows: pa.Table, metrics: Mapping[str, Metric]) -> None:
        """`rows`: every row, with the vectors of the embeddings in `metrics` and whatever is asked for."""
        self._facts: list[Mapping[str, Any]] = rows.drop_columns([*metrics, "thumbnail"]).to_pylist()
        self._thumbnails: list[bytes] = rows["thumbnail"].to_pylist()
        self._position = {row["id"]: at for at, row in enumerate(self._facts)}
        self.vectors = {name: matrix(rows[name]) for name in metrics}
        self._indexes = {
            name: ExactIndex(unit(found) if metrics[name] == "cosine" else np.asarray(found, np.float32), metrics[name])
            for name, found in self.vectors.items()
        }

    @classmethod
    def of(cls, table: LanceTable, metrics: Mapping[str, Metric], columns: Sequence[str]) -> Resident | None:
        """Read a release into memory; None when it is too large for that.

        metrics: of the embeddings that are searched. columns: what is told of a row, besides its id and thumbnail.
        """
        widths = [table.schema.field(name).type.list_size for name in metrics]
        rows = int(table.count_rows())
        if not rows or rows * (8 * sum(widths) + _THUMBNAIL) > _MOST_BYTES:
            return None
        wanted = list(dict.fromkeys(["id", *columns, "thumbnail", *metrics]))
        return cls(table.search().select(wanted).limit(None).to_arrow(), metrics)

    def __len__(self) -> int:
        return len(self._facts)

    def position(self, row_id: str) -> int | None:
        """Where a row is; None for an unknown id."""
        return self._position.get(row_id)

    def row(self, position: int) -> Mapping[str, Any]:
        """What is told of a row."""
        return self._facts[position]

    def thumbnail(self, position: int) -> bytes:
        """The thumbnail of a row: a file."""
        return self._thumbnails[position]

    def nearest(
        self, embedding: str, vector: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 [n <= k] of the rows nearest to `vector` float [d], and distances float64 [n] in the
        embedding's metric (1 - cosine, or L2), nearest first; equal ones by position.

        among: bool [rows], which rows count at all.
        """
        index = self._indexes[embedding]
        query = np.asarray(vector, np.float32)[None]
        query = unit(query) if index.metric == "cosine" else query
        if among is None:
            found = index.search(query, min(k, len(index)))
            return found.indices[0], found.distances[0]
        kept = np.flatnonzero(among)
        if not len(kept):
            return np.zeros(0, np.int64), np.zeros(0)
        found = ExactIndex(index.points[kept], index.metric).search(query, min(k, len(kept)))
        return kept[found.indices[0]], found.distances[0]


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as an array [n, d], in its own type."""
    values = column.combine_chunks()
    found: np.ndarray = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.type.list_size)
    return found
