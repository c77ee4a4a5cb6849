"""One mercy for servers that aiohttp's parser has not: a Content-Length that is said twice.

Identical ones count as one (RFC 9110, 8.6). What differs stays as it came, and the parser refuses it.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:([^\r\n]*)\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_BEGINNING = b"HTTP/"
_LONGEST_HEAD = 1 << 16


class LenientConnector(aiohttp.TCPConnector):
    """A TCPConnector whose connections forgive a repeated Content-Length.

    `open` is how many of them there are, those that wait to be used again among them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open = 0
        # a subclass of what stands there already; types of functions do not allow for that
        self._factory = functools.partial(_Handler, self, loop=self._loop)  # type: ignore[assignment]


class _Handler(ResponseHandler):
    _head: bytes | None = None  # what came of an answer's head; None behind it

    def __init__(self, connector: LenientConnector, **options: Any) -> None:
        super().__init__(**options)
        self._connector = connector

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more is open."""
        self._connector.open += 1
        super().connection_made(transport)

    def set_response_params(self, **parameters: Any) -> None:
        """An answer is awaited."""
        self._head = b""
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer: its head goes on as a whole."""
        if self._head is not None:
            data = self._head + data
            end = _end_of_head(data)
            if end < 0 and len(data) < _LONGEST_HEAD and data.startswith(_BEGINNING[: len(data)]):
                self._head = data
                return
            self._head = None
            if end > 0 and _says_twice(head := data[:end]):
                data = _said_once(head) + data[end:]
        super().data_received(data)

    def connection_lost(self, error: BaseException | None) -> None:
        """What came of a head that has no end is the parser's to judge."""
        self._connector.open -= 1
        head, self._head = self._head, None
        if head:
            super().data_received(head)
        super().connection_lost(error)


def _end_of_head(data: bytes) -> int:
    """Where the body begins, -1 when that has not come yet."""
    if (at := data.find(b"\r\n\r\n", 0, _LONGEST_HEAD)) >= 0 and data.find(b"\n\n", 0, at) < 0:
        return at + 4
    end = _END.search(data, 0, _LONGEST_HEAD)  # lines may end otherwise, too
    return end.end() if end else -1


def _says_twice(head: bytes) -> bool:
    """Whether it is worth a closer look: this is asked of every answer."""
    lower = head.lower()
    first = lower.find(b"\ncontent-length")
    if first < 0:
        return False
    return b"," in lower[first : lower.find(b"\n", first + 1)] or lower.find(b"\ncontent-length", first + 1) > 0


def _said_once(head: bytes) -> bytes:
    """The head of an answer with one Content-Length, where several say the same."""
    values: list[bytes] = [value.strip() for header in _LENGTH.findall(head) for value in header.split(b",")]
    if len(values) < 2 or len(set(values)) > 1 or not values[0].isdigit():
        return head
    at = head.index(b"\n") + 1
    return head[:at] + b"Content-Length: " + values[0] + b"\r\n" + _LENGTH.sub(b"", head[at:])
