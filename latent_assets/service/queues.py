"""Bounded work: so many requests are worked on, so many wait, and the next one is refused.

Everything here but the work itself happens on the event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")

_LONGEST_PAUSE = 60
_WEIGHT = 0.1  # of the newest request in the running mean of how long one takes


class OverloadedError(Exception):
    """No room for a request. retry_after: seconds until there may be."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Ticket:
    """A place in a queue."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue

    @property
    def position(self) -> int:
        """How many are before it."""
        return self._queue.position(self)


class WorkQueue:
    """Threads for one kind of request, and those who wait for them.

    workers: how many are worked on at once. waiting: how many more are taken. per_client: how many of one client are.
    seconds: a first guess at how long one takes.
    """

    def __init__(self, name: str, workers: int, waiting: int, per_client: int, seconds: float) -> None:
        self.name, self._workers, self._most, self._per_client = name, workers, workers + waiting, per_client
        self._seconds = seconds
        self._clients: Counter[str] = Counter()
        self._tickets: dict[Ticket, None] = {}
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)

    @property
    def taken(self) -> int:
        """Requests that are worked on or wait."""
        return len(self._tickets)

    def position(self, ticket: Ticket) -> int:
        """How many came before a ticket and are not done."""
        return next((before for before, other in enumerate(self._tickets) if other is ticket), 0)

    @property
    def retry_after(self) -> int:
        """Seconds until those who wait are likely to be done."""
        return max(1, min(_LONGEST_PAUSE, math.ceil(self._seconds * self.taken / self._workers)))

    @asynccontextmanager
    async def place_for(self, client: str) -> AsyncIterator[Ticket]:
        """A place in the queue for the duration of the block. Raises OverloadedError when there is none."""
        if self._clients[client] >= self._per_client:
            raise OverloadedError(
                f"{self._clients[client]} of your requests are being worked on: at most {self._per_client} of one "
                "client are taken at a time.",
                self.retry_after,
            )
        if self.taken >= self._most:
            raise OverloadedError(f"{self.taken} requests are waiting already: ask again later.", self.retry_after)
        ticket = Ticket(self)
        self._clients[client] += 1
        self._tickets[ticket] = None
        try:
            yield ticket
        finally:
            del self._tickets[ticket]
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done by a thread of the queue. What is cancelled before it begins is not begun."""
        return await asyncio.wrap_future(self._threads.submit(self._timed, work))

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds += _WEIGHT * (time.perf_counter() - began - self._seconds)
