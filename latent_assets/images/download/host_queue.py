"""Who may be asked when: per-host concurrency, rate and pauses, and the order in which rows are taken.

A row is taken only when its host has a free slot, so rows of a slow host wait here and never hold up others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from latent_assets.images.outcome import HOST_FAILURES, Reason

Row = TypeVar("Row")
_FAILURES_IN_A_ROW = 8
_LONGEST_CRAWL_DELAY = 30.0


@dataclass
class _Host(Generic[Row]):
    waiting: deque[Row] = field(default_factory=deque)
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)
    active: int = 0
    queued: bool = False
    next_at: float = 0.0
    paused_until: float = 0.0
    interval: float = 0.0
    failures: int = 0
    answered: bool = False
    down: Reason | None = None
    why: str = ""


class HostQueue(Generic[Row]):
    """The queue of rows, by host. Lives in one event loop, and one task takes from it.

    `per_host` requests at a time and `rate` requests a second for each host; a host that fails eight times in a
    row without ever answering, or asks for a pause longer than `patience` seconds, is given up.
    """

    def __init__(self, per_host: int, rate: float | None, patience: float) -> None:
        self._per_host = per_host
        self._interval = 1.0 / rate if rate else 0.0
        self._patience = patience
        self._give_up_after = max(_FAILURES_IN_A_ROW, per_host)
        self._hosts: dict[str, _Host[Row]] = {}
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, int, str, Row | None]] = []
        self._ticket = itertools.count()
        self._unfinished = 0
        self._changed = asyncio.Event()
        self._now: Callable[[], float] = asyncio.get_running_loop().time

    # -- rows ------------------------------------------------------------------------------------------

    def add(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Put (host, row) pairs into the queue."""
        for host, row in rows:
            self._host(host).waiting.append(row)
            self._unfinished += 1
        for name in self._hosts:
            self._queue(name)

    async def take(self) -> tuple[str, Row] | None:
        """The next row whose host may be asked now; its host's slot is taken. None when all rows are finished."""
        while True:
            self._release_due()
            while self._ready:
                name = self._ready.popleft()
                host = self._hosts[name]
                host.queued = False
                if not host.waiting or not self._free(host):
                    continue
                if (delay_until := self._not_before(host)) > self._now():
                    self._wake_at(delay_until, name)
                    continue
                row = host.waiting.popleft()
                self._enter(host)
                self._queue(name)
                return name, row
            if self._unfinished == 0:
                return None
            await self._wait()

    def finish(self, rows: int = 1) -> None:
        """Rows taken earlier have their outcome."""
        self._unfinished -= rows
        if self._unfinished == 0:
            self._changed.set()

    def requeue(self, name: str, row: Row, after: float) -> None:
        """Put a row back, to be taken not before `after` seconds from now."""
        heapq.heappush(self._later, (self._now() + after, next(self._ticket), name, row))
        self._changed.set()

    def awaited(self, name: str) -> bool:
        """Whether rows wait for the host."""
        return bool(self._host(name).waiting)

    # -- slots -----------------------------------------------------------------------------------------

    def release(self, name: str) -> None:
        """Give a host's slot back."""
        self._host(name).active -= 1
        self._wake(name)

    @asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """A slot at a host that a row came to by another way (a redirect, robots.txt); waits for it."""
        host = self._host(name)
        while not self._free(host):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            host.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(name)  # the slot was given to nobody
                raise
        wait = self._not_before(host) - self._now()
        self._enter(host)
        try:
            if wait > 0:
                await asyncio.sleep(wait)
            yield
        finally:
            self.release(name)

    # -- politeness ------------------------------------------------------------------------------------

    def answered(self, name: str) -> None:
        """The host answered something: it is alive."""
        host = self._host(name)
        host.answered = True
        if host.failures:
            host.failures = 0
            self._queue(name)

    def failed(self, name: str, reason: Reason, why: str) -> None:
        """The host did not answer; after several such failures it is given up."""
        host = self._host(name)
        if reason not in HOST_FAILURES:
            return
        host.failures += 1
        if host.failures >= self._limit(host):
            self._give_up(name, Reason.HOST_DOWN, f"{host.failures} failures in a row, the last: {why or reason}")

    def pause(self, name: str, seconds: float) -> None:
        """The host asked to be left alone for a while (Retry-After)."""
        host = self._host(name)
        host.paused_until = max(host.paused_until, self._now() + seconds)
        if seconds > self._patience:
            self._give_up(name, Reason.RATE_LIMITED, f"the host asked to wait {seconds:.0f} s")

    def slow_down(self, name: str, interval: float) -> None:
        """At least `interval` seconds between two requests to the host (Crawl-delay; at most 30)."""
        host = self._host(name)
        before, host.interval = host.interval, max(self._interval, min(interval, _LONGEST_CRAWL_DELAY))
        if host.interval > before:
            host.next_at = self._now() + host.interval

    def given_up(self, name: str) -> tuple[Reason, str] | None:
        """Why a host is not asked any more, or None."""
        host = self._host(name)
        return None if host.down is None else (host.down, host.why)

    # -- inside ----------------------------------------------------------------------------------------

    def _host(self, name: str) -> _Host[Row]:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(interval=self._interval)
        return host

    def _limit(self, host: _Host[Row]) -> int:
        return self._give_up_after if not host.answered else 4 * self._give_up_after

    def _free(self, host: _Host[Row]) -> bool:
        """Whether one more may be asked for.

        Not while the answers that are awaited decide whether a failing host is given up: what would be asked for
        meanwhile would wait as long as they did.
        """
        if host.active >= self._per_host:
            return False
        return host.down is not None or not host.failures or host.failures + host.active < self._limit(host)

    def _enter(self, host: _Host[Row]) -> None:
        host.active += 1
        if host.interval:
            host.next_at = max(self._now(), host.next_at) + host.interval

    def _not_before(self, host: _Host[Row]) -> float:
        return 0.0 if host.down else max(host.next_at, host.paused_until)

    def _wake(self, name: str) -> None:
        """A slot of the host may be free: waiters come before rows."""
        host = self._hosts[name]
        while host.waiters:
            waiter = host.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._queue(name)

    def _queue(self, name: str) -> None:
        host = self._hosts[name]
        if host.waiting and not host.queued and self._free(host):
            host.queued = True
            self._ready.append(name)
            self._changed.set()

    def _wake_at(self, when: float, name: str) -> None:
        self._hosts[name].queued = True
        heapq.heappush(self._later, (when, next(self._ticket), name, None))

    def _give_up(self, name: str, reason: Reason, why: str) -> None:
        host = self._hosts[name]
        host.down, host.why = reason, why
        host.queued = False  # rows that wait for a later time need not wait any more
        self._queue(name)

    def _release_due(self) -> None:
        while self._later and self._later[0][0] <= self._now():
            _, _, name, row = heapq.heappop(self._later)
            host = self._hosts[name]
            if row is None:
                host.queued = False
            else:
                host.waiting.appendleft(row)
            self._queue(name)

    async def _wait(self) -> None:
        self._changed.clear()
        timeout = max(0.0, self._later[0][0] - self._now()) if self._later else None
        try:
            await asyncio.wait_for(self._changed.wait(), timeout)
        except TimeoutError:
            return
