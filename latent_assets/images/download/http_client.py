"""Downloading one URL: safely (checked addresses, bounded bytes and redirects) and politely.

One client per shard: one TLS context, kept-alive connections, cached names. What may be asked when is decided in
`host_queue`, what becomes of the bytes in `decode`.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from latent_assets import __version__
from latent_assets.errors import ResourceError
from latent_assets.images.decode.formats import sniff
from latent_assets.images.download import robots
from latent_assets.images.download.addresses import (
    CheckedResolver,
    RefusedAddressError,
    SocketFactory,
    checked_socket,
    is_public,
    literal_address,
    noting_faults,
    reserved_name,
    routed_socket,
    socket_faults,
)
from latent_assets.images.download.descriptors import Budget
from latent_assets.images.download.encoding import encodings_of, plain_body
from latent_assets.images.download.host_queue import HostQueue
from latent_assets.images.download.lookups import Lookup, NameLookupError
from latent_assets.images.download.optout import opt_out
from latent_assets.images.download.protocol import LenientConnector
from latent_assets.images.download.pulse import STANDSTILL, Pulse
from latent_assets.images.download.urls import origin_of, parse_url
from latent_assets.images.faults import FaultWatch
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.limits import causes, shortage
from latent_assets.text import decode_leniently

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

Content = TypeVar("Content")
# makes something of an answer, the number of redirects before it and the headers that hold for it; raises FetchError
Headers = Sequence[tuple[str, str]]
Read = Callable[[aiohttp.ClientResponse, int, Headers], Awaitable[Content]]

AGENT = "latent-assets"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOUND = frozenset({200, 203})
_WHOLE_RANGE = re.compile(r"bytes 0-(?P<last>\d{1,15})/(?P<all>\d{1,15})", re.IGNORECASE)
_LARGE_BODY = 2_000_000
_LARGE_AT_ONCE = 8
_SNIFFED = 1024
_CONNECTOR_OPTIONS: dict[str, Any] = {"limit": 0, "ttl_dns_cache": 300, "keepalive_timeout": 5}


@dataclass(frozen=True)
class Network:
    """How names are resolved, sockets made and certificates checked; the system's way unless a test says other."""

    lookup: Lookup | None = None
    socket_factory: SocketFactory | None = None
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Download:
    """An answer that may be an image. `opted_out` is (reason, header) when the answer's headers opt out."""

    body: list[bytes] = field(repr=False)
    status: int
    redirects: int
    opted_out: tuple[Reason, str] | None


@dataclass(frozen=True)
class Target:
    """A URL that may be asked: parsed, its origin (`http://host:port`) and whether the profile exempts that."""

    url: URL
    origin: str
    exempt: bool


def user_agent(contact: str | None) -> str:
    """`latent-assets/0.1 (+contact)`: says who asks and how to reach them."""
    return f"{AGENT}/{__version__} (+{contact})" if contact else f"{AGENT}/{__version__}"


