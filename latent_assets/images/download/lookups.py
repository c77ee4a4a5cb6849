"""Asking the name server: as many names at a time as it answers, and whose fault it is when it does not.

A name server that is asked for too much, or is out of reach, fails for good names. So when a lookup fails, a name that
was answered for is asked again at once: when that fails too, it is the name server, and fewer are asked at a time.
Which addresses may be connected to is decided in `addresses`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from latent_assets.errors import ResourceError
from latent_assets.limits import FILES, NAMES, free_descriptors, resource_error, shortage

Lookup = Callable[[str, int], Awaitable[list[str]]]

LOOKUPS_AT_ONCE = 64
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_TRIES = 3  # of a name, while others are answered, before it is the name's fault
_FEW_NAMES = 3  # so many that fail, and none that was ever answered for, are the name server's fault
_CONTROL_HOLDS = 0.25  # seconds
_NOTICED = 0.05  # seconds
_MUCH = 0.1  # of the time that an attempt had
_DESCRIPTORS = 4  # that a lookup needs to be sure of its answer


class NameLookupError(OSError):
    """A host whose name could not be resolved; `final` when the name server says there is no such name."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Lookups:
    """Lookups of names. Lives in one event loop; `answered` is called whenever the name server answered."""

    def __init__(self, lookup: Lookup, at_once: int, answered: Callable[[], None] = lambda: None) -> None:
        self._lookup, self._answered = lookup, answered
        self._most = self._limit = float(max(1, at_once))
        self._active = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._queued: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._waited: dict[str, tuple[float, float]] = {}  # names that had to wait, from when until when
        self._failures: dict[str, int] = {}
        self._control: tuple[str, int] | None = None  # the name that was answered for last
        self._controlled = (float("-inf"), True)  # when the control question was asked last, and the answer
        self._controlling = asyncio.Lock()
        self._answered_at = float("-inf")

    async def ask(self, host: str, port: int) -> list[str]:
        """The addresses of a name.

        Raises NameLookupError for what is wrong with the name, ResourceError for what is wrong on this side.
        """
        self._queued[host] += 1
        now = asyncio.get_running_loop().time
        began = now()
        try:
            await self._enter()
        finally:
            self._queued -= Counter([host])
        if (entered := now()) - began > _NOTICED:
            self._waited[host] = began, entered
        self._asked[host] += 1
        try:
            addresses = await self._lookup(host, port)
        except (OSError, UnicodeError, RuntimeError, MemoryError) as error:
            if (fault := shortage(error)) is not None:
                raise fault from error
            if _is_final(error):
                if free_descriptors() < _DESCRIPTORS:  # the system says "no such name" when it cannot open its files
                    raise resource_error(FILES, f"none was left to look up {host}") from error
                self._succeeded(host, port)
                raise NameLookupError(f"{host}: {error}", True) from error
            failed: Exception = error
        else:
            self._succeeded(host, port)
            return addresses
        finally:
            self._asked -= Counter([host])
            self._leave()
        if await self._others_are_answered(host):
            self._failures[host] += 1
            if self._failures[host] >= _TRIES:
                raise NameLookupError(f"{host}: {failed}", False) from failed
        raise self._fault(f"{host}: {failed}") from failed

    def stuck(self, host: str, since: float) -> ResourceError | None:
        """The fault of this side for which a name that was wanted since then (loop time) has no answer yet.

        Or had it late: what waits for its turn to be looked up waits for this side.
        """
        if self._queued[host]:
            return self._fault(f"{len(self._queued)} names wait for it, {host} is one of them")
        began, entered = self._waited.get(host, (0.0, 0.0))
        if entered - max(began, since) > _MUCH * (asyncio.get_running_loop().time() - since):
            return self._fault(f"{host} waited {entered - began:.1f} s until it was asked for")
        if not self._asked[host] or self._answered_at >= since:
            return None
        silent = self._failures.keys() | self._asked.keys()
        return self._fault(f"{len(silent)} names") if len(silent) >= _FEW_NAMES else None

    # -- inside ----------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        while self._active >= int(self._limit):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the place was given to nobody
                raise
        self._active += 1

    def _leave(self) -> None:
        self._active -= 1
        self._wake()

    def _wake(self) -> None:
        free = int(self._limit) - self._active
        while free > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def _succeeded(self, host: str, port: int) -> None:
        self._failures.pop(host, None)
        self._control = (host, port)
        self._answered_at = asyncio.get_running_loop().time()
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._answered()

    async def _others_are_answered(self, host: str) -> bool:
        """Whether the name server does its work for other names than this one. If not, fewer are asked at a time."""
        self._failures.setdefault(host, 0)
        if self._control is None and len(self._failures) < _FEW_NAMES:
            return True
        now = asyncio.get_running_loop().time
        async with self._controlling:
            at, answered = self._controlled
            if now() - at >= _CONTROL_HOLDS:
                answered = await self._control_question()
                self._controlled = now(), answered
                if not answered:
                    self._limit = max(1.0, self._limit / 2)
            return answered

    async def _control_question(self) -> bool:
        if self._control is None:
            return False
        try:
            await self._lookup(*self._control)
        except (OSError, UnicodeError, RuntimeError, MemoryError) as error:
            return _is_final(error)
        return True

    def _fault(self, found: str) -> ResourceError:
        return resource_error(NAMES, found)


def _is_final(error: Exception) -> bool:
    return isinstance(error, UnicodeError) or getattr(error, "errno", None) in _NO_SUCH_NAME
