"""The worker process in which images are decoded and stored: does what comes through a pipe and answers.

Who drives it, and what becomes of rows at which it crashes, is the business of `worker_pool`. Messages are pickled
tuples and a header with two sizes: the message's, and that of the bodies, which lie in shared memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import resource
import select
import signal
import struct
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from latent_assets.errors import LatentAssetsError
from latent_assets.images.decode.limits import use_decode_lock
from latent_assets.images.download.request import FetchResult
from latent_assets.images.store.journal import write_all
from latent_assets.limits import shortage

if TYPE_CHECKING:
    from latent_assets.images.store.recorder import Recorder
    from latent_assets.profile import Fetch
    from latent_assets.storage import Storage

BODY_BYTES = 6_000_000  # memory for bodies that is kept; for larger ones it is taken and given back
_IDLE_SECONDS = 60.0
_CPU_SECONDS = 300.0  # for what is recorded together; a decoder that takes longer does not end
_HEAD = struct.Struct("<QQ")


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


def send(file: int, message: object, body_bytes: int = 0) -> None:
    """Write a message to a pipe. Raises OSError when nobody reads."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    write_all(file, [_HEAD.pack(len(data), body_bytes), data])


def receive(file: int) -> tuple[Any, int]:
    """The next message, of a process of ours, and the bytes of its bodies. Raises EOFError when there is none."""
    size, body_bytes = _HEAD.unpack(_read(file, _HEAD.size))
    return pickle.loads(_read(file, size)), body_bytes


def _read(file: int, size: int) -> bytearray:
    """Exactly so many bytes. Raises EOFError when the other side ends before."""
    data = bytearray(size)
    left = memoryview(data)
    while left:
        count = os.readv(file, [left])
        if not count:
            raise EOFError
        left = left[count:]
    return data


def serve(bodies: int, lock: int) -> None:
    """Do what comes on standard input until it ends.

    `bodies` is a file in memory with bodies of answers, `lock` one that is locked while decoding huge images.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the process that began it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, replies = os.dup(0), os.dup(1)
    try:
        os.dup2(2, 1)  # what libraries print is no reply
    except OSError:  # there is no standard error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    use_decode_lock(_ProcessLock(lock))
    recorder: Recorder | None = None
    kept = _mapped(bodies, BODY_BYTES)
    while select.select([requests], [], [], None if recorder else _IDLE_SECONDS)[0]:
        try:
            message, body_bytes = receive(requests)
        except EOFError:
            break
        buffer = kept if body_bytes <= BODY_BYTES else _mapped(bodies, body_bytes)
        problem: BaseException | None = None
        try:
            if message[0] == "open":
                recorder = _recorder(*message[1:])
            elif message[0] == "close":
                ended, recorder = recorder, None
                if ended is not None:
                    ended.close()
            elif recorder is not None:
                with _limited_time():
                    if message[0] == "record":
                        recorder.record(_results(message[1], buffer))
                    else:
                        recorder.probe()
        except BaseException as error:
            problem = shortage(error) or _portable(error)
        del message, buffer
        try:
            send(replies, problem)
        except BrokenPipeError:
            break
    if recorder is not None:  # whoever drove was killed; what came is kept
        recorder.close()
    os._exit(0)  # nothing is left to tidy up


@contextmanager
def _limited_time() -> Iterator[None]:
    """End this process, wherever it is, when the block takes too much of the processor's time."""
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _recorder(job: Job, environment: dict[str, str]) -> Recorder:
    from latent_assets.images.decode.image import load_decoders
    from latent_assets.images.store.journal import Journal
    from latent_assets.images.store.recorder import Recorder
    from latent_assets.storage import Storage

    if job.settings["format"] != "raw":
        load_decoders()  # not in the time that an image has
    if dict(os.environ) != environment:  # where S3 is and what is shown to it
        os.environ.clear()
        os.environ.update(environment)
    return Recorder(cast("Fetch", SimpleNamespace(**job.settings)), Journal(Storage(job.root), job.part))


def _mapped(file: int, size: int) -> memoryview:
    return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_READ))


def _results(rows: Sequence[tuple[FetchResult, int]], bodies: memoryview) -> list[FetchResult]:
    """The rows with their bodies, one after the other; size -1 is that of a row without one."""
    at = 0
    results = []
    for result, size in rows:
        results.append(result if size < 0 else result.with_body((bodies[at : at + size],)))
        at += max(0, size)
    return results


def _portable(error: BaseException) -> BaseException:
    """An error as the other process can raise it."""
    try:
        if not isinstance(error, LatentAssetsError):
            error.add_note("".join(traceback.format_exception(error)))
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


class _ProcessLock:
    """A lock between processes, which ends with the process that holds it."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        with suppress(OSError):  # a file system without locks: two at once are better than none
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN)