class HttpClient:
    """The client of one shard. Use as an async context; lives in one event loop.

    Faults of this side are raised as ResourceError; `faults` hears when the name server answers.
    """

    def __init__(
        self,
        settings: Fetch,
        hosts: HostQueue[Any],
        network: Network,
        budget: Budget,
        faults: FaultWatch,
        pulse: Pulse,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._network = network
        self._budget = budget
        self._pulse = pulse
        self._resolver = CheckedResolver(network.lookup, budget.lookups, faults.resolved)
        self._asked: dict[Any, tuple[str, float]] = {}  # task -> host it asks, and since when
        self._allowed = _allowed_origins(settings)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._stack = AsyncExitStack()
        self._loop_time = asyncio.get_running_loop().time
        self.robots = robots.Robots(AGENT, self._get_robots) if settings.robots else None

    async def __aenter__(self) -> HttpClient:
        self._stack.push_async_callback(self._resolver.close)
        checked, routed = noting_faults(checked_socket(self._network.socket_factory)), noting_faults(routed_socket)
        guarded = LenientConnector(resolver=self._resolver, socket_factory=checked, **_CONNECTOR_OPTIONS)
        exempt = LenientConnector(socket_factory=routed, **_CONNECTOR_OPTIONS)
        self._connectors = (guarded, exempt)
        self._guarded = await self._stack.enter_async_context(self._session(guarded))
        self._exempt = await self._stack.enter_async_context(self._session(exempt))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.robots:
            self.robots.close()
        await self._stack.aclose()

    def target(self, url: str) -> Target:
        """Check a URL as far as that goes without the network. Raises FetchError."""
        parsed = parse_url(url)
        origin = origin_of(parsed)
        exempt = origin in self._allowed
        address = literal_address(parsed.raw_host or "")
        if address is not None and not exempt and not is_public(address):
            raise _private(f"{parsed.raw_host} is {address}, which is not a public address", origin)
        if not exempt and (reserved := reserved_name(parsed.raw_host or "")) is not None:
            raise _private(f"{parsed.raw_host} is under {reserved}, which is no part of the public internet", origin)
        return Target(parsed, origin, exempt)

    async def download(self, target: Target) -> Download:
        """Follow `target` to an answer that may be an image. The caller holds the slot of its host.

        Raises FetchError, and ResourceError for a fault of this side. Deadlines are the caller's.
        """
        return await self._follow(target, self._read_image, polite=True)

    def late(self, target: Target, since: float) -> ResourceError | None:
        """The fault of this side for which a download that this task began then (loop time) is not done in time."""
        hosts = {target.url.raw_host or "": since}
        if (asked := self._asked.pop(asyncio.current_task(), None)) is not None:
            hosts[asked[0]] = asked[1]
        found = (self._resolver.stuck(host, at) for host, at in hosts.items())
        return next((fault for fault in found if fault is not None), None)

    # -- asking ----------------------------------------------------------------------------------------

    async def _follow(self, target: Target, read: Read[Content], *, polite: bool) -> Content:
        """What `read` makes of the first answer that is no redirect. Every hop is checked like the first URL.

        `polite` waits for a slot at each further host and asks its robots.txt.
        """
        redirects = 0
        seen: set[str] = set()
        said: dict[str, Headers] = {}  # by each host, also on its redirects
        while True:
            async with self._hosts.slot(target.origin) if polite and redirects else nullcontext():
                if polite:
                    await self._ask_robots(target, redirects)
                async with await self._open(target, redirects) as answer:
                    host = target.url.raw_host or ""
                    said[host] = (*said.get(host, ()), *answer.headers.items())
                    if answer.status not in _REDIRECTS:
                        return await read(answer, redirects, said[host])
                    location = answer.headers.get("Location", "")
            seen.add(str(target.url))
            target = self._redirected(target, location, answer.status, redirects, seen)
            redirects += 1

    async def _ask_robots(self, target: Target, redirects: int) -> None:
        if self.robots is None:
            return
        try:
            delay = await self.robots.check(target.origin, str(target.url))
        except FetchError as problem:
            raise FetchError(
                problem.reason,
                problem.evidence,
                status=problem.status,
                redirects=redirects,
                retry_after=problem.retry_after,
            ) from problem
        if delay:
            self._hosts.slow_down(target.origin, delay)

    async def _open(self, target: Target, redirects: int) -> aiohttp.ClientResponse:
        session = self._exempt if target.exempt else self._guarded
        task, faults = asyncio.current_task(), list[ResourceError]()
        socket_faults.set(faults)
        try:
            tls = self._tls if target.url.scheme == "https" else True
            # a connection nobody else waits for is not kept: there are a million hosts and a thousand sockets
            closing = not redirects and not self._hosts.awaited(target.origin)
            headers = {"Connection": "close"} if closing or self._many_connections() else None
            self._asked[task] = (target.url.raw_host or "", self._loop_time())
            answer = await session.get(target.url, allow_redirects=False, headers=headers, ssl=tls)
            del self._asked[task]
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError, MemoryError) as error:
            self._asked.pop(task, None)
            if faults:
                raise faults[0] from error
            problem = problem_of(error, redirects)
            if problem.reason is Reason.PRIVATE_ADDRESS:
                problem = _private(problem.evidence, target.origin, redirects)
            raise problem from error
        self._hosts.answered(target.origin)
        return answer

    def _many_connections(self) -> bool:
        """Whether those that wait to be used again take the room of new ones."""
        return sum(connector.open for connector in self._connectors) >= self._budget.open

    async def _read_image(self, answer: aiohttp.ClientResponse, redirects: int, said: Headers) -> Download:
        if not _found(answer):
            raise _status_problem(answer.status, answer.headers, redirects)
        opted_out = opt_out(said, AGENT)
        if opted_out is not None and self._settings.respect_opt_out:
            raise FetchError(opted_out[0], opted_out[1], status=answer.status, redirects=redirects)
        body = await self._read(answer, redirects, self._settings.max_bytes, image=True)
        return Download(body, answer.status, redirects, opted_out)

    async def _read_robots(self, answer: aiohttp.ClientResponse, redirects: int, said: Headers) -> str:
        if not _found(answer):
            raise _status_problem(answer.status, answer.headers, redirects)
        body = b"".join(await self._read(answer, redirects, robots.MAX_BYTES, image=False))
        return decode_leniently(body, answer.charset)

    async def _read(self, answer: aiohttp.ClientResponse, redirects: int, limit: int, *, image: bool) -> list[bytes]:
        """The body in chunks, at most `limit` bytes: an image that has more is refused, a text is cut."""
        try:
            return await self._chunks(answer, limit, image)
        except FetchError as problem:
            problem.status, problem.redirects = answer.status, redirects
            raise
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError, MemoryError) as error:
            raise problem_of(error, redirects, status=answer.status) from error

    async def _chunks(self, answer: aiohttp.ClientResponse, limit: int, image: bool) -> list[bytes]:
        """Large bodies are read a few at a time, so that memory stays bounded."""
        if image and (answer.content_length or 0) > limit:
            raise FetchError(Reason.TOO_MANY_BYTES, f"Content-Length {answer.content_length}, the limit is {limit}")
        encodings = encodings_of(answer.headers.get("Content-Encoding"))
        chunks: list[bytes] = []
        size, large, sniffed = 0, False, bool(encodings) or not image
        try:
            async for chunk in answer.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    if not image:
                        break
                    raise FetchError(Reason.TOO_MANY_BYTES, f"more than {limit} bytes", body_bytes=size)
                if not sniffed and size >= _SNIFFED:
                    sniff(b"".join(chunks))
                    sniffed = True
                if size > _LARGE_BODY and not large:
                    await self._large.acquire()
                    large = True
        finally:
            if large:
                self._large.release()
        if encodings and size:
            chunks = [await asyncio.to_thread(plain_body, b"".join(chunks), encodings, limit, image)]
        if image and not size:
            raise FetchError(Reason.EMPTY, "the answer has no body")
        return chunks

    async def _get_robots(self, url: str) -> str:
        """robots.txt, following redirects. The asking row already holds a slot of that host."""
        began, pulse = self._loop_time(), self._pulse.now()
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._follow(self.target(url), self._read_robots, polite=False)
        except (FetchError, TimeoutError) as error:
            if self._pulse.stood_still(pulse):
                raise ResourceError("this process stood still", STANDSTILL) from error
            if isinstance(error, FetchError):
                raise
            if (fault := self.late(self.target(url), began)) is not None:
                raise fault from error
            raise FetchError(Reason.TIMEOUT, f"{url} took longer than {self._settings.timeout:g} s") from error

    def _redirected(self, target: Target, location: str, status: int, redirects: int, seen: set[str]) -> Target:
        if not location:
            raise FetchError(Reason.BAD_REDIRECT, "no Location", status=status, redirects=redirects)
        if redirects >= self._settings.max_redirects:
            raise FetchError(Reason.TOO_MANY_REDIRECTS, f"more than {redirects}", status=status, redirects=redirects)
        try:
            following = self.target(urljoin(str(target.url), location))
        except FetchError as problem:
            evidence = f"redirected to {location[:200]}: {problem.evidence}"
            raise FetchError(problem.reason, evidence, status=status, redirects=redirects + 1) from problem
        except ValueError as error:
            raise FetchError(Reason.BAD_REDIRECT, location[:200], status=status, redirects=redirects) from error
        if str(following.url) in seen:
            raise FetchError(Reason.REDIRECT_LOOP, str(following.url)[:200], status=status, redirects=redirects)
        return following

    # -- parts -----------------------------------------------------------------------------------------

    @cached_property
    def _tls(self) -> ssl.SSLContext | Literal[True]:
        """One for all connections, made when the first needs it: reading the certificates takes a while."""
        return self._network.tls or _system_tls()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=max(1.0, self._settings.timeout / 2)),
            headers={
                "User-Agent": user_agent(self._settings.contact),
                "Accept": "image/webp,image/png,image/jpeg,image/gif;q=0.9,image/*;q=0.8,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            trust_env=False,
            auto_decompress=False,  # it knows no Brotli; `encoding` does
            read_bufsize=1 << 18,
        )


