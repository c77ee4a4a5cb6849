"""Worker processes in which images are decoded and stored: starting, driving and reusing them.

As threads, decoding, hashing and writing took the GIL from the event loop thousands of times a second. And bytes of
unknown origin meet decoders written in C here: one that crashes takes a row with it, not the run.

A worker is driven by one thread at a time, which sends results and waits until they are stored. Workers that nobody
drives are kept for the next shard and end by themselves after a while, or when the process that began them ends. What
goes on in one is in `worker`.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import FileIO
from typing import TYPE_CHECKING, Any

from latent_assets.errors import ResourceError, StorageError
from latent_assets.images.faults import FaultWatch, patience
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.images.store.journal import write_all
from latent_assets.images.store.worker import BODY_BYTES, Job, receive, send
from latent_assets.limits import THREADS, resource_error, shortage

if TYPE_CHECKING:
    from latent_assets.images.download.request import FetchResult

_TRIES = 3
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGPROF})
_BEGINNINGS = 2
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads for matrices spin for nothing
    # glibc gives an image's megabytes back to the system after each and gets them again page by page: a third of the
    # time. Larger ones are given back
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}
_START = """
import sys
sys.path[:] = {path!r}
from latent_assets.images.store.worker import serve
serve({bodies}, {lock})
"""


class WorkerLostError(Exception):
    """A worker ended in the middle of its work, by itself or by a signal; `code` as subprocess gives it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}")
        self.code = code

    @property
    def crashed(self) -> bool:
        """Whether what it was doing made it crash (or never end), rather than somebody or a lack of memory end it."""
        return -self.code in _CRASHES


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class RemoteRecorder:
    """A Recorder in a worker process. Used by one thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: _Worker | None = None
        self._faults = FaultWatch(patience(job.settings["timeout"]))

    def open(self) -> None:
        """Have a worker ready; `record` does so as well."""
        self._patiently(self._opened)

    def record(self, results: Sequence[FetchResult]) -> None:
        """Store images, or the reasons why they are none (see Recorder). What went wrong in the worker is raised here.

        A row at which a worker crashes, twice, is `corrupt_image`. Raises StorageError when workers end for another
        reason, or crash at an image that is in order, and ResourceError when memory, files or processes stay short.
        """
        self._patiently(lambda: self._record(results))

    def _patiently(self, what: Callable[[], object]) -> None:
        """Do something again as long as a fault of this side prevents it and may pass."""
        times = 0
        while True:
            try:
                what()
            except ResourceError as fault:
                times += 1
                time.sleep(self._faults.met(fault, times))
            else:
                self._faults.passed()
                return

    def _record(self, results: Sequence[FetchResult]) -> None:
        try:
            self._opened().record(results)
        except WorkerLostError:
            for result in results:
                self._record_alone(result)

    def _record_alone(self, result: FetchResult) -> None:
        for _ in range(_TRIES):
            try:
                self._opened().record([result])
                return
            except WorkerLostError as error:
                lost = error
            if lost.crashed and not isinstance(result.content, FetchError):
                break
        else:
            raise StorageError(
                f"The process that stores images {lost} again and again. If nobody ended it, memory is short: set a "
                "lower `fetch.max_pixels`, or give the build more. What is stored is kept."
            )
        try:
            self._opened().probe()
        except WorkerLostError as error:
            raise StorageError(
                f"The process that stores images {error} at an image that is in order: its libraries (Pillow, "
                "simplejpeg, OpenCV) do not work on this machine. Install them again. What is stored is kept."
            ) from error
        problem = FetchError(
            Reason.CORRUPT,
            f"the process that decodes images {lost} at it",
            status=result.status,
            redirects=result.redirects,
            body_bytes=result.size,
        )
        self._opened().record([replace(result, content=problem)])

    def close(self) -> None:
        """End the job; the worker is free for others. What a lost worker had not stored yet is not in the journal."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            with suppress(WorkerLostError):
                worker.close()
        finally:
            _release(worker)

    def _opened(self) -> _Worker:
        if self._worker is not None and not self._worker.lives:
            self._worker.end()
            self._worker = None
        if self._worker is None:
            self._worker = _acquire(self._job)
        return self._worker


