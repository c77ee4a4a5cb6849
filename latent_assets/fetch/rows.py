"""Giving rows their outcomes: many downloads at a time, images stored by worker threads, attempts and deadlines.

Which rows those are is decided in `shard`; how one URL is downloaded in `web`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latent_assets import progress
from latent_assets.fetch.files import read_file
from latent_assets.fetch.image import StoredImage, store_image
from latent_assets.fetch.ledger import LedgerRow, outcome_of
from latent_assets.fetch.outcome import FetchError, Reason
from latent_assets.fetch.politeness import Hosts
from latent_assets.fetch.web import Download, Network, Target, Web

if TYPE_CHECKING:
    from latent_assets.fetch.journal import Journal
    from latent_assets.profile import Fetch, Profile
    from latent_assets.storage import Storage

STAGE = "image_shards"
_FIRST_BACKOFF = 0.5
_NO_HOST = ""
_TOGETHER, _TOGETHER_BYTES = 16, 4_000_000


@dataclass(frozen=True)
class Wanted:
    """A row without an outcome. `origin`, `row_hash` and `recipe` go into the ledger (see LedgerRow)."""

    id: str
    url: str
    path: str | None
    origin: str
    row_hash: str
    recipe: str


@dataclass(frozen=True)
class _Arrival:
    """A row that is through: the pieces of the answer's body or the problem there was, and the answer."""

    row: Wanted
    result: list[bytes] | FetchError
    attempts: int
    answer: Download | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if isinstance(self.result, FetchError) else sum(map(len, self.result))


@dataclass
class _Attempted:
    """A row in the queue, with what happened to it so far."""

    row: Wanted
    target: Target | None
    problem: FetchError | None = None
    attempts: int = 0
    deadline: float | None = None


def fetch_rows(
    profile: Profile,
    storage: Storage,
    rows: list[Wanted],
    attempts: dict[str, int],
    journal: Journal,
    network: Network,
    so_far: tuple[int, int],
) -> None:
    """Give each of `rows` an outcome in `journal`.

    `attempts` are those of earlier calls, by row id; `so_far` is (rows of the shard that are done, rows in all).
    """
    clerk = _Clerk(profile.fetch, journal, attempts, *so_far)
    if profile.source.kind == "metadata":
        try:
            asyncio.run(_fetch_links(profile.fetch, rows, clerk, network))
        except BaseExceptionGroup as group:
            raise _first(group) from group  # a full disk, not a row: rows have outcomes
    else:
        _read_files(profile, rows, clerk)


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Clerk:
    """Turns what came of a row into its ledger row and image, and enters them in the journal."""

    def __init__(self, settings: Fetch, journal: Journal, attempts: dict[str, int], done: int, total: int) -> None:
        self._settings = settings
        self._journal = journal
        self._before = attempts
        self._total = total
        self._done = done
        progress.report(STAGE, done, total, "rows")

    def enter(self, arrivals: Sequence[_Arrival]) -> None:
        """Store images, or the reasons why they are none. Runs in worker threads.

        What arrived together is written together: each system call makes a thread give up and regain the
        interpreter's lock, which the event loop wants as well.
        """
        self._journal.add([self._entry(arrival) for arrival in arrivals])

    def _entry(self, arrival: _Arrival) -> tuple[LedgerRow, bytes]:
        answer, result = arrival.answer, arrival.result
        status = answer.status if answer else None
        redirects = answer.redirects if answer else 0
        if isinstance(result, FetchError):
            return self._problem_row(arrival, result), b""
        body = b"".join(result)
        try:
            image = store_image(body, self._settings)
        except FetchError as problem:
            problem.status, problem.redirects, problem.body_bytes = status, redirects, len(body)
            return self._problem_row(arrival, problem), b""
        evidence = answer.opted_out[1] if answer and answer.opted_out else None
        return self._image_row(arrival.row, image, status, redirects, arrival.attempts, evidence), image.data

    def _problem_row(self, arrival: _Arrival, problem: FetchError) -> LedgerRow:
        row = arrival.row
        return LedgerRow(
            id=row.id,
            url=row.url,
            outcome=outcome_of(problem.reason),
            reason=problem.reason.value,
            http_status=problem.status,
            redirects=problem.redirects,
            bytes=problem.body_bytes,
            fetched_at=time.time(),
            attempts=self._before.get(row.id, 0) + arrival.attempts,
            evidence=problem.evidence or None,
            origin=row.origin,
            row_hash=row.row_hash,
            recipe=row.recipe,
        )

    def finished(self, rows: int = 1) -> None:
        """So many more rows have their outcome."""
        self._done += rows
        progress.report(STAGE, self._done, self._total, "rows")

    def _image_row(
        self, row: Wanted, image: StoredImage, status: int | None, redirects: int, attempts: int, evidence: str | None
    ) -> LedgerRow:
        return LedgerRow(
            id=row.id,
            url=row.url,
            outcome=outcome_of(Reason.OK),
            reason=Reason.OK.value,
            http_status=status,
            redirects=redirects,
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            stored_width=image.stored_width,
            stored_height=image.stored_height,
            stored_bytes=len(image.data),
            extension=image.extension,
            sha256=image.sha256,
            stored_sha256=image.stored_sha256,
            fetched_at=time.time(),
            attempts=self._before.get(row.id, 0) + attempts,
            evidence=evidence,
            origin=row.origin,
            row_hash=row.row_hash,
            recipe=row.recipe,
        )


