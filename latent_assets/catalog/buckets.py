"""More rows than memory: frames cut by the first digits of their ids into files that fit.

Temporary files only; what is kept is written by `sharding`.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.catalog.hashing import HEAD, id_heads, id_starts, ids_and_heads
from latent_assets.layout import CATALOG
from latent_assets.processes import Process, temporary_folder, this_process
from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_PREFIX = ".spill-"
_ROWS_PER_BUCKET = 400_000
_MOST_BUCKETS = 512  # each is an open file while rows come
_SPILLERS = 2
_BUFFER = 1 << 16  # of each file


def bucket_count(rows: int) -> int:
    """How many buckets keep one of them within memory: a power of two, at most 512."""
    count = 1
    while count < _MOST_BUCKETS and rows / count > _ROWS_PER_BUCKET:
        count *= 2
    return count


class Buckets:
    """Rows by ranges of their id: bucket 0 holds the lowest ids. One bucket stays in memory, more go to files.

    Columns without a value are not written. When one gets its first values later, new files are begun. Ids that are
    those of the URLs as written (`ids_of_urls`) need not be there when rows come: they are made when rows are read.
    """

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        name: str,
        count: int,
        schema: dict[str, type[pl.DataType]],
        ids_of_urls: bool = False,
    ) -> None:
        self.count = count
        self.rows = 0
        self._storage = storage
        self._folder = folder
        self._name = name
        self._schema = schema
        self._ids_of_urls = ids_of_urls
        self._frames: list[pl.DataFrame] = []
        self._generations = 0
        self._open: pa.Schema | None = None
        self._writers: list[pa.ipc.RecordBatchFileWriter] = []
        self._files: list[pa.NativeFile] = []
        self._writing = threading.Lock()
        self._threads = ThreadPoolExecutor(_SPILLERS, thread_name_prefix="spill")
        self._spilling: deque[Future[None]] = deque()

    def add(self, frame: pl.DataFrame) -> None:
        """Put each row of `frame` where it belongs, by its column `id` or the id that its URL has."""
        self.rows += frame.height
        if self.count == 1:
            self._frames.append(frame)
            return
        self._spilling.append(self._threads.submit(self._spill, frame))
        self._wait(_SPILLERS)

    def finish(self) -> None:
        """No more rows come; from now on buckets can be read."""
        self._wait(0)
        self._threads.shutdown()
        with explained(self._storage, CATALOG, reading=False):
            self._close()

    def read(self, bucket: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one bucket, in no particular order; besides the schema's columns there is HEAD, if asked for."""
        wanted = {name: self._schema.get(name, pl.UInt64) for name in columns or self._schema}
        if self.count == 1:
            frames = [self._identified(frame, wanted).select(list(wanted)) for frame in self._frames]
        else:
            paths = [self._path(generation, bucket) for generation in range(1, self._generations + 1)]
            frames = [_with_nulls(self._read(path, wanted), wanted) for path in paths if path.exists()]
        return pl.concat(frames) if frames else pl.DataFrame(schema=wanted)

    def forget(self, bucket: int) -> None:
        """Free what one bucket holds."""
        self._frames = []
        for generation in range(1, self._generations + 1):
            self._path(generation, bucket).unlink(missing_ok=True)

    def _read(self, path: Path, wanted: Collection[str]) -> pl.DataFrame:
        """Those of the wanted columns that a file has, in one piece: it was written in hundreds of small ones."""
        needed = {*wanted, "url"} if self._ids_of_urls and "id" in wanted else set(wanted)
        with pa.memory_map(str(path)) as source:
            found = [number for number, name in enumerate(pa.ipc.open_file(source).schema.names) if name in needed]
            options = pa.ipc.IpcReadOptions(included_fields=found)
            table = pa.ipc.open_file(source, options=options).read_all().combine_chunks()
        return self._identified(cast(pl.DataFrame, pl.from_arrow(table)), wanted)

    def _identified(self, frame: pl.DataFrame, wanted: Collection[str]) -> pl.DataFrame:
        """With ids and heads as far as they are wanted."""
        if self._ids_of_urls and "id" in wanted:
            ids, heads = ids_and_heads(frame["url"])
            if "id" in frame.columns and frame["id"].null_count() < frame.height:
                given = frame["id"]
                return frame.with_columns(pl.coalesce(given, ids), pl.coalesce(id_heads(given), heads))
            return frame.with_columns(ids, heads)
        return frame.with_columns(id_heads(frame["id"])) if HEAD in wanted else frame

    def _path(self, generation: int, bucket: int) -> Path:
        return self._folder / f"{self._name}-{generation:02d}-{bucket:04d}.arrow"

    def _wait(self, left: int) -> None:
        """Until at most `left` frames are on their way to the files."""
        try:
            while len(self._spilling) > left:
                self._spilling.popleft().result()
        except BaseException:
            self._threads.shutdown(cancel_futures=True)
            with suppress(OSError, pa.ArrowException):  # of each file, when the disk is full
                self._close()
            raise

    def _spill(self, frame: pl.DataFrame) -> None:
        """Append a frame to the files of its buckets. Runs in a thread, while the next one is read."""
        digits = pl.col("id").str.slice(0, 4).str.to_integer(base=16, dtype=pl.UInt32)
        start = pl.coalesce(digits, id_starts("url")) if self._ids_of_urls else digits
        number = start * self.count // 65536
        kept = "url" if self._ids_of_urls else "id"  # this one there must be
        filled = [name for name in self._schema if name == kept or frame[name].null_count() < frame.height]
        numbers = frame.select(number.cast(pl.UInt16)).to_series().to_numpy()
        order = np.argsort(numbers, kind="stable")  # by counting: there are few different ones
        arrays = frame.select(filled).rechunk()[order].to_arrow(compat_level=pl.CompatLevel.oldest())
        with self._writing, explained(self._storage, CATALOG, reading=False):
            schema = self._schema_with(filled)
            arranged = [
                arrays[field.name] if field.name in filled else pa.nulls(arrays.num_rows, field.type)
                for field in schema
            ]
            table = pa.table(arranged, schema=schema)
            ends = np.bincount(numbers, minlength=self.count).cumsum()
            for bucket, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
                if start < end:
                    self._writers[bucket].write_table(table.slice(start, end - start))

    def _schema_with(self, filled: list[str]) -> pa.Schema:
        """The schema of the files that are open, which have these columns among others."""
        if self._open is None or not set(filled) <= set(self._open.names):
            before = [] if self._open is None else self._open.names
            self._close()
            empty = pl.DataFrame(schema={k: v for k, v in self._schema.items() if k in filled or k in before})
            self._open = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
            self._generations += 1
            for bucket in range(self.count):
                path = str(self._path(self._generations, bucket))
                self._files.append(pa.output_stream(path, compression=None, buffer_size=_BUFFER))
                self._writers.append(pa.ipc.new_file(self._files[-1], self._open))
        return self._open

    def _close(self) -> None:
        parts, self._writers, self._files = [*self._files, *self._writers], [], []
        with ExitStack() as stack:  # the others are closed when the disk is full for one
            for part in parts:
                stack.callback(part.close)


def _with_nulls(frame: pl.DataFrame, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """The columns of `schema`, null where the frame has none of that name."""
    return frame.select(
        pl.col(name) if name in frame.columns else pl.lit(None, dtype).alias(name) for name, dtype in schema.items()
    )


@contextmanager
def spill_folder(storage: Storage) -> Iterator[Path]:
    """A directory for buckets beside the catalog (in the system's temporary directory when the root is remote)."""
    if not storage.is_local:
        with temporary_folder() as folder:
            yield folder
        return
    parent = Path(storage.uri(CATALOG))
    with explained(storage, CATALOG, reading=False):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{this_process()}+", dir=parent))
    for left in parent.glob(f"{_PREFIX}*"):
        owner = Process.parse(left.name.removeprefix(_PREFIX).rpartition("+")[0])
        # whoever builds the catalog has claimed it: what another container left is nobody's
        if owner is None or owner.has_ended() is not False:
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
