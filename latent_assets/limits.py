"""What this machine allows a process (open files, memory, ports, threads), and which errors say that it allows no more.

Such an error says nothing of the file, the link or the image at which it came. What is done about it (wait, take less,
stop) is decided where it is met.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from latent_assets.errors import ResourceError

FILES, MEMORY, PORTS, THREADS, NAMES = "open files", "memory", "network ports", "threads and processes", "name server"

_RESOURCE_OF = {
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.ENOMEM: MEMORY,
    errno.ENOBUFS: MEMORY,
}
_REMEDIES = {
    FILES: "Allow this process more (`ulimit -n 4096`), or set a lower `fetch.concurrency` in the profile",
    MEMORY: "Give the build more memory, or set a lower `fetch.max_pixels` and `fetch.concurrency` in the profile",
    PORTS: "Wait a minute, until those of ended connections are free again, widen `net.ipv4.ip_local_port_range`, or "
    "set a lower `fetch.concurrency` in the profile",
    THREADS: "Allow this user more (`ulimit -u`, or the container's limit of processes)",
    NAMES: "Check the network and the name server of this machine (`/etc/resolv.conf`), or set a lower "
    "`fetch.concurrency` in the profile",
}
_UNKNOWN = 1 << 20  # no limit that anybody meets
_USUALLY_OPEN = 64
_NUMBERS = re.compile(r"(?:\(os error |\[Errno )(\d+)[)\]]")
_SEVERAL = "Multiple exceptions: "  # aiohappyeyeballs, of the addresses of one name


def resource_error(resource: str, found: object) -> ResourceError:
    """The error that names a limit, what was found, and the remedy."""
    return ResourceError(
        f"The {resource} of this machine ran out ({found}). {_REMEDIES[resource]}, then build again; what is finished "
        "is kept."
        if resource != NAMES
        else f"The name server does not answer ({found}). {_REMEDIES[NAMES]}, then build again; what is finished is "
        "kept.",
        resource,
    )


def shortage(error: BaseException, *, connecting: bool = False, wrapped: bool = False) -> ResourceError | None:
    """The limit of this machine that an error, or one that it was raised from, tells of; None for another error.

    `connecting`: that no address is available means that ports ran out. `wrapped`: the error may come from a library
    that keeps only the text of the system's errors (Polars, Lance); never for texts of strangers.
    """
    for cause in causes(error):
        if isinstance(cause, ResourceError):
            return cause
        resource = _resource(cause, connecting)
        several = isinstance(cause, OSError | RuntimeError) and str(cause).startswith(_SEVERAL)
        if resource is None and (wrapped or several):
            numbers = map(int, _NUMBERS.findall(str(cause)))
            resource = next((_RESOURCE_OF[number] for number in numbers if number in _RESOURCE_OF), None)
        if resource is not None:
            return resource_error(resource, getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)
    return None


def _resource(error: BaseException, connecting: bool) -> str | None:
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, socket.gaierror):
        return MEMORY if error.errno == socket.EAI_MEMORY else None
    if isinstance(error, OSError):
        if connecting and error.errno == errno.EADDRNOTAVAIL:
            return PORTS
        return _RESOURCE_OF.get(error.errno or 0)
    return THREADS if isinstance(error, RuntimeError) and "can't start new thread" in str(error) else None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it was raised from."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop()
        if not isinstance(cause, BaseException) or cause in found:
            continue
        found.append(cause)
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "os_error", None)]
        waiting += list(getattr(cause, "exceptions", ()))


def allow_open_files(wanted: int) -> None:
    """Raise this process's soft limit of open files to `wanted`, as far as its hard limit allows."""
    with suppress(ImportError, ValueError, OSError):  # what is refused is lived with
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def free_descriptors() -> int:
    """How many files and sockets more this process may open."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:
        return _UNKNOWN
    if soft == resource.RLIM_INFINITY:
        return _UNKNOWN
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return max(0, soft - sum(1 for _ in Path(folder).iterdir()))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return 0
    return max(0, soft - _USUALLY_OPEN)
