"""Pictures that nobody made, over HTTP: walks between images or prompts as they form, and what a place stands for.

Both say that they are syntheses. They need what generation needs (somebody who lets strangers use this machine), but no
diffusion model: that only draws the ends of a walk that are prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from latent_assets.errors import ModelError
from latent_assets.service.answers import GENERATED_ID, ROW_ID, FrameAnswer, MeanOf, SynthesisAnswer, WalkAnswer
from latent_assets.service.generating import PROMPT_PATTERN, SEED, WHOLE, Generators
from latent_assets.service.placements import groups
from latent_assets.service.problems import ProblemError
from latent_assets.service.streams import Gone, Tell, preview

if TYPE_CHECKING:
    import numpy as np

    from latent_assets.generated.diffusion.generate import ImageGenerator
    from latent_assets.generated.diffusion.request import GenerationRequest
    from latent_assets.generated.synthesis.places import Places
    from latent_assets.generated.synthesis.walks import Frame, Synthesizer
    from latent_assets.profile import Profile, Service
    from latent_assets.service.keeping import Keeper
    from latent_assets.service.releases import OpenRelease
    from latent_assets.storage import Storage

_FEWEST, _FRAMES, _MOST = 2, 9, 33
_NEAR = 4  # groups of images beside a frame
_FARTHEST = 1e6  # map units


class ImageEnd(BaseModel):
    """An end of a walk: an image of the atlas."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: Annotated[str, Field(pattern=ROW_ID)]


class GeneratedEnd(BaseModel):
    """An end of a walk: a generated image that is kept here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    generated: Annotated[str, Field(pattern=GENERATED_ID)]


class PromptEnd(BaseModel):
    """An end of a walk: words. `seed` is 0 unless it is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(pattern=PROMPT_PATTERN)]
    seed: SEED | None = None


WalkEnd = ImageEnd | GeneratedEnd | PromptEnd


class WalkRequest(BaseModel):
    """A walk from one end to the other, in `frames` even steps, both ends included."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {"start": {"prompt": "a red apple", "seed": 1}, "end": {"prompt": "a sad face"}, "frames": 5}
        },
    )

    start: WalkEnd
    end: WalkEnd
    frames: Annotated[int, Field(ge=_FEWEST, le=_MOST), WHOLE] = _FRAMES


class SynthesisRequest(BaseModel):
    """A place of a map, in map units."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"space": "clip", "position": [1.5, -0.25, 3.0]}}
    )

    space: Annotated[str, Field(min_length=1, max_length=64)]
    position: Annotated[list[Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST)]], Field(min_length=3, max_length=3)]


def limited(limits: Service) -> type[WalkRequest]:
    """`WalkRequest` as a profile limits it."""
    prompt = Annotated[str, Field(pattern=PROMPT_PATTERN, max_length=limits.prompt_length)]
    words = create_model("PromptEnd", __base__=PromptEnd, __doc__=PromptEnd.__doc__, prompt=(prompt, ...))
    end: Any = ImageEnd | GeneratedEnd | words
    frames = Annotated[int, Field(ge=_FEWEST, le=min(_MOST, limits.frames)), WHOLE]
    found: type[WalkRequest] = create_model(
        "WalkRequest",
        __base__=WalkRequest,
        __doc__=WalkRequest.__doc__,
        start=(end, ...),
        end=(end, ...),
        frames=(frames, min(_FRAMES, limits.frames)),
    )
    return found


class Synthesizers:
    """What decodes latents on the release that is live. Nothing is loaded before it is asked for."""

    def __init__(self, profile: Profile, storage: Storage, wanted: bool) -> None:
        self._storage = storage
        self._works = wanted and any(row.whole is not None for row in profile.embeddings)
        self._open: tuple[Synthesizer, Places] | None = None

    @property
    def works(self) -> bool:
        """Whether latents are decoded here."""
        return self._works

    def of(self, release: OpenRelease) -> tuple[Synthesizer, Places]:
        """The synthesizer on a release, and where its rows are."""
        from latent_assets.generated.synthesis.places import Places
        from latent_assets.generated.synthesis.walks import Synthesizer

        found = self._open
        if found is None or found[0].placer is not release.placer:
            found = self._open = (Synthesizer(self._storage, release.placer), Places(release.table))
        return found


