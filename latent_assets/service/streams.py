"""Work that is told while it happens: server-sent events from a worker thread, ended by whoever goes away.

The first event is `queued` (how many are before it), the last `result`, or `problem`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from latent_assets.service.access import client_of
from latent_assets.service.problems import Problem, describe
from latent_assets.service.queues import Ticket, WorkQueue

if TYPE_CHECKING:
    from PIL import Image

_PREVIEW = 256  # pixels of the longer side
_SILENCE = 10.0  # seconds after which a line says that the connection lives

# name of an event and what it says; whether whoever asked has gone
Tell = Callable[[str, BaseModel], None]
Gone = Callable[[], bool]
Work = Callable[[Tell, Gone], BaseModel]


class Queued(BaseModel):
    """The event `queued`. position: how many are before this one."""

    position: int


class EventStream(Response):
    """The events of `work`. Whoever asked and goes away ends it. Raises OverloadedError before it begins."""

    media_type = "text/event-stream"

    def __init__(self, queue: WorkQueue, work: Work) -> None:
        super().__init__()
        self._queue, self._work = queue, work
        self._gone = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they happen."""
        async with self._queue.place_for(client_of(scope)) as ticket:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            stream = StreamingResponse(self._events(ticket), 200, headers, "text/event-stream")
            try:
                await stream(scope, receive, send)
            finally:
                self._gone.set()

    async def _events(self, ticket: Ticket) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[bytes | None] = asyncio.Queue()

        def tell(name: str, data: BaseModel) -> None:
            loop.call_soon_threadsafe(told.put_nowait, _event(name, data))

        position = ticket.position
        yield _event("queued", Queued(position=position))
        working = asyncio.ensure_future(self._queue.run(partial(self._work, tell, self._gone.is_set)))
        working.add_done_callback(lambda done: told.put_nowait(None))
        silent = 0.0
        while True:
            try:
                event = await asyncio.wait_for(told.get(), 1.0)
            except TimeoutError:
                silent += 1.0
                if ticket.position != position:
                    position = ticket.position
                    yield _event("queued", Queued(position=position))
                elif silent >= _SILENCE:
                    silent = 0.0
                    yield b": still there\n\n"
                continue
            if event is None:
                break
            silent = 0.0
            yield event
        try:
            yield _event("result", working.result())
        except Exception as error:
            found = describe(error)
            yield _event("problem", Problem.of(found.status, found.detail))


def _event(name: str, data: BaseModel) -> bytes:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n".encode()


def preview(image: Image.Image) -> str:
    """A picture as an address of itself, small enough to be sent along."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((_PREVIEW, _PREVIEW))
    small.save(file, "WEBP", quality=80, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def described(*events: str) -> dict[str, Any]:
    """What OpenAPI says of a stream with these events."""
    event = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": ["queued", *events, "result", "problem"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }
    return {"description": "server-sent events", "content": {"text/event-stream": {"schema": event}}}