class _Desk:
    """Where answers wait for the threads that store them. Lives in one event loop; `failed` is its first error."""

    def __init__(self, clerk: _Clerk, done: Callable[[int], None]) -> None:
        self._clerk = clerk
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # holds who listens to progress
        self._waiting: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        count = os.cpu_count() or 1
        self._threads = [threading.Thread(target=self._work, name=f"image-{n}", daemon=True) for n in range(count)]

    def open(self) -> None:
        """Begin storing."""
        for thread in self._threads:
            thread.start()

    def put(self, arrival: _Arrival) -> None:
        """Take a row that is through with the network."""
        self._waiting.put(arrival)

    def close(self) -> None:
        """Wait until everything that arrived is stored."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self) -> None:
        broken = False
        while (first := self._waiting.get()) is not None:
            arrivals = [first, *self._more(first)]
            if broken:
                continue
            try:
                self._clerk.enter(arrivals)
            except BaseException as error:  # a full disk, not a row: rows have outcomes
                broken = True
                self._tell(self._fail, error)
            else:
                self._tell(self._finish, len(arrivals))

    def _more(self, first: _Arrival) -> Iterator[_Arrival]:
        """What waits besides `first` and may be stored with it: this thread's share, as long as it is small."""
        size = first.size
        for _ in range(min(self._waiting.qsize() // len(self._threads), _TOGETHER - 1)):
            if size > _TOGETHER_BYTES:
                return
            try:
                arrival = self._waiting.get_nowait()
            except queue.Empty:
                return
            if arrival is None:
                self._waiting.put(None)
                return
            size += arrival.size
            yield arrival

    def _finish(self, rows: int) -> None:
        try:
            self._done(rows)
        except BaseException as error:  # of a listener, or an interrupt: the loop would only log it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _tell(self, what: Callable[..., None], about: object) -> None:
        with suppress(RuntimeError):  # the loop may have been closed by an interrupt
            self._loop.call_soon_threadsafe(what, about, context=self._context)


async def _fetch_links(settings: Fetch, rows: list[Wanted], clerk: _Clerk, network: Network) -> None:
    hosts: Hosts[_Attempted] = Hosts(settings.per_host, settings.per_host_rate, settings.timeout)
    slots = asyncio.Semaphore(settings.concurrency)

    def stored(count: int) -> None:
        for _ in range(count):
            slots.release()
        try:
            clerk.finished(count)
        finally:
            hosts.finish(count)

    desk = _Desk(clerk, stored)
    try:
        desk.open()
        async with Web(settings, hosts, network) as web, asyncio.TaskGroup() as tasks:
            fetcher = _Fetcher(settings, hosts, web, desk, slots)
            hosts.add(fetcher.queued(row) for row in rows)
            watch = tasks.create_task(_raise_from(desk.failed))
            while True:
                await slots.acquire()
                taken = await hosts.take()
                if taken is None:
                    break
                tasks.create_task(fetcher.fetch(*taken))
            if not desk.failed.done():
                watch.cancel()
    finally:
        desk.close()


async def _raise_from(failed: asyncio.Future[None]) -> None:
    await failed


class _Fetcher:
    """Takes rows through their attempts. A row to be tried again goes back to the queue; it holds nothing."""

    def __init__(
        self, settings: Fetch, hosts: Hosts[_Attempted], web: Web, desk: _Desk, slots: asyncio.Semaphore
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._web = web
        self._desk = desk
        self._slots = slots
        self._loop = asyncio.get_running_loop()

    def queued(self, row: Wanted) -> tuple[str, _Attempted]:
        """The host a row waits for, and the row as it waits. A URL that may not be asked waits for nobody."""
        try:
            target = self._web.target(row.url)
        except FetchError as problem:
            return _NO_HOST, _Attempted(row, None, problem)
        return target.origin, _Attempted(row, target)

    async def fetch(self, host: str, item: _Attempted) -> None:
        """One attempt at a row; its host's slot was taken and is given back here, its own when it is stored."""
        try:
            answer = await self._attempt(host, item)
        finally:
            self._hosts.release(host)
        if answer is not None:
            self._desk.put(_Arrival(item.row, answer.body, item.attempts, answer))
        elif self._try_again(host, item):
            self._slots.release()
        else:
            assert item.problem is not None  # no answer
            self._desk.put(_Arrival(item.row, item.problem, item.attempts))

    async def _attempt(self, host: str, item: _Attempted) -> Download | None:
        """The answer, or None with `item.problem` set."""
        if item.target is None:
            return None
        if gone := self._hosts.given_up(host):
            item.problem = item.problem or FetchError(*gone)
            return None
        if item.deadline is None:
            item.deadline = self._loop.time() + self._settings.timeout
        elif self._loop.time() >= item.deadline:
            return None  # it waited too long for another attempt: the problem is what it was
        item.attempts += 1
        try:
            async with asyncio.timeout_at(item.deadline):
                return await self._web.download(item.target)
        except TimeoutError:
            item.problem = FetchError(Reason.TIMEOUT, f"no image within {self._settings.timeout:g} s")
        except FetchError as problem:
            item.problem = problem
        except Exception as error:  # hostile input that breaks a library is a reason for this row, not for the shard
            item.problem = FetchError(Reason.PROTOCOL, f"{type(error).__name__}: {error}")
        if item.problem.redirects == 0:
            self._hosts.failed(host, item.problem.reason, item.problem.evidence)
        if item.problem.retry_after is not None and item.problem.redirects == 0:
            self._hosts.pause(host, item.problem.retry_after)
        return None

    def _try_again(self, host: str, item: _Attempted) -> bool:
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
        self._hosts.again(host, item, wait)
        return True


def _read_files(profile: Profile, rows: list[Wanted], clerk: _Clerk) -> None:
    """Images that are here already, in the order of their paths (tars are read front to back)."""
    from latent_assets.catalog.source import base_path

    base = base_path(profile)

    def one(row: Wanted) -> None:
        try:
            result: list[bytes] | FetchError = [read_file(base, row.path or "", profile.fetch)]
        except FetchError as problem:
            result = problem
        clerk.enter([_Arrival(row, result, 1)])

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="image") as workers:
        for _ in workers.map(one, sorted(rows, key=lambda row: row.path or "")):
            clerk.finished()
