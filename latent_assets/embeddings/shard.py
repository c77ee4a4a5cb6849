"""One pass over a shard: each image is decoded once for all that is made of it; decode, encode and write overlap.

Memory is bounded by the batches in flight, whatever the shard's size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import cpu_count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from latent_assets.embeddings.store import EmbeddingWriter, ThumbnailWriter, writing_embeddings, writing_thumbnails
from latent_assets.embeddings.thumbnails import thumbnail
from latent_assets.images.decode.image import decode_image
from latent_assets.images.outcome import FetchError
from latent_assets.layout import latents_name
from latent_assets.models.encoder import SMALL_BATCH
from latent_assets.profile import Table
from latent_assets.progress import report

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from latent_assets.models.encoder import Encoder
    from latent_assets.storage import Storage

_THUMBNAILS_AT_ONCE = 64


@dataclass(frozen=True)
class VectorOutput:
    """An embedding that a pass makes: its encoder, the features' storage name (`store.embedding_name`), the batch size.

    whole: the column that goes to the file of latents; `spaces.Embedding.whole`.
    """

    encoder: Encoder
    name: str
    batch_size: int
    whole: str | None = None


@dataclass(frozen=True)
class ThumbnailOutput:
    """Thumbnails that a pass makes: their storage name (`store.thumbnail_name`) and how large they are."""

    name: str
    settings: Table


@dataclass(frozen=True)
class EmbedReport:
    """What a pass over a shard did. `undecodable`: rows that hold no image, left out of every output.

    `bytes` (a file of latents included), `devices` and `dtypes` are by the output's storage name; thumbnails have no
    device and no dtype.
    """

    rows: int
    undecodable: tuple[str, ...]
    seconds: float
    bytes: dict[str, int]
    devices: dict[str, str]
    dtypes: dict[str, str]

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.rows / self.seconds if self.seconds else 0.0


def embed_shard(
    storage: Storage,
    images: Iterable[tuple[str, bytes]],
    total: int,
    outputs: Sequence[VectorOutput | ThumbnailOutput],
) -> EmbedReport:
    """Make `outputs` from `images` (id, file bytes) in one pass; each image is decoded once.

    What an output gets does not depend on which others are asked for. Files appear only when all rows are through.
    `total` is for progress reports.
    """
    started = time.perf_counter()
    undecodable: list[str] = []
    rows = 0
    with ExitStack() as stack:
        disk = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="embedding-writer"))
        if any(isinstance(output, VectorOutput) for output in outputs):
            stack.enter_context(_own_threads())
        sinks = [_sink(stack, storage, disk, output) for output in outputs]
        for row_id, prepared in _prepared(images, [_preparation(output) for output in outputs]):
            if prepared is None:
                undecodable.append(row_id)
                continue
            for sink, item in zip(sinks, prepared, strict=True):
                sink.add(row_id, item)
            rows += 1
            if rows % 64 == 0 or rows == total:
                report("embeddings", rows, total, "images")
        for sink in sinks:
            sink.finish()
    encoders = {output.name: output.encoder for output in outputs if isinstance(output, VectorOutput)}
    return EmbedReport(
        rows,
        tuple(undecodable),
        time.perf_counter() - started,
        {output.name: _bytes(storage, output) for output in outputs},
        {name: _device_name(encoder) for name, encoder in encoders.items()},
        {name: str(encoder.dtype).removeprefix("torch.") for name, encoder in encoders.items()},
    )


def _bytes(storage: Storage, output: VectorOutput | ThumbnailOutput) -> int:
    names = [output.name]
    if isinstance(output, VectorOutput) and output.whole is not None:
        names.append(latents_name(output.name))
    return sum(storage.size(name) for name in names)


def _device_name(encoder: Encoder) -> str:
    from latent_assets.models.device import device_name

    return device_name(encoder.device)


def _preparation(output: VectorOutput | ThumbnailOutput) -> Callable[[Image.Image], Any]:
    """What a decoding thread makes of an image for one output: the encoder's pixels, or the thumbnail's bytes."""
    if isinstance(output, VectorOutput):
        return output.encoder.pixels
    settings = output.settings
    return lambda image: thumbnail(image, settings)


class _Sink(Protocol):
    def add(self, row_id: str, item: Any) -> None: ...

    def finish(self) -> None: ...


def _sink(
    stack: ExitStack, storage: Storage, disk: ThreadPoolExecutor, output: VectorOutput | ThumbnailOutput
) -> _Sink:
    if isinstance(output, ThumbnailOutput):
        return _Thumbnails(stack.enter_context(writing_thumbnails(storage, output.name)), disk)
    encoder = output.encoder
    writer = stack.enter_context(
        writing_embeddings(storage, output.name, encoder.columns, encoder.metadata, output.whole)
    )
    return _Vectors(encoder, output.batch_size, writer, disk, stack)


class _Writes:
    """Writes on the writer thread, at most three in flight."""

    def __init__(self, disk: ThreadPoolExecutor) -> None:
        self._disk = disk
        self._pending: deque[Future[None]] = deque()

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        self._pending.append(self._disk.submit(write, *arguments))
        while len(self._pending) > 2:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()


class _Thumbnails:
    """Hands thumbnails to the writer thread, some at a time."""

    def __init__(self, writer: ThumbnailWriter, disk: ThreadPoolExecutor) -> None:
        self._writer, self._writes = writer, _Writes(disk)
        self._ids: list[str] = []
        self._files: list[bytes] = []

    def add(self, row_id: str, item: bytes) -> None:
        self._ids.append(row_id)
        self._files.append(item)
        if len(self._ids) == _THUMBNAILS_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        if self._ids:
            self._flush()
        self._writes.finish()

    def _flush(self) -> None:
        self._writes.submit(self._writer.append, self._ids, self._files)
        self._ids, self._files = [], []


class _Vectors:
    """Collects rows to batches, encodes them, and hands them to the writer thread in order.

    Every batch has the same size: a row's result then does not depend on how many rows came with it. The last one of a
    shard is filled up, if the size is not one. A GPU takes batches of `batch_size`, and a batch's result is fetched
    only after the next one was queued, so it never idles. A CPU takes small ones (`cpu_batch`, one image of a large
    model), which cost it nothing and a shard of few rows little, side by side: threads that share one batch would wait
    for each other, above all while others decode. Of a large model two share one, for the memory that it takes. All of
    them together are a `batch_size` at most.
    """

    def __init__(
        self, encoder: Encoder, batch_size: int, writer: EmbeddingWriter, disk: ThreadPoolExecutor, stack: ExitStack
    ) -> None:
        import torch

        self._encoder, self._writer, self._writes = encoder, writer, _Writes(disk)
        self._batch_size, self._in_flight = batch_size, 1
        self._pool: ThreadPoolExecutor | None = None
        if encoder.device.type == "cpu":
            at_once = getattr(encoder, "cpu_batch", SMALL_BATCH)
            self._batch_size = min(batch_size, at_once)
            cores = torch.get_num_threads()
            most = cores if at_once == SMALL_BATCH else cores // 2
            workers = max(1, min(most, batch_size // self._batch_size))
            self._in_flight = workers
            self._pool = stack.enter_context(
                ThreadPoolExecutor(workers, "image-encoder", torch.set_num_threads, (max(1, cores // workers),))
            )
        self._ids: list[str] = []
        self._pixels: list[np.ndarray] = []
        self._queued: deque[tuple[list[str], Callable[[], dict[str, torch.Tensor]]]] = deque()

    def add(self, row_id: str, item: np.ndarray) -> None:
        self._ids.append(row_id)
        self._pixels.append(item)
        if len(self._ids) == self._batch_size:
            self._encode()

    def finish(self) -> None:
        if self._ids:
            self._encode()
        while self._queued:
            self._collect()
        self._writes.finish()

    def _encode(self) -> None:
        import torch

        ids, self._ids = self._ids, []
        padding = [self._pixels[-1]] * (self._batch_size - len(ids))
        batch = torch.from_numpy(np.stack(self._pixels + padding))
        self._pixels = []
        if self._pool is not None:
            self._queued.append((ids, self._pool.submit(self._columns, batch).result))
        else:
            columns = self._columns(batch.pin_memory() if self._encoder.device.type == "cuda" else batch)
            self._queued.append((ids, lambda: columns))
        while len(self._queued) > self._in_flight:
            self._collect()

    def _columns(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values.half() for name, values in self._encoder.encode(batch).items()}

    def _collect(self) -> None:
        ids, columns = self._queued.popleft()
        arrays = {name: values[: len(ids)].cpu().numpy() for name, values in columns().items()}
        self._writes.submit(self._writer.append, ids, arrays)


@contextmanager
def _own_threads() -> Iterator[None]:
    """Give torch back the number of threads that it had: the encoding threads set one of their own."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepared(
    images: Iterable[tuple[str, bytes]], preparations: Sequence[Callable[[Image.Image], Any]]
) -> Iterator[tuple[str, list[Any] | None]]:
    """Rows in order, decoded and prepared for each output in worker threads, a few batches ahead at most."""

    def prepare(data: bytes) -> list[Any] | None:
        try:
            image = decode_image(data)
        except FetchError:
            return None
        return [preparation(image) for preparation in preparations]

    workers = max(2, min(16, cpu_count() or 2))
    ahead: deque[tuple[str, Future[list[Any] | None]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="image-decoder") as pool:
        try:
            for row_id, data in images:
                ahead.append((row_id, pool.submit(prepare, data)))
                if len(ahead) >= 16 * workers:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