class _Worker:
    """A process, the pipes to it, and memory that it sees."""

    def __init__(self) -> None:
        with _idle_lock:
            lock = _lock_file().fileno()
        self._bodies = _nameless_file()
        try:
            self._bodies.truncate(BODY_BYTES)
        except OSError as error:
            self._bodies.close()
            raise _no_room(BODY_BYTES, error) from error
        bodies = self._bodies.fileno()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START.format(path=sys.path, bodies=bodies, lock=lock)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[bodies, lock],
                env={**os.environ, **_ENVIRONMENT},
                bufsize=0,
                start_new_session=True,  # whoever drives decides what an interrupt means
            )
        except OSError as error:
            self._bodies.close()
            if isinstance(error, BlockingIOError):
                raise resource_error(THREADS, error.strerror) from error
            raise shortage(error) or error from error
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def open(self, job: Job) -> None:
        """Begin a job. Raises WorkerLostError when the process is not there (any more)."""
        self._ask(("open", job, dict(os.environ)))

    def record(self, results: Sequence[FetchResult]) -> None:
        bodies: list[bytes | memoryview] = []
        rows = []
        for result in results:
            if isinstance(result.content, FetchError):
                rows.append((result, -1))
            else:
                bodies += result.content
                rows.append((result.with_body(()), result.size))
        self._ask(("record", rows), bodies)

    def probe(self) -> None:
        """Store nothing, but make an image that could be stored."""
        self._ask(("probe",))

    def close(self) -> None:
        """End the job."""
        self._ask(("close",))

    def disown(self) -> None:
        """Close what leads to it in a process that did not begin the worker."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._bodies.close()
        self._process.returncode = 0  # it is not this process that waits for it

    def dismiss(self) -> None:
        """Let the process end."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdout
        self.dismiss()
        self._process.wait()
        self._process.stdout.close()
        self._bodies.close()

    def _ask(self, message: tuple[Any, ...], bodies: Sequence[bytes | memoryview] = ()) -> None:
        assert self._process.stdin
        if self._process.stdin.closed:  # the numbers of its pipes may be those of other files by now
            raise WorkerLostError(self._process.wait())
        size = sum(map(len, bodies))
        try:
            self._bodies.seek(0)
            write_all(self._bodies.fileno(), bodies)
        except OSError as error:
            self._bodies.truncate(BODY_BYTES)
            raise _no_room(size, error) from error
        try:
            send(self._requests, message, size)
            reply, _ = receive(self._replies)
            if size > BODY_BYTES:
                self._bodies.truncate(BODY_BYTES)
        except (OSError, EOFError) as error:
            self.end()
            raise WorkerLostError(self._process.returncode) from error
        if reply is not None:
            raise reply


def _no_room(size: int, error: OSError) -> StorageError:
    where = "memory" if hasattr(os, "memfd_create") else tempfile.gettempdir()
    return StorageError(
        f"No room in {where} for {size} bytes of images that arrived ({error.strerror}): free some, or raise the limit "
        "that this process has (`ulimit -f`). What is stored is kept."
    )


_idle: list[_Worker] = []
_idle_lock = threading.Lock()


def _acquire(job: Job) -> _Worker:
    """A worker that has begun the job, of those that are idle if there is one."""
    begun = 0
    while True:
        with _idle_lock:
            idle = _idle.pop() if _idle else None
        worker = idle or _Worker()
        begun += idle is None
        try:
            worker.open(job)
            return worker
        except WorkerLostError as error:
            if begun == _BEGINNINGS:
                raise StorageError(
                    f"The process that stores images {error} when it was begun; what it wrote to the log says why."
                ) from error
        except BaseException:
            _release(worker)
            raise


def _release(worker: _Worker) -> None:
    if not worker.lives:
        worker.end()
        return
    with _idle_lock:
        _idle.append(worker)


@cache
def _lock_file() -> FileIO:
    """A file for workers to lock; it lives as long as this process."""
    return _nameless_file()


def _nameless_file() -> FileIO:
    """A file in memory where there is such a thing, else on disk; it is gone when it is closed."""
    try:
        if hasattr(os, "memfd_create"):
            return FileIO(os.memfd_create("worker"), "r+")
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise shortage(error) or error from error


def _disown_idle() -> None:
    """In a forked process: the workers are those of the process it came from."""
    global _idle_lock
    _idle_lock = threading.Lock()
    while _idle:
        _idle.pop().disown()


os.register_at_fork(after_in_child=_disown_idle)


@atexit.register
def _end_idle() -> None:
    for worker in _idle:
        worker.dismiss()
    while _idle:
        _idle.pop().end()
