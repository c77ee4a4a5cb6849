"""The queue of results that wait to be stored: threads beside the event loop, each driving a worker (`worker_pool`).

How rows come by their results is the business of `fetcher`, what is made of them that of `recorder`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from latent_assets.images.download.request import FetchResult
from latent_assets.images.store.worker import Job
from latent_assets.images.store.worker_pool import RemoteRecorder
from latent_assets.limits import shortage

_TOGETHER, _TOGETHER_BYTES = 16, 4_000_000
_ROWS_A_WORKER = 200  # for fewer, another is begun when the others are busy


class StoreQueue:
    """Takes rows that are through with the network. Lives in one event loop; `failed` is its first error.

    `done` is told in the loop how many rows more are stored; about so many `rows` will come.
    """

    def __init__(self, job: Job, rows: int, done: Callable[[int], None]) -> None:
        self._job = job
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # holds who listens to progress
        self._waiting: queue.SimpleQueue[FetchResult | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._last: BaseException | None = None
        self._count = _processors()
        self._at_once = min(self._count, 1 + rows // _ROWS_A_WORKER)
        self._working = 0
        self._lock = threading.Lock()
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def open(self) -> None:
        """Begin storing."""
        for _ in range(self._at_once):
            self._begin()

    def put(self, result: FetchResult) -> None:
        """Take a row. Another thread begins when the others are busy, as many as there are processors."""
        self._waiting.put(result)
        if len(self._threads) < self._count and not self._idle.acquire(blocking=False):
            self._begin()

    def close(self) -> None:
        """Wait until everything put is stored."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise what went wrong when the last of it was stored. For after `close`."""
        if self._last is not None:
            raise self._last

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, name=f"image-{len(self._threads)}", daemon=True)
        with self._lock:
            self._working += 1
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                self._working -= 1
            if not self._threads:
                raise shortage(error) or error from error
            return  # others store what comes
        self._threads.append(thread)

    def _work(self) -> None:
        recorder = RemoteRecorder(self._job)
        broken = False
        try:
            recorder.open()
        except BaseException as error:
            with self._lock:
                self._working -= 1
                if self._working:
                    return  # others store what comes
            broken = True
            self._tell(self.fail, error)
        while (first := self._next()) is not None:
            results = [first, *self._more(first)]
            if broken:
                continue
            try:
                recorder.record(results)
            except BaseException as error:  # a full disk, not a row: rows have outcomes
                broken = True
                self._tell(self.fail, error)
            else:
                self._tell(self._finish, len(results))
        try:
            recorder.close()
        except BaseException as error:
            self._last = error

    def _next(self) -> FetchResult | None:
        with suppress(queue.Empty):
            return self._waiting.get_nowait()
        self._idle.release()
        return self._waiting.get()

    def _more(self, first: FetchResult) -> Iterator[FetchResult]:
        """What waits besides `first` and may be stored with it: this thread's share, as long as it is small."""
        size = first.size
        for _ in range(min(self._waiting.qsize() // max(1, self._working), _TOGETHER - 1)):
            if size > _TOGETHER_BYTES:
                return
            try:
                result = self._waiting.get_nowait()
            except queue.Empty:
                return
            if result is None:
                self._waiting.put(None)
                return
            size += result.size
            yield result

    def _finish(self, rows: int) -> None:
        try:
            self._done(rows)
        except BaseException as error:  # of a listener, or an interrupt: the loop would only log it
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Something went wrong that ends it all. Called in the loop."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def _tell(self, what: Callable[..., None], about: object) -> None:
        with suppress(RuntimeError):  # the loop may have been closed by an interrupt
            self._loop.call_soon_threadsafe(what, about, context=self._context)


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
