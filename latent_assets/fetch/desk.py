"""What became of a row, entered in the journal: images are made and rows written by threads beside the event loop.

How rows come by their answers is the business of `rows`, what an image has to be that of `image`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latent_assets import progress
from latent_assets.fetch.image import StoredImage, store_image
from latent_assets.fetch.ledger import LedgerRow, outcome_of
from latent_assets.fetch.outcome import FetchError, Reason
from latent_assets.fetch.web import Download

if TYPE_CHECKING:
    from latent_assets.fetch.journal import Journal
    from latent_assets.profile import Fetch

STAGE = "image_shards"
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
class Arrival:
    """A row that is through: the pieces of the answer's body or the problem there was, and the answer."""

    row: Wanted
    result: list[bytes] | FetchError
    attempts: int
    answer: Download | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if isinstance(self.result, FetchError) else sum(map(len, self.result))


class Clerk:
    """Turns what came of a row into its ledger row and image, and enters them in the journal."""

    def __init__(self, settings: Fetch, journal: Journal, attempts: dict[str, int], done: int, total: int) -> None:
        self._settings = settings
        self._journal = journal
        self._before = attempts
        self._total = total
        self._done = done
        progress.report(STAGE, done, total, "rows")

    def enter(self, arrivals: Sequence[Arrival]) -> None:
        """Store images, or the reasons why they are none. Runs in worker threads.

        What arrived together is written together: each system call makes a thread give up and regain the
        interpreter's lock, which the event loop wants as well.
        """
        self._journal.add([self._entry(arrival) for arrival in arrivals])

    def _entry(self, arrival: Arrival) -> tuple[LedgerRow, bytes]:
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

    def _problem_row(self, arrival: Arrival, problem: FetchError) -> LedgerRow:
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


class Desk:
    """Where answers wait for the threads that store them. Lives in one event loop; `failed` is its first error."""

    def __init__(self, clerk: Clerk, done: Callable[[int], None]) -> None:
        self._clerk = clerk
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # holds who listens to progress
        self._waiting: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        count = os.cpu_count() or 1
        self._threads = [threading.Thread(target=self._work, name=f"image-{n}", daemon=True) for n in range(count)]

    def open(self) -> None:
        """Begin storing."""
        for thread in self._threads:
            thread.start()

    def put(self, arrival: Arrival) -> None:
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

    def _more(self, first: Arrival) -> Iterator[Arrival]:
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
