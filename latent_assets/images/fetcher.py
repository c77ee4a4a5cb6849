"""Giving rows their outcomes: many downloads at a time, attempts and deadlines.

Which rows those are is decided in `shard`; how one URL is downloaded in
`download.http_client`, what is kept of it in `store`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latent_assets import progress
from latent_assets.errors import ResourceError
from latent_assets.images.download.descriptors import connection_budget
from latent_assets.images.download.host_queue import HostQueue
from latent_assets.images.download.http_client import Download, HttpClient, Network, Target
from latent_assets.images.download.pulse import STANDSTILL, Pulse
from latent_assets.images.download.request import FetchRequest, FetchResult
from latent_assets.images.faults import FaultWatch, patience
from latent_assets.images.outcome import NETWORK, FetchError, Reason
from latent_assets.images.store.store_queue import StoreQueue
from latent_assets.images.store.worker import Job
from latent_assets.limits import FILES, shortage

if TYPE_CHECKING:
    from latent_assets.profile import Fetch, Profile
    from latent_assets.storage import Storage

_FIRST_BACKOFF = 0.5
_NO_HOST = ""
_STAGE = "image_shards"
_STANDSTILLS = 20  # for which one row is tried again
_COLLECT_EVERY = 20_000  # container objects: about 300 downloads


@dataclass
class _QueuedRow:
    """A row in the queue, with what happened to it so far."""

    request: FetchRequest
    target: Target | None
    problem: FetchError | None = None
    attempts: int = 0
    deadline: float | None = None
    faults: int = 0  # of this side, which count as no attempts
    standstills: int = 0
    began: float = 0.0  # the deadline, by the clock of `Pulse`


def fetch_rows(
    profile: Profile,
    storage: Storage,
    part: str,
    rows: list[FetchRequest],
    network: Network,
    so_far: tuple[int, int],
) -> None:
    """Give each of `rows` an outcome in the journal of `part`.

    `so_far` is (rows of the shard that are done, rows in all).
    """
    count = _Count(*so_far)
    if profile.source.kind == "metadata":
        try:
            with _rare_collections():
                asyncio.run(_fetch_links(profile.fetch, Job.of(profile.fetch, storage, part), rows, network, count))
        except BaseExceptionGroup as group:
            raise _first(group) from group  # a full disk, not a row: rows have outcomes
    else:
        _read_files(profile, storage, part, rows, count)


class _Count:
    """Says how many rows of the shard have their outcome."""

    def __init__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self.add(0)

    def add(self, rows: int) -> None:
        """So many more."""
        self._done += rows
        progress.report(_STAGE, self._done, self._total, "rows")


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for unreachable cycles less often: a download makes many objects and hardly a cycle.

    At Python's own threshold the search takes a quarter of the event loop's time.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _COLLECT_EVERY) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _fetch_links(settings: Fetch, job: Job, rows: list[FetchRequest], network: Network, count: _Count) -> None:
    hosts: HostQueue[_QueuedRow] = HostQueue(settings.per_host, settings.per_host_rate, settings.timeout)
    budget = connection_budget(settings.concurrency)
    faults = FaultWatch(patience(settings.timeout))
    slots = _Slots(budget.connections)
    pulse = Pulse()

    def stored(more: int) -> None:
        slots.release(more)
        try:
            count.add(more)
        finally:
            hosts.finish(more)

    store_queue = StoreQueue(job, len(rows), stored)

    def unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, Exception):
            loop.default_exception_handler(context)
        else:  # an interrupt of Dagster's that came while the loop was busy
            store_queue.fail(error)

    asyncio.get_running_loop().set_exception_handler(unexpected)
    try:
        store_queue.open()
        async with (
            HttpClient(settings, hosts, network, budget, faults, pulse) as client,
            asyncio.TaskGroup() as tasks,
        ):
            fetcher = _Fetcher(settings, hosts, client, store_queue, slots, faults, pulse)
            hosts.add(fetcher.queued(row) for row in rows)
            watch = tasks.create_task(_raise_from(store_queue.failed))
            while True:
                await slots.acquire()
                taken = await hosts.take()
                if taken is None:
                    break
                tasks.create_task(fetcher.fetch(*taken))
            if not store_queue.failed.done():
                watch.cancel()
    finally:
        pulse.close()
        store_queue.close()
    store_queue.check()


async def _raise_from(failed: asyncio.Future[None]) -> None:
    await failed


class _Slots:
    """How many rows are on their way at a time; one that may not be given back is lost for the others."""

    def __init__(self, count: int) -> None:
        self._free, self._count = asyncio.Semaphore(count), count

    async def acquire(self) -> None:
        await self._free.acquire()

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self._free.release()

    def give_up(self) -> None:
        """Go on with one less, as long as there is another."""
        if self._count > 1:
            self._count -= 1
        else:
            self._free.release()


class _Fetcher:
    """Takes rows through their attempts. A row to be tried again goes back to the queue; it holds nothing."""

    def __init__(
        self,
        settings: Fetch,
        hosts: HostQueue[_QueuedRow],
        client: HttpClient,
        store_queue: StoreQueue,
        slots: _Slots,
        faults: FaultWatch,
        pulse: Pulse,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._client = client
        self._store_queue = store_queue
        self._slots = slots
        self._faults = faults
        self._pulse = pulse
        self._loop = asyncio.get_running_loop()

    def queued(self, row: FetchRequest) -> tuple[str, _QueuedRow]:
        """The host a row waits for, and the row as it waits. A URL that may not be asked waits for nobody."""
        try:
            target = self._client.target(row.url)
        except FetchError as problem:
            return _NO_HOST, _QueuedRow(row, None, problem)
        return target.origin, _QueuedRow(row, target)

    async def fetch(self, host: str, item: _QueuedRow) -> None:
        """One attempt at a row; its host's slot was taken and is given back here, its own when it is stored."""
        try:
            answer = await self._attempt(host, item)
        except ResourceError as fault:
            self._wait_for(fault, host, item)
            return
        finally:
            self._hosts.release(host)
        if answer is not None:
            evidence = answer.opted_out[1] if answer.opted_out else None
            attempts = item.request.attempts + item.attempts
            self._store_queue.put(
                FetchResult(item.request, answer.body, attempts, answer.status, answer.redirects, evidence)
            )
        elif self._try_again(host, item):
            self._slots.release()
        else:
            assert item.problem is not None  # no answer
            self._store_queue.put(FetchResult(item.request, item.problem, item.request.attempts + item.attempts))

    def _wait_for(self, fault: ResourceError, host: str, item: _QueuedRow) -> None:
        """Put a row back that met a fault of this side, as if it had not been tried. Raises a fault that stays."""
        item.attempts -= 1
        item.deadline = None
        if fault.resource == STANDSTILL:
            item.standstills += 1
            self._faults.begin_again()
            self._hosts.requeue(host, item, 0.0)
            self._slots.release()
            return
        item.faults += 1
        self._hosts.requeue(host, item, self._faults.met(fault, item.faults))
        if fault.resource == FILES:
            self._slots.give_up()
        else:
            self._slots.release()

    async def _attempt(self, host: str, item: _QueuedRow) -> Download | None:
        """The answer, or None with `item.problem` set. Raises ResourceError for a fault of this side."""
        if item.target is None:
            return None
        if gone := self._hosts.given_up(host):
            item.problem = item.problem or FetchError(*gone)
            return None
        if item.deadline is None or self._slept(item, item.began):
            item.deadline = self._loop.time() + self._settings.timeout
            item.began = self._pulse.now()
        elif self._loop.time() >= item.deadline:
            return None  # it waited too long for another attempt: the problem is what it was
        item.attempts += 1
        began, pulse = self._loop.time(), self._pulse.now()
        try:
            async with asyncio.timeout_at(item.deadline):
                answer = await self._client.download(item.target)
            self._faults.passed()
            return answer
        except TimeoutError as error:
            self._check_pulse(item, pulse, error)
            if (fault := self._client.late(item.target, began)) is not None:
                raise fault from error
            item.problem = FetchError(Reason.TIMEOUT, f"no image within {self._settings.timeout:g} s")
        except FetchError as problem:
            item.problem = problem
        except (ResourceError, MemoryError) as error:
            self._check_pulse(item, pulse, error)
            raise shortage(error) or error from error
        except Exception as error:  # hostile input that breaks a library is a reason for this row, not for the shard
            item.problem = FetchError(Reason.PROTOCOL, f"{type(error).__name__}: {error}")
        if item.problem.reason in NETWORK:
            self._check_pulse(item, pulse, item.problem)
        self._faults.passed()
        if item.problem.redirects == 0:
            self._hosts.failed(host, item.problem.reason, item.problem.evidence)
        if item.problem.retry_after is not None and item.problem.redirects == 0:
            self._hosts.pause(host, item.problem.retry_after)
        return None

    def _check_pulse(self, item: _QueuedRow, since: float, error: BaseException) -> None:
        """Raise ResourceError when this process stood still during an attempt that failed: it is made again."""
        if self._slept(item, since):
            raise ResourceError("this process stood still", STANDSTILL) from error

    def _slept(self, item: _QueuedRow, since: float) -> bool:
        """Whether time that passed since then is not the row's. Not for ever: a row may be what stops the loop."""
        return item.standstills < _STANDSTILLS and self._pulse.stood_still(since)

    def _try_again(self, host: str, item: _QueuedRow) -> bool:
        """Put a row back when its problem may pass and there is time for another attempt."""
        problem = item.problem
        if problem is None or not problem.may_pass or item.deadline is None:
            return False
        if item.attempts >= self._settings.attempts or self._hosts.given_up(host):
            return False
        wait = problem.retry_after
        if wait is None:
            wait = _FIRST_BACKOFF * 2 ** (item.attempts - 1) * random.uniform(0.5, 1.5)
        if self._loop.time() + wait >= item.deadline:
            return False
        self._hosts.requeue(host, item, wait)
        return True


def _read_files(profile: Profile, storage: Storage, part: str, rows: list[FetchRequest], count: _Count) -> None:
    """Images that are here already, in the order of their paths (tars are read front to back)."""
    from latent_assets.catalog.source import base_path
    from latent_assets.images.files import read_file
    from latent_assets.images.store.journal import Journal
    from latent_assets.images.store.recorder import Recorder

    base = base_path(profile)
    recorder = Recorder(profile.fetch, Journal(storage, part))
    faults = FaultWatch(patience(profile.fetch.timeout))

    def one(row: FetchRequest) -> None:
        times = 0
        while True:
            try:
                recorder.record([FetchResult(row, read(row), row.attempts + 1)])
            except ResourceError as fault:
                times += 1
                time.sleep(faults.met(fault, times))
            else:
                faults.passed()
                return

    def read(row: FetchRequest) -> list[bytes] | FetchError:
        try:
            return [read_file(base, row.path or "", profile.fetch)]
        except FetchError as problem:
            return problem

    try:
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="image") as threads:
            for _ in threads.map(one, sorted(rows, key=lambda row: row.path or "")):
                count.add(1)
    finally:
        recorder.close()
