"""Processes in which images are made and stored, beside the one that fetches them.

As threads, decoding, hashing and writing took the interpreter's lock from the event loop thousands of times a second.
And bytes of unknown origin meet decoders written in C here: one that crashes takes a row with it, not the run.

A worker is driven by one thread at a time, which sends what arrived and waits until it is stored. Workers that nobody
drives are kept for the next shard and end by themselves after a while, or when the process that began them ends.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from latent_assets.errors import LatentAssetsError, StorageError
from latent_assets.fetch.journal import write_all
from latent_assets.fetch.outcome import FetchError, Reason

if TYPE_CHECKING:
    from latent_assets.fetch.arrival import Arrival
    from latent_assets.fetch.clerk import Clerk
    from latent_assets.profile import Fetch
    from latent_assets.storage import Storage

_IDLE_SECONDS = 60.0
_CPU_SECONDS = 300.0  # for what is entered together; a decoder that takes longer does not end
_TRIES = 3
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGPROF})
_BEGINNINGS = 2
_HEAD = struct.Struct("<QQ")  # bytes of the message, bytes of the bodies behind it
_PIPE_BYTES = 1 << 20
_WARM_BYTES = 6_000_000  # for bodies: memory that is new each time costs as much as what is done with it
_START = "import sys; sys.path[:] = {path!r}; from latent_assets.fetch.workers import serve; serve({turn})"


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


@dataclass(frozen=True)
class Job:
    """What a worker has to know: where images go (the root, the part's name) and the profile's `fetch` settings."""

    root: str
    part: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, settings: Fetch, storage: Storage, part: str) -> Job:
        """The job of storing the images of a part."""
        return cls(storage.root, part, settings.model_dump())


class StoreRoom:
    """Enters arrivals through a worker. Used by one thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: _Worker | None = None

    def open(self) -> None:
        """Have a worker ready; `enter` does so as well."""
        self._opened()

    def enter(self, arrivals: Sequence[Arrival]) -> None:
        """Store images, or the reasons why they are none (see Clerk). What went wrong in the worker is raised here.

        A row at which a worker crashes, twice, is `corrupt_image`. Raises StorageError when workers end for another
        reason, or crash at an image that is in order.
        """
        try:
            self._opened().enter(arrivals)
        except WorkerLostError:
            for arrival in arrivals:
                self._enter_alone(arrival)

    def _enter_alone(self, arrival: Arrival) -> None:
        for _ in range(_TRIES):
            try:
                self._opened().enter([arrival])
                return
            except WorkerLostError as error:
                lost = error
            if lost.crashed and not isinstance(arrival.result, FetchError):
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
            status=arrival.status,
            redirects=arrival.redirects,
            body_bytes=arrival.size,
        )
        self._opened().enter([replace(arrival, result=problem)])

    def close(self) -> None:
        """End the job; the worker is free for others. What a lost worker had not stored yet is not in the journal."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            with suppress(WorkerLostError):
                worker.close()
        finally:
            _give_back(worker)

    def _opened(self) -> _Worker:
        if self._worker is None or not self._worker.lives:
            self._worker = _take(self._job)
        return self._worker


# -- the side that drives ------------------------------------------------------------------------------


class _Worker:
    """A process and the pipes to it."""

    def __init__(self) -> None:
        with _idle_lock:
            turn = _turn_file()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path, turn=turn)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[turn],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # NumPy's threads for matrices spin for nothing
            bufsize=0,
            start_new_session=True,  # whoever drives decides what an interrupt means
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # a system with a lower limit
                fcntl.fcntl(self._requests, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def open(self, job: Job) -> None:
        """Begin a job. Raises WorkerLostError when the process is not there (any more)."""
        self._ask(("open", job, dict(os.environ)))

    def enter(self, arrivals: Sequence[Arrival]) -> None:
        bodies: list[bytes | memoryview] = []
        rows = []
        for arrival in arrivals:
            if isinstance(arrival.result, FetchError):
                rows.append((arrival, -1))
            else:
                bodies += arrival.result
                rows.append((replace(arrival, result=()), arrival.size))
        self._ask(("enter", rows), bodies)

    def probe(self) -> None:
        """Store nothing, but make an image that could be stored."""
        self._ask(("probe",))

    def close(self) -> None:
        """End the job."""
        self._ask(("close",))

    def disown(self) -> None:
        """Close the pipes in a process that did not begin the worker."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
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

    def _ask(self, message: tuple[Any, ...], bodies: Sequence[bytes | memoryview] = ()) -> None:
        assert self._process.stdin
        if self._process.stdin.closed:  # the numbers of its pipes may be those of other files by now
            raise WorkerLostError(self._process.wait())
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            write_all(self._requests, [_HEAD.pack(len(data), sum(map(len, bodies))), data, *bodies])
            size, _ = _HEAD.unpack(_read(self._replies, _HEAD.size))
            reply = pickle.loads(_read(self._replies, size))  # of a process of ours
        except (OSError, EOFError) as error:
            self.end()
            raise WorkerLostError(self._process.returncode) from error
        if reply is not None:
            raise reply