def what_is_here(synthesizers: Synthesizers, release: OpenRelease, asked: SynthesisRequest) -> SynthesisAnswer:
    """What a place of a map stands for. Raises QueryError or NotBuiltError as `places.what_is_here` does."""
    from latent_assets.generated.synthesis import places

    found = places.what_is_here(*synthesizers.of(release), asked.space, asked.position)
    return SynthesisAnswer(
        release=release.version,
        space=found.space,
        position=found.position,
        said=f"A synthesis: the mean of the latents of the {len(found.ids)} images nearest to this place, decoded. "
        "Nobody made this picture, and it is in no data set.",
        mean_of=[MeanOf(id=row_id, distance=far) for row_id, far in zip(found.ids, found.distances, strict=True)],
        frame=_frame(release, found.frame),
    )


@dataclass(frozen=True)
class Walk:
    """A walk that was asked for, as the work of a stream. Event: `frame`. stopped: whether the service is ending."""

    profile: Profile
    release: OpenRelease
    asked: WalkRequest
    synthesizers: Synthesizers
    generators: Generators
    keeper: Keeper
    stopped: Gone

    def __call__(self, tell: Tell, gone: Gone) -> WalkAnswer:
        """Make and place the frames; on a worker thread."""
        from latent_assets.generated.diffusion.generate import GenerationCancelledError
        from latent_assets.generated.synthesis.walks import WalkCancelledError

        def cancelled() -> bool:
            return gone() or self.stopped()

        made = []
        try:
            how, frames = self._frames(cancelled)
            for frame in frames:
                made.append(_frame(self.release, frame))
                tell("frame", made[-1])
        except (WalkCancelledError, GenerationCancelledError) as error:
            raise ProblemError(503, "The service ends.") from error
        except ModelError as error:  # it is loaded: it cannot draw what was asked for
            raise ProblemError(422, str(error)) from error
        return WalkAnswer(release=self.release.version, how=how, frames=made)

    def _frames(self, cancelled: Gone) -> tuple[str, Iterator[Frame]]:
        from latent_assets.generated.synthesis.walks import BETWEEN_IMAGES, BETWEEN_PROMPTS

        synthesizer, _ = self.synthesizers.of(self.release)
        start, end, count = self.asked.start, self.asked.end, self.asked.frames
        if isinstance(start, PromptEnd) and isinstance(end, PromptEnd):
            generator = self._generator()
            if generator.drawing.mixes_prompts:
                first, last = self._request(start), self._request(end)
                return BETWEEN_PROMPTS, synthesizer.between_prompts(generator, first, last, count, cancelled)
        latents = [self._latents(synthesizer, each, cancelled) for each in (start, end)]
        return BETWEEN_IMAGES, synthesizer.between_images(latents[0], latents[1], count, cancelled)

    def _latents(self, synthesizer: Synthesizer, end: WalkEnd, cancelled: Gone) -> np.ndarray:
        if isinstance(end, ImageEnd):
            found: np.ndarray = synthesizer.stored.of([end.image])[0]
            return found
        if isinstance(end, GeneratedEnd):
            return synthesizer.latents_of(self.keeper.picture(self.release, end.generated))
        image, _ = self._generator().draw(self._request(end), cancelled=cancelled, with_path=False)
        return synthesizer.latents_of(image)

    def _generator(self) -> ImageGenerator:
        if not self.generators.works:
            raise ProblemError(403, "This service makes no images: a walk leads from image to image here.")
        return self.generators.of(self.release)

    def _request(self, end: PromptEnd) -> GenerationRequest:
        from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model

        return GenerationRequest.of(diffusion_model(self.profile), end.prompt, seed=end.seed or 0)


def _frame(release: OpenRelease, frame: Frame) -> FrameAnswer:
    return FrameAnswer(
        share=frame.share,
        preview=preview(frame.image),
        positions=dict(frame.places),
        near={space: groups(near.neighbours(_NEAR), release.version) for space, near in frame.near.items()},
    )
