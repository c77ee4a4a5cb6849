"""Claims: who makes an artefact right now. Whoever else wants to make it waits, and takes over from the dead.

A claim is a file that only one process can create (`Storage.create`), on disk and on S3 alike. Its holder renews it;
one whose process has ended, or that was not renewed for a while, is dead. Nothing here knows what is made.

    claims/{name}/{generation}.json      the newest generation holds
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from uuid import uuid4

from latent_assets.errors import StorageError
from latent_assets.layout import CLAIMS, claims_folder
from latent_assets.processes import Process, this_process
from latent_assets.storage import Storage

WAIT_VARIABLE = "LATENT_ASSETS_WAIT"
_PRESENT = "present"  # claims of nothing, by which processes are seen
_WAIT = 6 * 3600.0  # seconds; longer than any stage of an atlas takes


@dataclass(frozen=True)
class Holder:
    """A process that makes an artefact. `begun` tells it from a later one of that number; `beat` counts renewals."""

    token: str
    host: str
    process: int
    begun: str
    since: float
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {time.strftime('%H:%M:%S', time.localtime(self.since))}"


class Claims:
    """Claims below one root.

    lease: seconds without a renewal after which a holder on another host counts as dead. wait: seconds to wait at most
    (default: $LATENT_ASSETS_WAIT, else six hours).
    """

    def __init__(self, storage: Storage, lease: float = 60.0, wait: float | None = None) -> None:
        self._storage, self._lease = storage, lease
        self._wait = float(os.environ.get(WAIT_VARIABLE, _WAIT)) if wait is None else wait
        self._here: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def holding(self, name: str, waiting: Callable[[Holder], None] = lambda holder: None) -> Iterator[None]:
        """Hold the claim `name` inside the block; `waiting(holder)` is called, again and again, while another does.

        Raises StorageError naming the holder when it has not let go in time.
        """
        with self._guard:
            own = self._here.setdefault(name, threading.Lock())
        if not own.acquire(timeout=self._wait):
            raise StorageError(f"{name} is being made by another thread of this process; waited {self._wait:.0f} s.")
        try:
            place = self._acquire(name, waiting)
            ended = threading.Event()
            renewal = threading.Thread(target=self._renew, args=(place, ended), name=f"claim {name}", daemon=True)
            renewal.start()
            try:
                yield
            finally:
                ended.set()
                renewal.join()
                self._storage.delete(place)
        finally:
            own.release()

    def holder(self, name: str) -> Holder | None:
        """Who holds the claim `name` now; None when nobody does."""
        newest = self._newest(claims_folder(name))
        return newest[1] if newest else None

    @contextmanager
    def present(self) -> Iterator[None]:
        """Let others see, inside the block, that this process works below the root, whatever it holds."""
        folder = claims_folder(_PRESENT)
        for name in self._storage.list(folder, ".json"):
            if not self._is_live(f"{folder}/{name}"):
                self._storage.delete(f"{folder}/{name}")
        place = f"{folder}/{uuid4().hex}.json"
        self._storage.create(place, _mine())
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(place, ended), name="presence", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join()
            with suppress(StorageError, OSError):
                self._storage.delete(place)

    def gone(self, process: Process) -> bool:
        """Whether a process does not work below the root any more: it has ended, or says nothing and holds nothing.

        One that cannot be seen from here says that it lives by renewing its claims.
        """
        ended = process.has_ended()
        if ended is not None:
            return ended
        for file in self._storage.files(CLAIMS):
            holder = self._read(file.name)
            if (
                holder is not None
                and Process(holder.host, holder.process, holder.begun) == process
                and self._is_live(file.name)
            ):
                return False
        return True

    def _is_live(self, place: str) -> bool:
        holder, file = self._read(place), self._storage.stored_file(place)
        if holder is None or file is None or _has_ended(holder):
            return False
        return time.time() - file.modified <= self._lease

    def _acquire(self, name: str, waiting: Callable[[Holder], None]) -> str:
        """The file of the claim, once it is ours."""
        folder, deadline = claims_folder(name), time.monotonic() + self._wait
        seen: tuple[Holder, float] | None = None  # the holder as last read, and when it last changed
        pause = 0.05
        while True:
            newest = self._newest(folder)
            now = time.monotonic()
            if newest is None:
                if place := self._create(folder, 1, None):
                    return place
            else:
                generation, holder = newest
                if seen is None or seen[0] != holder:
                    seen = (holder, now)
                if _has_ended(holder) or now - seen[1] > self._lease:
                    if place := self._create(folder, generation + 1, holder):
                        return place
                else:
                    waiting(holder)
                if now > deadline:
                    raise StorageError(
                        f"{name} is being made by {holder}; waited {self._wait:.0f} s. Wait for that process or stop "
                        f"it, then start again; ${WAIT_VARIABLE} is the time to wait, in seconds."
                    )
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2.0, pause * 1.5)

    def _create(self, folder: str, generation: int, dead: Holder | None) -> str | None:
        """Try to become the holder. Another that came by at the same moment makes both step back and try again."""
        place = f"{folder}/{generation:09}.json"
        if not self._storage.create(place, _mine()):
            return None
        for name in self._storage.list(folder, ".json"):
            other = f"{folder}/{name}"
            if other == place:
                continue
            holder = self._read(other)
            if holder is not None and (dead is None or holder.token != dead.token):
                self._storage.delete(place)
                return None
            self._storage.delete(other)
        return place

    def _newest(self, folder: str) -> tuple[int, Holder] | None:
        for name in reversed(self._storage.list(folder, ".json")):
            holder = self._read(f"{folder}/{name}")
            if holder is not None:
                return int(name.removesuffix(".json")), holder
        return None

    def _read(self, place: str) -> Holder | None:
        """What a claim says; None when it was let go in between."""
        try:
            return Holder(**json.loads(self._storage.read_bytes(place)))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _renew(self, place: str, ended: threading.Event) -> None:
        """Say from time to time that the holder lives. One that was taken for dead is not brought back."""
        while not ended.wait(self._lease / 4):
            # a store that is out of reach for a moment costs the claim at worst; what is made is made once more
            with suppress(StorageError, OSError):
                holder = self._read(place)
                if holder is None:
                    return
                renewed = Holder(**{**asdict(holder), "beat": holder.beat + 1})
                self._storage.write_bytes(place, json.dumps(asdict(renewed)).encode())


def _mine() -> bytes:
    me = this_process()
    return json.dumps(asdict(Holder(uuid4().hex, me.host, me.number, me.begun, time.time()))).encode()


def _has_ended(holder: Holder) -> bool:
    """Whether it can be seen from here that a holder is no more."""
    return bool(Process(holder.host, holder.process, holder.begun).has_ended())
