"""What is asked of a text-to-image pipeline, checked at the door. Nothing is loaded or generated here."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latent_assets.errors import ModelError, QueryError

if TYPE_CHECKING:
    from latent_assets.profile import DiffusionModel, Profile

LONGEST_PROMPT = 4_000  # characters; the longest text encoders in use read 512 tokens
LARGEST_SEED = 2**64 - 1  # of torch's generators
MOST_STEPS = 1_000  # what diffusion models are trained on
LARGEST_GUIDANCE = 100.0
MOST_IMAGES = 64
_DRAWN_SEEDS = 2**32  # seeds that nobody chose: short to type again, and exact in JavaScript
# what no prompt means: terminals act on them, and halves of surrogate pairs have no UTF-8
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def diffusion_model(profile: Profile) -> DiffusionModel:
    """The profile's [models.diffusion]. Raises ModelError when it has none."""
    if profile.models.diffusion is None:
        raise ModelError(
            f"The profile {profile.name} has no [models.diffusion]: add that table, with `model` the name of a "
            "text-to-image pipeline or its directory."
        )
    return profile.models.diffusion


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt and what decides the images made of it: `n` images with the seeds `seed`, `seed + 1`, ...

    Raises QueryError, naming the value and what is possible: texts of at most 4,000 characters without control
    characters, the prompt not empty; seeds of 64 bits; 1 to 1,000 steps; guidance from 0 to 100; 1 to 64 images.
    """

    prompt: str
    seed: int
    steps: int
    guidance: float
    negative: str | None = None
    n: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _text(self.prompt, "prompt"))
        if not self.prompt:
            raise QueryError("The prompt is empty: write what the image should show.")
        object.__setattr__(self, "negative", _text(self.negative or "", "negative prompt") or None)
        _whole(self.steps, "steps", 1, MOST_STEPS)
        _whole(self.n, "n", 1, MOST_IMAGES)
        _whole(self.seed, "seed", 0, LARGEST_SEED)
        if self.seed + self.n - 1 > LARGEST_SEED:
            raise QueryError(f"seed = {self.seed}: the last of {self.n} images would have a seed above {LARGEST_SEED}.")
        guidance = self.guidance
        number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
        if not number or not math.isfinite(guidance) or not 0 <= guidance <= LARGEST_GUIDANCE:
            raise QueryError(f"guidance = {_brief(guidance)}: a number from 0 to {LARGEST_GUIDANCE:g} is needed.")
        object.__setattr__(self, "guidance", float(guidance))

    @classmethod
    def of(
        cls,
        spec: DiffusionModel,
        prompt: str,
        *,
        negative: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        n: int = 1,
    ) -> GenerationRequest:
        """A request with the profile's steps and guidance, and a seed that is drawn, where none are given."""
        return cls(
            prompt=prompt,
            negative=negative,
            seed=secrets.randbelow(_DRAWN_SEEDS) if seed is None else seed,
            steps=spec.steps if steps is None else steps,
            guidance=spec.guidance if guidance is None else guidance,
            n=n,
        )

    def each(self) -> Iterator[GenerationRequest]:
        """The requests of its images, one by one."""
        for offset in range(self.n):
            yield replace(self, seed=self.seed + offset, n=1)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise QueryError(f"The {what} is no text: {_brief(value)}.")
    if len(value) > LONGEST_PROMPT:
        raise QueryError(
            f"The {what} has {len(value):,} characters, and at most {LONGEST_PROMPT:,} are taken: models read the "
            "first hundred words, or few hundred."
        )
    text = value.replace("\r\n", "\n")
    if found := _FORBIDDEN.search(text):
        raise QueryError(
            f"The {what} has a control character (U+{ord(found[0]):04X}) at position {found.start()}: leave it out."
        )
    return text.strip()


def _whole(value: object, name: str, smallest: int, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        raise QueryError(f"{name} = {_brief(value)}: a whole number from {smallest} to {largest} is needed.")


def _brief(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return repr(value)[:60]
