"""A small real HTTP server for the rendered pictures, so that the demo downloads over HTTP like any data set.

Here: serving one directory from a background thread. Not here: rendering (`dataset`) or fetching.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

DEFAULT_PORT = 8737
PREFIX = "openmoji"


class PortTakenError(OSError):
    """The port asked for is in use by another process."""


@dataclass(frozen=True)
class PictureServer:
    """A running server; `base_url` is what a metadata file's links start with."""

    host: str
    port: int

    @property
    def base_url(self) -> str:
        """For example `http://127.0.0.1:8737/openmoji`."""
        return base_url(self.host, self.port)


def base_url(host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> str:
    """Where a server on that address serves the pictures; needs no running server."""
    return f"http://{host}:{port}/{PREFIX}"


@contextmanager
def serve(
    directory: str | os.PathLike[str], host: str = "127.0.0.1", port: int = DEFAULT_PORT
) -> Iterator[PictureServer]:
    """Serve the files of `directory` below `/openmoji` until the block ends; port 0 takes any free one.

    GET and HEAD with content type, `ETag`, `Last-Modified`, 304, range requests and keep-alive; everything else
    is 404 or 405. A file added while serving is served; dot files and paths outside the directory are not.

    Raises:
        NotADirectoryError: nothing to serve.
        PortTakenError: another process listens on that port.
    """
    root = Path(directory)
    if not root.is_dir():
        raise NotADirectoryError(f"no pictures to serve: {root} is not a directory (render_all writes it)")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="demo-picture-server", daemon=True)
    thread.start()
    runner = web.AppRunner(_application(root), access_log=None, shutdown_timeout=1)
    try:
        bound = asyncio.run_coroutine_threadsafe(_start(runner, host, port), loop).result()
        yield PictureServer(host, bound)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _application(root: Path) -> web.Application:
    application = web.Application(middlewares=[_no_hidden_files])
    application.router.add_static(f"/{PREFIX}", root, follow_symlinks=False)
    return application


@web.middleware
async def _no_hidden_files(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Half-written files start with a dot and are nobody's business."""
    if Path(request.path).name.startswith("."):
        raise web.HTTPNotFound
    return await handler(request)


async def _start(runner: web.AppRunner, host: str, port: int) -> int:
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                error.errno,
                f"port {port} on {host} is taken: stop what listens there or choose another port for the demo",
            ) from error
        raise
    return int(runner.addresses[0][1])
