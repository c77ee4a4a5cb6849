"""Where an image falls, as the API says it. The placing itself is the business of `generated`.

The one place that knows how `generated` hands out what it found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from latent_assets.service.answers import (
    Behind,
    NeighbourGroup,
    PlaceAnswer,
    PlacementAnswer,
    PossibleCopyAnswer,
)

if TYPE_CHECKING:
    from latent_assets.generated.placement.placed import Neighbour, Placed, Placement, Share


def thumbnail_address(row_id: str, release: int) -> str:
    """Where the thumbnail of a row is; of a release, so that it never changes."""
    return f"/api/images/{row_id}/thumbnail?release={release}"


def answer(placed: Placed, generated_id: str, kept: bool) -> PlaceAnswer:
    """What the API says of an image that was placed. generated_id: SHA-256 of its file."""
    return PlaceAnswer(
        generated_id=generated_id,
        release=placed.release,
        width=placed.width,
        height=placed.height,
        kept=kept,
        placements={space: _placement(placed.release, found) for space, found in placed.placements.items()},
        agreement=placed.agreement,
        **_judged(placed, placed.release),
    )


def groups(neighbours: Iterable[Neighbour], release: int) -> list[NeighbourGroup]:
    """Groups of near-duplicates, nearest first."""
    return [NeighbourGroup(**vars(item), thumbnail=thumbnail_address(item.id, release)) for item in neighbours]


def _placement(release: int, found: Placement) -> PlacementAnswer:
    return PlacementAnswer(
        position=found.position,
        uncertainty=found.uncertainty,
        jitter=found.jitter,
        trust=found.trust,
        distance=found.distance,
        percentile=found.percentile,
        group_percentile=found.group_percentile,
        neighbours=groups(found.neighbours, release),
        **_judged(found, release),
    )


def _judged(found: Placed | Placement, release: int) -> dict[str, Any]:
    copy = found.copy
    return {
        "p_value": found.p_value,
        "verdict": found.verdict,
        "sentence": found.sentence,
        "copied": None
        if copy is None
        else PossibleCopyAnswer(**vars(copy), thumbnail=thumbnail_address(copy.id, release)),
        "behind": [_behind(share) for share in found.behind],
    }


def _behind(share: Share) -> Behind:
    return Behind(**vars(share), unusual=share.unusual)
