"""Images made from prompts, told as they form, one generation at a time.

Events of the stream: `step` (a preview and where it would fall), then `result`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from latent_assets.errors import LatentAssetsError, ModelError
from latent_assets.service.answers import GeneratedAnswer, Positions
from latent_assets.service.keeping import Keeper, image_address
from latent_assets.service.placements import answer
from latent_assets.service.problems import ProblemError
from latent_assets.service.streams import Gone, Tell, preview

if TYPE_CHECKING:
    from latent_assets.generated.diffusion.generate import GeneratedImage, ImageGenerator, PathPoint
    from latent_assets.profile import Profile, Service
    from latent_assets.service.releases import OpenRelease

_LARGEST_SEED = 2**53 - 1  # exact in JavaScript
_CONTROLS = r"\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F"
_TEXT = rf"^[^{_CONTROLS}]*$"
PROMPT_PATTERN = rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$"
_log = logging.getLogger("latent_assets.service")


def _whole(value: object) -> object:
    """7.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
SEED = Annotated[int, Field(ge=0, le=_LARGEST_SEED), WHOLE]


class GenerateRequest(BaseModel):
    """A prompt, and what else decides the image. What is left out is the profile's; a seed is drawn."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"prompt": "a red apple", "seed": 7, "steps": 20}}
    )

    prompt: str = Field(pattern=PROMPT_PATTERN, description="what the image should show")
    negative: str | None = Field(default=None, pattern=_TEXT, description="what it should not show")
    seed: SEED | None = None
    steps: Annotated[int, Field(ge=1), WHOLE] | None = None
    guidance: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)


def limited(limits: Service) -> type[GenerateRequest]:
    """`GenerateRequest` as a profile limits it."""
    text = Field(max_length=limits.prompt_length)
    found: type[GenerateRequest] = create_model(
        "GenerateRequest",
        __base__=GenerateRequest,
        __doc__=GenerateRequest.__doc__,
        prompt=(Annotated[str, Field(pattern=PROMPT_PATTERN), text], ...),
        negative=(Annotated[str, Field(pattern=_TEXT), text] | None, None),
        steps=(Annotated[int, Field(ge=1, le=limits.steps), WHOLE] | None, None),
    )
    return found


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
class Generation:
    """A generation that was asked for, as the work of a stream. stopped: whether the service is ending."""

    profile: Profile
    release: OpenRelease
    asked: GenerateRequest
    generators: Generators
    keeper: Keeper
    stopped: Gone

    def __call__(self, tell: Tell, gone: Gone) -> GeneratedAnswer:
        """Make, place and keep the image; on a worker thread."""
        from latent_assets.generated.diffusion.generate import GenerationCancelledError
        from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model

        request = GenerationRequest.of(diffusion_model(self.profile), **dict(self.asked))
        generator = self.generators.of(self.release)
        try:
            made = generator.generate(
                request,
                on_point=lambda point: tell("step", _step(point)),
                cancelled=lambda: gone() or self.stopped(),
            )
        except GenerationCancelledError as error:
            raise ProblemError(503, "The service ends.") from error
        except ModelError as error:  # it is loaded: it cannot draw what was asked for
            raise ProblemError(422, str(error)) from error
        assert made.placed is not None
        self.keeper.keep(self.release, made.written.png, made.placed, made.written.sidecar)
        return _result(made)


def _step(point: PathPoint) -> StepEvent:
    return StepEvent(step=point.step, steps=point.steps, preview=preview(point.preview), positions=dict(point.places))


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
