"""Images made from prompts, told as they form: server-sent events, one generation at a time.

Events: `queued` (how many are before it), `step` (a preview and where it would fall), then `result`, or `problem`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from latent_assets.errors import LatentAssetsError, ModelError
from latent_assets.service.access import client_of
from latent_assets.service.answers import GeneratedAnswer, Positions
from latent_assets.service.keeping import Keeper, image_address
from latent_assets.service.placements import answer
from latent_assets.service.problems import Problem, ProblemError, describe
from latent_assets.service.queues import Ticket, WorkQueue

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.diffusion.generate import GeneratedImage, ImageGenerator, PathPoint
    from latent_assets.profile import Profile, Service
    from latent_assets.service.releases import OpenRelease

_PREVIEW = 256  # pixels of the longer side
_SILENCE = 10.0  # seconds after which a line says that the connection lives
_LARGEST_SEED = 2**53 - 1  # exact in JavaScript
_CONTROLS = r"\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F"
_TEXT = rf"^[^{_CONTROLS}]*$"
_PROMPT = rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$"
_log = logging.getLogger("latent_assets.service")


def _whole(value: object) -> object:
    """7.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)


class GenerateRequest(BaseModel):
    """A prompt, and what else decides the image. What is left out is the profile's; a seed is drawn."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"prompt": "a red apple", "seed": 7, "steps": 20}}
    )

    prompt: str = Field(pattern=_PROMPT, description="what the image should show")
    negative: str | None = Field(default=None, pattern=_TEXT, description="what it should not show")
    seed: Annotated[int, Field(ge=0, le=_LARGEST_SEED), _WHOLE] | None = None
    steps: Annotated[int, Field(ge=1), _WHOLE] | None = None
    guidance: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)


def limited(limits: Service) -> type[GenerateRequest]:
    """`GenerateRequest` as a profile limits it."""
    text = Field(max_length=limits.prompt_length)
    found: type[GenerateRequest] = create_model(
        "GenerateRequest",
        __base__=GenerateRequest,
        __doc__=GenerateRequest.__doc__,
        prompt=(Annotated[str, Field(pattern=_PROMPT), text], ...),
        negative=(Annotated[str, Field(pattern=_TEXT), text] | None, None),
        steps=(Annotated[int, Field(ge=1, le=limits.steps), _WHOLE] | None, None),
    )
    return found


class Queued(BaseModel):
    """The event `queued`. position: how many generations are before this one."""

    position: int


class StepEvent(BaseModel):
    """The event `step`: what the image would look like after `step` of `steps`, and where it would fall."""

    step: int
    steps: int
    preview: str = Field(description="data:image/webp;base64,...")
    positions: Positions


class Generators:
    """The generator of a profile on the release that is live. Its pipeline loads once a process."""

    def __init__(self, profile: Profile, wanted: bool) -> None:
        self._profile = profile
        self._works = wanted and profile.models.diffusion is not None
        self._open: ImageGenerator | None = None

    @property
    def works(self) -> bool:
        """Whether images can be made here."""
        return self._works

    def load(self, release: OpenRelease) -> None:
        """Load the pipeline and make an image of two steps, so that no request waits for what is done once."""
        from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model

        try:
            request = GenerationRequest.of(diffusion_model(self._profile), "warm", seed=0, steps=2)
            self.of(release).generate(request)
        except Exception as error:  # whatever a pipeline raises: everything else of the service works without it
            self._works = False
            _log.error("no images are made: %s", error, exc_info=not isinstance(error, LatentAssetsError))

    def of(self, release: OpenRelease) -> ImageGenerator:
        """The generator on a release. Raises ModelError when it cannot be loaded."""
        from latent_assets.generated.diffusion.generate import ImageGenerator

        if self._open is None or self._open.placer is not release.placer:
            self._open = ImageGenerator.open(self._profile, release.placer)
        return self._open


@dataclass(frozen=True)
class Wanted:
    """A generation that was asked for. stopped: whether the service is ending."""

    profile: Profile
    release: OpenRelease
    asked: GenerateRequest
    generators: Generators
    keeper: Keeper
    stopped: Callable[[], bool]


class GenerationStream(Response):
    """The events of a generation. Whoever asked and goes away ends it. Raises OverloadedError before it begins."""

    media_type = "text/event-stream"

    def __init__(self, queue: WorkQueue, wanted: Wanted) -> None:
        super().__init__()
        self._queue, self._wanted = queue, wanted
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

        def tell(event: bytes | None) -> None:
            loop.call_soon_threadsafe(told.put_nowait, event)

        position = ticket.position
        yield _event("queued", Queued(position=position))
        working = asyncio.ensure_future(self._queue.run(partial(self._work, tell)))
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

    def _work(self, tell: Callable[[bytes | None], None]) -> GeneratedAnswer:
        """Make, place and keep the image; on a worker thread."""
        from latent_assets.generated.diffusion.generate import GenerationCancelledError
        from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model

        wanted = self._wanted
        request = GenerationRequest.of(diffusion_model(wanted.profile), **dict(wanted.asked))
        generator = wanted.generators.of(wanted.release)
        try:
            made = generator.generate(
                request,
                on_point=lambda point: tell(_event("step", _step(point))),
                cancelled=lambda: self._gone.is_set() or wanted.stopped(),
            )
        except GenerationCancelledError as error:
            raise ProblemError(503, "The service ends.") from error
        except ModelError as error:  # it is loaded: it cannot draw what was asked for
            raise ProblemError(422, str(error)) from error
        assert made.placed is not None
        wanted.keeper.keep(wanted.release, made.written.png, made.placed, made.written.sidecar)
        return _result(made)


def _step(point: PathPoint) -> StepEvent:
    return StepEvent(step=point.step, steps=point.steps, preview=_preview(point.preview), positions=dict(point.places))


def _preview(image: Image.Image) -> str:
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((_PREVIEW, _PREVIEW))
    small.save(file, "WEBP", quality=80, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _result(made: GeneratedImage) -> GeneratedAnswer:
    assert made.placed is not None
    row_id, told = made.written.id, made.generation
    return GeneratedAnswer(
        **dict(answer(made.placed, row_id, kept=True)),
        created=datetime.now(UTC).isoformat(),
        image=image_address(row_id),
        pending=True,
        name=f"{row_id}.png",
        prompt=told.prompt,
        negative=told.negative_prompt,
        seed=told.seed,
        steps=told.steps,
        guidance=told.guidance,
        sampler=told.sampler,
        model=told.model,
        tool=told.tool,
        path={space: [point.places[space] for point in made.path] for space in made.placed.placements},
    )


def _event(name: str, data: BaseModel) -> bytes:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n".encode()
