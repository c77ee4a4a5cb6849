"""robots.txt: asked once per origin, remembered for a day, read with protego (RFC 9309).

Downloading it safely is the business of `http_client`, which passes its own `get`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego

from latent_assets.images.outcome import NETWORK, FetchError, Reason

MAX_BYTES = 512 * 1024
_REMEMBERED_SECONDS = 24 * 3600.0
_UNREACHABLE_SECONDS = 60.0
_MOST_REMEMBERED = 100_000

# gets the text at a URL, at most MAX_BYTES of it; raises FetchError
Get = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class Rules:
    """What an origin's robots.txt says; `problem` when it could not be read for a reason that forbids asking."""

    until: float
    rules: Protego | None = None
    problem: FetchError | None = None


# shared by the shards of a process: rules are values, bound to no event loop
_remembered: dict[tuple[str, str], Rules] = {}


class Robots:
    """The robots.txt of every origin met, for one user agent. Lives in one event loop."""

    def __init__(self, agent: str, get: Get) -> None:
        self._agent = agent
        self._get = get
        self._asking: dict[str, asyncio.Task[Rules]] = {}

    async def check(self, origin: str, url: str) -> float:
        """Seconds the origin wants between requests (0 when it does not say).

        Raises FetchError: `robots_txt` when the URL is disallowed, `robots_txt_unreachable` when the origin
        answers with an error of its own (RFC 9309: then nothing may be fetched), or the network's reason.
        """
        found = await self._rules(origin)
        if found.problem is not None:
            raise found.problem
        if found.rules is None:
            return 0.0
        if not found.rules.can_fetch(url, self._agent):
            raise FetchError(Reason.ROBOTS, f"{origin}/robots.txt disallows this path for {self._agent}")
        return float(found.rules.crawl_delay(self._agent) or 0.0)

    def close(self) -> None:
        """Stop asking: nobody waits for the answers any more."""
        for task in list(self._asking.values()):
            task.cancel()

    async def _rules(self, origin: str) -> Rules:
        known = _remembered.get((self._agent, origin))
        if known is not None and time.time() < known.until:
            return known
        task = self._asking.get(origin)
        if task is None:
            task = self._asking[origin] = asyncio.create_task(self._ask(origin))
            task.add_done_callback(lambda task: self._asked(origin, task))
        return await asyncio.shield(task)

    def _asked(self, origin: str, task: asyncio.Task[Rules]) -> None:
        self._asking.pop(origin, None)
        if not task.cancelled():
            task.exception()  # a fault of this side: whoever waits for it still gets it, and maybe nobody does

    async def _ask(self, origin: str) -> Rules:
        now = time.time()
        try:
            rules = Rules(now + _REMEMBERED_SECONDS, _parsed(await self._get(f"{origin}/robots.txt")))
        except FetchError as problem:
            rules = _without_file(now, origin, problem)
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[self._agent, origin] = rules
        return rules


def _parsed(text: str) -> Protego | None:
    try:
        return Protego.parse(text)
    except Exception:  # what breaks the parser forbids nothing
        return None


def _without_file(now: float, origin: str, problem: FetchError) -> Rules:
    """RFC 9309, section 2.3.1: no file allows everything, a server in trouble nothing."""
    if problem.reason in (Reason.RATE_LIMITED, Reason.SERVER_ERROR):
        evidence = f"{origin}/robots.txt answers {problem.status}"
        unreachable = FetchError(
            Reason.ROBOTS_UNREACHABLE, evidence, status=problem.status, retry_after=problem.retry_after
        )
        return Rules(now + _UNREACHABLE_SECONDS, None, unreachable)
    if problem.reason in NETWORK or (problem.reason is Reason.PRIVATE_ADDRESS and not problem.redirects):
        return Rules(now + _UNREACHABLE_SECONDS, None, problem)
    return Rules(now + _REMEMBERED_SECONDS)
