"""A web server that does what it is told, byte by byte: for good answers and for hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    """What the client sent."""

    method: str
    path: str
    headers: dict[str, str]
    at: float


Page = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A running server. `pages` may be added while it runs; `requests` are in the order they came."""

    port: int
    scheme: str = "http"
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    held_after: int | None = None  # requests that are answered; those that come later wait
    active: int = 0
    most_active: int = 0

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.origin}{path}"

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(request.path == path for request in self.requests)

    def add(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        """A page with a fixed answer; returns its URL. Header names are written with underscores."""
        self.pages[path] = answer(body, status, **headers)
        return self.url(path)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Page:
    """A page that answers with a status, headers and a body of the right length."""

    async def page(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, **{"content_length": str(len(body)), **headers}) + body)

    return page


def head(status: int = 200, **headers: str) -> bytes:
    """Status line and headers of an answer."""
    headers.setdefault("content_type", "image/jpeg")
    lines = [f"HTTP/1.1 {status} whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A Site on a free port of loopback, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    site = Site(0, "https" if tls else "http")

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(
            lambda r, w: _connection(site, r, w), "127.0.0.1", 0, ssl=tls, limit=1 << 20
        )
        site.port = server.sockets[0].getsockname()[1]
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield site
    finally:

        async def stop() -> None:
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _connection(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
        while not writer.is_closing():
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            request = Request(method, path, headers, time.monotonic())
            site.requests.append(request)
            site.active += 1
            site.most_active = max(site.most_active, site.active)
            number = len(site.requests)
            while site.held_after is not None and number > site.held_after:
                await asyncio.sleep(0.01)
            try:
                await site.pages.get(path, answer(b"no such page", 404))(request, writer)
                await writer.drain()
            finally:
                site.active -= 1
    writer.close()