_idle: list[_Worker] = []
_idle_lock = threading.Lock()


def _take(job: Job) -> _Worker:
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
            _give_back(worker)
            raise


def _give_back(worker: _Worker) -> None:
    if not worker.lives:
        worker.end()
        return
    with _idle_lock:
        _idle.append(worker)


@cache
def _turn_file() -> int:
    """A file for workers to lock; it has no name and lives as long as this process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("turn")
    file, name = tempfile.mkstemp()
    Path(name).unlink()
    return file


def _forget() -> None:
    """In a forked process: the workers are those of the process it came from."""
    global _idle_lock
    _idle_lock = threading.Lock()
    while _idle:
        _idle.pop().disown()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _end_idle() -> None:
    for worker in _idle:
        worker.dismiss()
    while _idle:
        _idle.pop().end()


# -- the side that works -------------------------------------------------------------------------------


def serve(turn: int) -> None:
    """Do what comes on standard input until it ends. `turn` is a file whose lock is held while decoding huge images."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the process that began it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = os.dup(0), os.dup(1)
    try:
        os.dup2(2, 1)  # what libraries print is no reply
    except OSError:  # there is no standard error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from latent_assets.fetch.image import take_turns

    take_turns(_Turn(turn))
    clerk: Clerk | None = None
    warm = memoryview(bytearray(_WARM_BYTES))
    while select.select([requests], [], [], None if clerk else _IDLE_SECONDS)[0]:
        try:
            size, rest = _HEAD.unpack(_read(requests, _HEAD.size))
            message = pickle.loads(_read(requests, size))  # of the process that began this one
            room = memoryview(bytearray(rest)) if rest > len(warm) else warm
            _read_into(requests, room[:rest])
        except EOFError:
            break
        problem: BaseException | None = None
        try:
            if message[0] == "open":
                clerk = _clerk(*message[1:])
            elif message[0] == "close":
                ended, clerk = clerk, None
                if ended is not None:
                    ended.close()
            elif clerk is not None:
                with _limited_time():
                    clerk.enter(_arrivals(message[1], room)) if message[0] == "enter" else clerk.probe()
        except BaseException as error:
            problem = _portable(error)
        del message, room
        reply = pickle.dumps(problem, pickle.HIGHEST_PROTOCOL)
        try:
            write_all(replies, [_HEAD.pack(len(reply), 0), reply])
        except BrokenPipeError:
            break
    if clerk is not None:  # whoever drove was killed; what came is kept
        clerk.close()
    os._exit(0)  # nothing is left to tidy up


@contextmanager
def _limited_time() -> Iterator[None]:
    """End this process, wherever it is, when the block takes too much of the processor's time."""
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _clerk(job: Job, environment: dict[str, str]) -> Clerk:
    from latent_assets.fetch.clerk import Clerk
    from latent_assets.fetch.journal import Journal
    from latent_assets.storage import Storage

    if dict(os.environ) != environment:  # where S3 is and what is shown to it
        os.environ.clear()
        os.environ.update(environment)
    return Clerk(cast("Fetch", SimpleNamespace(**job.settings)), Journal(Storage(job.root), job.part))


def _arrivals(rows: list[tuple[Arrival, int]], bodies: memoryview) -> list[Arrival]:
    at = 0
    arrivals = []
    for arrival, size in rows:
        if size < 0:
            arrivals.append(arrival)
            continue
        arrivals.append(replace(arrival, result=(bodies[at : at + size],)))
        at += size
    return arrivals


def _portable(error: BaseException) -> BaseException:
    """An error as the other process can raise it."""
    try:
        if not isinstance(error, LatentAssetsError):
            error.add_note("".join(traceback.format_exception(error)))
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


class _Turn:
    """A lock between processes, which ends with the process that holds it."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        with suppress(OSError):  # a file system without locks: two at once are better than none
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _read(file: int, size: int) -> bytearray:
    """Exactly so many bytes. Raises EOFError when the other side ends before."""
    data = bytearray(size)
    _read_into(file, memoryview(data))
    return data


def _read_into(file: int, left: memoryview) -> None:
    while left:
        count = os.readv(file, [left])
        if not count:
            raise EOFError
        left = left[count:]
