"""What is said of an image that was placed on a release: types and their words, without anything that computes them.

Nearness is similarity, not authorship: no neighbour of an image is called what the image was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["usual", "nothing is close", "unusually close to one group", "not calibrated"]
Point = tuple[float, float, float]

USUAL: Verdict = "usual"
FAR: Verdict = "nothing is close"
COPY: Verdict = "unusually close to one group"
UNKNOWN: Verdict = "not calibrated"


@dataclass(frozen=True)
class Neighbour:
    """A group of near-duplicates of the atlas by its member nearest to the image.

    similarity: 1 for the same feature. Where features compare by cosine it is the cosine; where they compare by L2 it
    is 1 - d^2 / D^2, with D^2 the mean squared distance of two images of the atlas: 0 for two that have nothing to do
    with each other. distance: the same in the space's metric (1 - cosine, or L2). group_size: members of the group
    among the neighbours that were looked at.
    """

    id: str
    similarity: float
    distance: float
    group_size: int
    caption: str | None
    category: str | None
    url: str
    source_url: str | None
    aesthetic: float | None
    licence: str | None
    attribution: str | None


@dataclass(frozen=True)
class Share:
    """A value among the neighbours: `count` of `of` groups have it.

    field: `category`, `domain` (host of the page the image stands on, else of its address), `aesthetic` (a quarter of
    the atlas by aesthetic score), `licence` or `attribution`. lift: its share there over its share in the atlas as a
    whole; low, high: the 95 % interval of the lift (Wilson's of the share among the neighbours; that of the atlas is
    exact).
    """

    field: str
    value: str
    count: int
    of: int
    lift: float
    low: float
    high: float

    @property
    def unusual(self) -> bool:
        """Whether the interval leaves out the atlas's own share."""
        return self.low > 1.0 or self.high < 1.0


@dataclass(frozen=True)
class PossibleCopy:
    """The image of the atlas that an image's pixels correlate with best, and how.

    correlation: normalised, -1 to 1, under the alteration it is best under: mirrored, turned by `turn` degrees, then
    the part `scale` of the side of the other (negative: the other is that part of this one). chance: conformal p-value
    that a real image is as near to one that is no near-duplicate of it, or correlates as well with it: only where it is
    small is this one a possible copy. None where too few were held out to say so.
    """

    id: str
    correlation: float
    chance: float | None
    mirrored: bool
    turn: float
    scale: float


@dataclass(frozen=True)
class Placement:
    """An image on the map of one space.

    position: map units. uncertainty: standard deviation of the fitted neighbours' places around it, map units. jitter:
    standard error of the position, from leaving out halves of the neighbours, map units. trust: whether what is drawn
    around it is near in the space as well, 0 (no nearer than any two images) to 1 (as its true neighbours).
    distance: to the nearest fitted image, in the space's metric. percentile: per cent of held-out real images that are
    nearer to theirs. group_percentile: per cent of the atlas's images whose nearest image of another group is nearer
    than that, the second reference. p_value: conformal, that a real image is this far from all others, or has so little
    or so much detail. They are None where the release was not calibrated. copy: where this space finds it. behind: what
    stands behind the neighbours.
    """

    position: Point
    uncertainty: float
    jitter: float
    trust: float
    distance: float
    percentile: float | None
    group_percentile: float | None
    p_value: float | None
    verdict: Verdict
    copy: PossibleCopy | None
    neighbours: tuple[Neighbour, ...]
    behind: tuple[Share, ...]

    @property
    def sentence(self) -> str:
        """The verdict in words, with its numbers and what they cannot say."""
        return sentence(self.verdict, self.p_value, self.percentile, self.copy)


@dataclass(frozen=True)
class Placed:
    """An image on all maps of a release (version of the atlas table).

    generated_id: SHA-256 of the file, 64 hexadecimal digits; None for an image that is no file. width, height: upright,
    in pixels. placements: by space. p_value, verdict, copy: of all spaces together; agreement: share of the
    neighbouring groups that all embeddings have in common, 0 to 1, None with one embedding. behind: of the neighbours
    in any space. calibration: which measurement of what is usual the verdicts follow. vectors: the feature of each
    embedding, float16 [d].
    """

    release: int
    generated_id: str | None
    width: int
    height: int
    placements: Mapping[str, Placement]
    p_value: float | None
    agreement: float | None
    verdict: Verdict
    copy: PossibleCopy | None
    behind: tuple[Share, ...]
    calibration: str
    vectors: Mapping[str, np.ndarray] = field(repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """The verdict over all spaces in words, with its numbers and what they cannot say."""
        nearest = [place.percentile for place in self.placements.values() if place.percentile is not None]
        return sentence(self.verdict, self.p_value, min(nearest, default=None), self.copy)

    def to_dict(self) -> dict[str, Any]:
        """The placement as JSON takes it: what `latent-assets place --json` prints."""
        return {
            "generated_id": self.generated_id,
            "release": self.release,
            "width": self.width,
            "height": self.height,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "p_value": self.p_value,
            "agreement": self.agreement,
            "copy": None if self.copy is None else vars(self.copy),
            "behind": [vars(share) for share in self.behind],
            "placements": {
                space: {
                    **vars(place),
                    "position": list(place.position),
                    "sentence": place.sentence,
                    "copy": None if place.copy is None else vars(place.copy),
                    "neighbours": [vars(item) for item in place.neighbours],
                    "behind": [vars(share) for share in place.behind],
                }
                for space, place in self.placements.items()
            },
        }


def sentence(verdict: Verdict, p_value: float | None, percentile: float | None, copy: PossibleCopy | None) -> str:
    """A verdict in words, with its numbers and what they cannot say."""
    if verdict == COPY and copy is not None:
        chance = f"; {_share(copy.chance)} of real images are as near to a distinct one" if copy.chance else ""
        return (
            f"Unusually close to one group of images (possible copy of {copy.id}: pixel correlation "
            f"{copy.correlation:.3f}{chance}). Similarity shows resemblance, not where an image came from."
        )
    if verdict == FAR and p_value is not None:
        return (
            f"Nothing in the atlas is close: {_share(p_value)} of real images are as far from all others, or have so "
            "little or so much detail."
        )
    if verdict == USUAL and percentile is not None:
        return (
            f"As close to images of the atlas as real images are: {percentile:.0f} % of them are nearer to their "
            "nearest. Similarity is not authorship."
        )
    return "This release says nothing of what is usual between its images: it is too small, or not calibrated."


def _share(p_value: float) -> str:
    return f"at most {p_value:.1%}"
