"""Where an image falls, as the API says it. The placing itself is the business of `generated`.

The one place that knows how `generated` hands out what it found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latent_assets.generated.placing import Placed, Similar
from latent_assets.images.decode.image import decode_image, store_image
from latent_assets.service.answers import (
    Behind,
    NeighbourGroup,
    PlaceAnswer,
    PlacementAnswer,
    PossibleCopyAnswer,
)
from latent_assets.service.looking import thumbnail_address
from latent_assets.service.releases import OpenRelease

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class PlacedImage:
    """An image that was placed on a release: its file's hash, its upright size in pixels, and where it falls."""

    sha256: str
    width: int
    height: int
    placed: Placed


def place(release: OpenRelease, data: bytes, max_pixels: int) -> PlacedImage:
    """Place an image file as the Dagster asset does: the same pixels, encoded alone, the same maps.

    Raises FetchError for what is no image or has more than `max_pixels`.
    """
    picture, width, height = picture_of(release, data, max_pixels)
    return PlacedImage(hashlib.sha256(data).hexdigest(), width, height, release.placer.place(picture))


def picture_of(release: OpenRelease, data: bytes, max_pixels: int) -> tuple[Image.Image, int, int]:
    """An image as the encoders of the release are shown it, and its own upright size in pixels."""
    settings = release.atlas.info.how_stored.model_copy(update={"max_pixels": max_pixels})
    stored = store_image(data, settings)
    return decode_image(stored.data), stored.width, stored.height


def answer(release: OpenRelease, found: PlacedImage, kept: bool) -> PlaceAnswer:
    """What the API says of a placed image."""
    placed = found.placed
    return PlaceAnswer(
        generated_id=found.sha256,
        release=placed.release,
        width=found.width,
        height=found.height,
        kept=kept,
        placements={space: _placement(release, placed, space) for space in placed.places},
        agreement=placed.agreement,
        p_value=_p_value(placed, list(placed.nearness)),
        **_judged(release, placed),
    )


def positions(placed: Placed) -> dict[str, tuple[float, float, float]]:
    """The place on each map."""
    return {space: place.xyz for space, place in placed.places.items()}


def _placement(release: OpenRelease, placed: Placed, space: str) -> PlacementAnswer:
    recipe = next(recipe for recipe in release.placer.model.recipes if recipe.space == space)
    names = [block.embedding for block in recipe.blocks]
    near = [placed.nearness[name] for name in names]
    percentiles = [found.percentile for found in near if found.percentile is not None]
    groups = {similar.id: _group(release, similar, found.metric) for found in near for similar in found.similar}
    return PlacementAnswer(
        position=placed.places[space].xyz,
        uncertainty=placed.places[space].spread,
        p_value=_p_value(placed, names),
        percentile=max(percentiles, default=None),
        neighbours=list(groups.values()),
        **_judged(release, placed),
    )


def _p_value(placed: Placed, embeddings: Sequence[str]) -> float | None:
    """Of several questions: Bonferroni keeps the level for all of them together."""
    values = [value for name in embeddings if (value := placed.nearness[name].far) is not None]
    return min(1.0, min(values) * len(values)) if values else None


def _judged(release: OpenRelease, placed: Placed) -> dict[str, Any]:
    copy = placed.copy
    found = None
    if copy is not None:
        alteration = copy.match.alteration
        found = PossibleCopyAnswer(
            id=copy.id,
            correlation=copy.match.correlation,
            chance=None,
            mirrored=alteration.mirrored,
            turn=alteration.turn,
            scale=alteration.scale,
            thumbnail=thumbnail_address(copy.id, release.version),
        )
    behind = [
        Behind(
            field=share.kind,
            value=share.value,
            count=share.count,
            of=share.of,
            lift=share.lift,
            low=share.lower,
            high=share.upper,
        )
        for share in placed.behind
    ]
    return {"verdict": placed.verdict, "sentence": placed.explanation, "copied": found, "behind": behind}


def _group(release: OpenRelease, similar: Similar, metric: str) -> NeighbourGroup:
    return NeighbourGroup(
        **{name: getattr(similar, name) for name in ("id", "caption", "category", "url", "source_url", "distance")},
        similarity=1.0 - similar.distance if metric == "cosine" else 1.0 / (1.0 + similar.distance),
        group_size=similar.size,
        thumbnail=thumbnail_address(similar.id, release.version),
    )
