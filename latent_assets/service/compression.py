"""Answers are compressed where that is worth it and a range of bytes stays a range of bytes."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_LEAST = 1_024  # bytes
_LEVEL = 5
_TEXTS = (".html", ".js", ".css", ".svg", ".json", "/")


class Compressed:
    """ASGI middleware: JSON of the API, and texts among the files. Not what is asked for by ranges, nor pictures.

    Streams of events stay as they are: compressed they would come late.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=_LEAST, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, compressed or not."""
        app = self._compressing if scope["type"] == "http" and _is_text(scope) else self._app
        await app(scope, receive, send)


def _is_text(scope: Scope) -> bool:
    path: str = scope["path"]
    if "range" in Headers(scope=scope):
        return False
    if path.startswith("/api/"):
        return not path.endswith(("/thumbnail", "/image", "/generate", "/walk"))
    return path.endswith(_TEXTS)
