"""Encoding one shard: a single decode pass feeds CLIP and VAE; decode, encode and write overlap.

Memory is bounded by the batches in flight, whatever the shard's size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from os import cpu_count

import numpy as np
import torch

from latent_assets.embeddings.store import EmbeddingWriter, writing_embeddings
from latent_assets.models.clip import ClipEncoder
from latent_assets.models.device import device_name
from latent_assets.models.preprocessing import decode
from latent_assets.models.vae import VaeEncoder
from latent_assets.progress import report
from latent_assets.storage import Storage


@dataclass(frozen=True)
class Target:
    """One model that a pass feeds: its encoder, the embedding file to write and the batch size."""

    encoder: ClipEncoder | VaeEncoder
    name: str
    batch_size: int


@dataclass(frozen=True)
class EncodeReport:
    """What encoding a shard did. `undecodable` names the rows that hold no image, which are left out.

    `bytes` and `dtypes` are by storage name of the embedding file.
    """

    rows: int
    undecodable: tuple[str, ...]
    seconds: float
    device: str
    bytes: dict[str, int]
    dtypes: dict[str, str]

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.rows / self.seconds if self.seconds else 0.0


def encode_shard(
    storage: Storage, images: Iterable[tuple[str, bytes]], total: int, targets: Sequence[Target]
) -> EncodeReport:
    """Encode `images` (id, file bytes) for every target in one pass; each image is decoded once.

    The files appear only when all rows are through. `total` is for progress reports.
    """
    started = time.perf_counter()
    undecodable: list[str] = []
    rows = 0
    with ExitStack() as stack:
        disk = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="embedding-writer"))
        sinks = [_sink(stack, storage, disk, target) for target in targets]
        for row_id, crops in _decoded(images, [target.encoder for target in targets]):
            if crops is None:
                undecodable.append(row_id)
                continue
            for sink, pixels in zip(sinks, crops, strict=True):
                sink.add(row_id, pixels)
            rows += 1
            if rows % 64 == 0 or rows == total:
                report("embeddings", rows, total, "images")
        for sink in sinks:
            sink.finish()
    return EncodeReport(
        rows,
        tuple(undecodable),
        time.perf_counter() - started,
        device_name(targets[0].encoder.device),
        {target.name: storage.size(target.name) for target in targets},
        {target.name: str(target.encoder.dtype).removeprefix("torch.") for target in targets},
    )


def _sink(stack: ExitStack, storage: Storage, disk: ThreadPoolExecutor, target: Target) -> _Sink:
    encoder = target.encoder
    if isinstance(encoder, ClipEncoder):
        writer = stack.enter_context(writing_embeddings(storage, target.name, {"vector": _clip_width(encoder)}))
        return _Sink(_ClipColumns(encoder), target.batch_size, writer, disk)
    channels, height, width = encoder.latent_shape
    widths = {"latent": channels * height * width, "pooled": encoder.feature_dim, "random": encoder.feature_dim}
    shape = {"latent_shape": f"{channels},{height},{width}"}
    writer = stack.enter_context(writing_embeddings(storage, target.name, widths, shape))
    return _Sink(_VaeColumns(encoder), target.batch_size, writer, disk)


def _clip_width(encoder: ClipEncoder) -> int:
    blank = torch.zeros((1, encoder.size, encoder.size, 3), dtype=torch.uint8)
    return int(encoder.encode_pixels(blank).shape[1])


@dataclass(frozen=True)
class _ClipColumns:
    encoder: ClipEncoder

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"vector": self.encoder.encode_pixels(pixels).half()}


@dataclass(frozen=True)
class _VaeColumns:
    encoder: VaeEncoder

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        latents = self.encoder.encode_pixels(pixels)
        pooled, random = self.encoder.features(latents)
        return {"latent": latents.flatten(1).half(), "pooled": pooled.half(), "random": random.half()}


class _Sink:
    """Collects rows to batches, encodes them, and hands them to the writer thread.

    Every batch is filled up to the same size: a row's result then does not depend on how many rows came
    with it. On a GPU a batch's result is fetched only after the next batch was queued, so it never idles.
    """

    def __init__(
        self, columns: _ClipColumns | _VaeColumns, batch_size: int, writer: EmbeddingWriter, disk: ThreadPoolExecutor
    ) -> None:
        self._columns, self._batch_size, self._writer, self._disk = columns, batch_size, writer, disk
        self._ids: list[str] = []
        self._pixels: list[np.ndarray] = []
        self._on_device: tuple[list[str], dict[str, torch.Tensor]] | None = None
        self._writes: deque[Future[None]] = deque()

    def add(self, row_id: str, pixels: np.ndarray) -> None:
        self._ids.append(row_id)
        self._pixels.append(pixels)
        if len(self._ids) == self._batch_size:
            self._encode()

    def finish(self) -> None:
        if self._ids:
            self._encode()
        self._collect()
        while self._writes:
            self._writes.popleft().result()

    def _encode(self) -> None:
        ids, self._ids = self._ids, []
        padding = [self._pixels[-1]] * (self._batch_size - len(ids))
        batch = torch.from_numpy(np.stack(self._pixels + padding))
        self._pixels = []
        if torch.cuda.is_available():
            batch = batch.pin_memory()
        queued = (ids, self._columns(batch))
        self._collect()
        self._on_device = queued

    def _collect(self) -> None:
        if self._on_device is None:
            return
        ids, columns = self._on_device
        self._on_device = None
        arrays = {name: values[: len(ids)].cpu().numpy() for name, values in columns.items()}
        self._writes.append(self._disk.submit(self._writer.append, ids, arrays))
        while len(self._writes) > 2:
            self._writes.popleft().result()


def _decoded(
    images: Iterable[tuple[str, bytes]], encoders: Sequence[ClipEncoder | VaeEncoder]
) -> Iterator[tuple[str, list[np.ndarray] | None]]:
    """Rows in order, decoded and cropped for each encoder in worker threads, a few batches ahead at most."""

    def prepare(data: bytes) -> list[np.ndarray] | None:
        try:
            image = decode(data)
        except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken files
            return None
        return [encoder.pixels(image) for encoder in encoders]

    workers = max(2, min(16, cpu_count() or 2))
    ahead: deque[tuple[str, Future[list[np.ndarray] | None]]] = deque()
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