def _found(answer: aiohttp.ClientResponse) -> bool:
    """Whether an answer holds what was asked for: also a part that is the whole, from servers that like to cut."""
    if answer.status != 206:
        return answer.status in _FOUND
    whole = _WHOLE_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    return whole is not None and int(whole["last"]) + 1 == int(whole["all"])


def _system_tls() -> ssl.SSLContext | Literal[True]:
    """The system's certificates: aiohttp's context, made when it is imported, or those named since then."""
    named = {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys()
    return ssl.create_default_context() if named else True


def _allowed_origins(settings: Fetch) -> frozenset[str]:
    return frozenset(origin_of(parse_url(origin)) for origin in settings.allow_origins)


def _private(found: str, origin: str, redirects: int = 0) -> FetchError:
    """An address that is not public, and how the profile allows its origin."""
    remedy = f'asked only with `fetch.allow_origins = ["{origin}"]` in the profile'
    return FetchError(Reason.PRIVATE_ADDRESS, f"{found}: {remedy}", redirects=redirects)


def problem_of(error: BaseException, redirects: int, status: int | None = None) -> FetchError:
    """The reason for an error of the client. Raises ResourceError for a fault of this side."""
    if (fault := shortage(error, connecting=True)) is not None:
        raise fault from error

    def problem(reason: Reason, evidence: str | None = None) -> FetchError:
        text = evidence if evidence is not None else f"{type(error).__name__}: {error}"
        return FetchError(reason, text, redirects=redirects, status=status)

    for cause in causes(error):
        if isinstance(cause, RefusedAddressError):
            return problem(Reason.PRIVATE_ADDRESS, str(cause))
    if isinstance(error, TimeoutError):
        return problem(Reason.TIMEOUT)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        final = any(isinstance(cause, NameLookupError) and cause.final for cause in causes(error))
        return FetchError(Reason.DNS, str(error.os_error), redirects=redirects, final=final)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return problem(Reason.TLS)
    if isinstance(error, aiohttp.ClientConnectorError):
        return problem(Reason.CONNECT, str(error.os_error))
    if isinstance(error, aiohttp.InvalidURL):
        return problem(Reason.BAD_URL)
    if isinstance(error, aiohttp.ClientPayloadError):
        return problem(Reason.INCOMPLETE)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | OSError):
        return problem(Reason.DISCONNECTED)
    return problem(Reason.PROTOCOL)


def _status_problem(status: int, headers: Mapping[str, str], redirects: int) -> FetchError:
    reason = Reason.UNEXPECTED_STATUS
    if status in (404, 410):
        reason = Reason.NOT_FOUND
    elif status in (401, 403, 451):
        reason = Reason.FORBIDDEN
    elif status == 429:
        reason = Reason.RATE_LIMITED
    elif 400 <= status < 500:
        reason = Reason.CLIENT_ERROR
    elif status >= 500:
        reason = Reason.SERVER_ERROR
    wait = retry_after(headers.get("Retry-After")) if status in (429, 503) else None
    evidence = f"Retry-After: {headers['Retry-After']}" if wait is not None else ""
    return FetchError(reason, evidence, status=status, redirects=redirects, retry_after=wait)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait for a Retry-After header (seconds or a date); None without or with nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return max(0.0, when.timestamp() - time.time())
