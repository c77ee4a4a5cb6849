"""More rows than memory: frames cut by the first digits of their ids into files that fit.

Temporary files only; what is kept is written by `sharding`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_PREFIX = ".spill-"
_ROWS_PER_BUCKET = 400_000
_MOST_BUCKETS = 512  # each is an open file while rows come


def bucket_count(rows: int) -> int:
    """How many buckets keep one of them within memory: a power of two, at most 512."""
    count = 1
    while count < _MOST_BUCKETS and rows / count > _ROWS_PER_BUCKET:
        count *= 2
    return count


class Buckets:
    """Rows by ranges of their id: bucket 0 holds the lowest ids. One bucket stays in memory, more go to files."""

    def __init__(
        self, storage: Storage, folder: Path, name: str, count: int, schema: dict[str, type[pl.DataType]]
    ) -> None:
        self.count = count
        self.rows = 0
        self._storage = storage
        self._schema = schema
        self._frames: list[pl.DataFrame] = []
        self._paths = [folder / f"{name}-{number:04d}.arrow" for number in range(count)]
        self._writers: list[pa.ipc.RecordBatchFileWriter] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spill")
        self._spilling: deque[Future[None]] = deque()

    def add(self, frame: pl.DataFrame) -> None:
        """Put each row of `frame` (with a column `id` of hexadecimal digits) where it belongs."""
        self.rows += frame.height
        if self.count == 1:
            self._frames.append(frame)
            return
        self._spilling.append(self._thread.submit(self._spill, frame))
        while len(self._spilling) > 2:
            self._spilling.popleft().result()

    def finish(self) -> None:
        """No more rows come; from now on buckets can be read."""
        while self._spilling:
            self._spilling.popleft().result()
        self._thread.shutdown()
        with explained(self._storage, "catalog", reading=False):
            for writer in self._writers:
                writer.close()
        self._writers = []

    def read(self, bucket: int, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows of one bucket, in the order they came."""
        names = columns or list(self._schema)
        if self.count == 1:
            frames = [frame.select(names) for frame in self._frames]
            return pl.concat(frames) if frames else pl.DataFrame(schema={name: self._schema[name] for name in names})
        if not self._paths[bucket].exists():
            return pl.DataFrame(schema={name: self._schema[name] for name in names})
        return pl.read_ipc(self._paths[bucket], columns=names)

    def forget(self, bucket: int) -> None:
        """Free what one bucket holds."""
        self._frames = []
        self._paths[bucket].unlink(missing_ok=True)

    def _spill(self, frame: pl.DataFrame) -> None:
        """Append a frame to the files of its buckets. Runs in a thread, while the next one is read."""
        number = pl.col("id").str.slice(0, 4).str.to_integer(base=16, dtype=pl.UInt32) * self.count // 65536
        ordered = frame.with_columns(number.alias("bucket")).sort("bucket")
        table = ordered.drop("bucket").to_arrow(compat_level=pl.CompatLevel.oldest())
        with explained(self._storage, "catalog", reading=False):
            if not self._writers:
                self._writers = [pa.ipc.new_file(path, table.schema) for path in self._paths]
            start = 0
            for bucket, rows in ordered["bucket"].rle().struct.unnest().select("value", "len").iter_rows():
                self._writers[bucket].write_table(table.slice(start, rows))
                start += rows


@contextmanager
def spill_folder(storage: Storage) -> Iterator[Path]:
    """A directory for buckets beside the catalog (in the system's temporary directory when the root is remote)."""
    parent = Path(storage.uri("catalog")) if storage.is_local else Path(tempfile.gettempdir())
    with explained(storage, "catalog", reading=False):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    for left in parent.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
