"""robots.txt: asked once per origin, remembered for a day, read with protego (RFC 9309).

Downloading it safely is the business of `http_client`, which passes its own `get`.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego
from yarl import URL

from latent_assets.images.outcome import NETWORK, FetchError, Reason
from latent_assets.urls import LONE_PERCENT

MAX_BYTES = 512 * 1024
_REMEMBERED_SECONDS = 24 * 3600.0
_UNREACHABLE_SECONDS = 60.0
_MOST_REMEMBERED = 100_000

# at the beginning or the end of words they are seen by no editor: zero-width characters and soft hyphens
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060"))
_USER_AGENT = re.compile(r"\s*user[- ]?agent(?:\s*:|\s)(.*)", re.IGNORECASE)
_DISALLOW = re.compile(r"\s*diss?all?ow(?:\s*:|\s)(.*)", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)
_QUOTES = "\"'`“”‘’"

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
        if not all(found.rules.can_fetch(form, self._agent) for form in _forms(url)):
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
            rules = Rules(now + _REMEMBERED_SECONDS, _parsed(await self._get(f"{origin}/robots.txt"), self._agent))
        except FetchError as problem:
            rules = _without_file(now, origin, problem)
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[self._agent, origin] = rules
        return rules


def _parsed(text: str, agent: str) -> Protego | None:
    try:
        return Protego.parse("\n".join(_plain(line, agent) for line in text.translate(_INVISIBLE).splitlines()))
    except Exception:  # what breaks the parser forbids nothing
        return None


def _plain(line: str, agent: str) -> str:
    """A line of a robots.txt as the parser knows it: what its writer meant, where it would be taken for nothing.

    Of an agent the product counts, not its version (RFC 9309, 2.2.1); a path begins with a slash, stands in no quotes,
    and a percent sign that begins no escape is one.
    """
    if named := _USER_AGENT.match(line):
        return f"User-agent: {_agent_meant(named[1].partition('#')[0], agent)}"
    if (rule := _DISALLOW.match(line)) is None:
        return line
    written = LONE_PERCENT.sub("%25", rule[1].partition("#")[0].strip().strip(_QUOTES).strip())
    path = _ORIGIN.sub("", written)
    return f"Disallow: {path if not written or path[:1] in ('/', '*', '$') else f'/{path}'}"


def _agent_meant(value: str, agent: str) -> str:
    """`agent` when a value means it, `*` when it means all, else an agent that nobody is."""
    names = [name.strip(_QUOTES).partition("/")[0].lower() for name in re.split(r"[\s,;]+", value)]
    if any(name != "*" and fnmatch.fnmatchcase(agent.lower(), name.replace("[", "")) for name in names):
        return agent
    return "*" if "*" in names else "another"


def _forms(url: str) -> set[str]:
    """A URL as it is asked for, and as servers read it: without dots in its path, with single slashes."""
    try:
        plain = URL(url)
        path, query = re.sub("/{2,}", "/", plain.raw_path), plain.raw_query_string
    except ValueError:
        return {url}
    return {url, str(plain), str(plain.with_path(path, encoded=True)) + (f"?{query}" if query else "")}


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
