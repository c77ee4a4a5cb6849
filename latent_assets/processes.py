"""Which process something belongs to, and whether that one still lives: temporary files, claims and runs name theirs.

A number alone says little: it is given again, and in a container the first process always has the number 1. So the
machine's start, the container (its namespace of processes) and the process's own start go with it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_OF_THE_MACHINE = "4026531836"  # Linux's number of the namespace that is in no container
_UNSEEN_FOR = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Process:
    """A process. `begun`: `{boot}.{namespace}.{ticks since boot}`, "" where the system does not tell."""

    host: str
    number: int
    begun: str

    def __str__(self) -> str:
        return f"{self.host}+{self.number}+{self.begun}"

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """The process that a text names, as `str` writes it, or as `host:number` of earlier versions."""
        host, _, rest = text.partition("+")
        if not rest:
            host, _, rest = text.rpartition(":")
        number, _, begun = rest.partition("+")
        return cls(host, int(number), begun) if host and number.isdigit() else None

    def has_ended(self) -> bool | None:
        """Whether it is no more; None when that cannot be seen from here (another machine, another container)."""
        mine = this_process()
        boot, _, rest = self.begun.partition(".")
        namespace, _, ticks = rest.partition(".")
        if not ticks or not mine.begun:
            if self.host != mine.host:
                return None
            return not _lives(self.number) or (bool(self.begun) and _begun(self.number) != self.begun)
        my_boot, my_namespace, _ = mine.begun.split(".")
        if (boot, namespace) == (my_boot, my_namespace):
            return not _lives(self.number) or _begun(self.number) != self.begun
        if self.host == mine.host and namespace == my_namespace == _OF_THE_MACHINE:
            return True  # the machine was started anew
        return None


def this_process() -> Process:
    """The process that asks."""
    number = os.getpid()
    return Process(host_name(), number, _begun(number))


def host_name() -> str:
    """This machine's name as a part of file names: letters, digits, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _begun(number: int) -> str:
    """When a process of this machine began, and where; "" where the system does not tell."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""
    return f"{boot.replace('-', '')[:12]}.{namespace}.{text.rpartition(')')[2].split()[19]}"


# -- temporary folders -----------------------------------------------------------------------------------


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this process's own, in $TMPDIR, for the duration of the block; those of ended ones are removed."""
    parent = _parent()
    for left in parent.iterdir():
        owner = Process.parse(left.name.rpartition("+")[0])
        ended = owner.has_ended() if owner is not None else None
        with suppress(OSError):
            if ended or (ended is None and time.time() - left.stat().st_mtime > _UNSEEN_FOR):
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{this_process()}+", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> Path:
    """Where temporary folders lie: the same for every process of a user, and nobody else's."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    parent = Path(tempfile.gettempdir()) / f"latent-assets-{owner}"
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if not parent.is_dir() or parent.is_symlink() or found.st_uid != owner:
        return Path(tempfile.mkdtemp(prefix="latent-assets-"))  # somebody else took the name
    return parent


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
