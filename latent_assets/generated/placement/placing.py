"""Where an image that is not in the atlas falls: its place on every map, what is near, and how near that is.

What is said of it is in `placed`; how near real images are to each other in `calibration`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.table import LIVE, open_table
from latent_assets.embeddings.encoding import encode_images
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.generated.placement.background import Background
from latent_assets.generated.placement.calibration import (
    LEVEL,
    NOT_CALIBRATED,
    Calibration,
    read_calibration,
)
from latent_assets.generated.placement.copies import Match, Picture, best_copy
from latent_assets.generated.placement.neighborhood import Near, Neighborhoods
from latent_assets.generated.placement.placed import COPY, FAR, UNKNOWN, USUAL, Placed, Placement, PossibleCopy, Verdict
from latent_assets.images.decode.image import decode_image, store_image
from latent_assets.layout import calibration_name
from latent_assets.projection.model import load_model
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from lancedb.table import LanceTable
    from PIL import Image

    from latent_assets.images.decode.image import StoredImage
    from latent_assets.models.encoder import Encoder
    from latent_assets.profile import Fetch
    from latent_assets.projection.model import MapModel
    from latent_assets.projection.placement import Placement as Located
    from latent_assets.storage import Storage

_CANDIDATES = 8  # groups of each space whose pictures are compared
_SHOWN = 12  # groups
_SAME = 0.9  # correlation from which two pictures may be versions of one
_GPU_BATCH = 16

Vectors = Mapping[str, np.ndarray]


class ImagePlacer:
    """Places images on the maps of one release. Models load at the first image; methods may be called from threads."""

    def __init__(self, storage: Storage, table: LanceTable) -> None:
        self._storage, self.table = storage, table
        self.version = int(table.version)
        self.info = ReleaseInfo.of_schema(table.schema, storage.lance_uri)

    @classmethod
    def open(cls, storage: Storage, release: int | str = LIVE) -> ImagePlacer:
        """The placer of a release: a tag or a version. Raises NotBuiltError when it is not there."""
        return cls(storage, open_table(storage.lance_uri, release))

    # -- what it works with --------------------------------------------------------------------------

    @cached_property
    def model(self) -> MapModel:
        """The fitted maps. Raises NotBuiltError when there are none, or they have no rows."""
        found = load_model(self._storage, self.info.projection)
        if not found.ids:
            raise NotBuiltError(f"The atlas {self.info.profile} has no rows: nothing can be placed on its maps.")
        return found

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """The models of the embeddings that the maps are made from."""
        return {name: self.info.load_encoder(name) for name in self.model.features}

    @cached_property
    def calibration(self) -> Calibration:
        """What is usual in the release; `NOT_CALIBRATED` where that was not measured."""
        key = calibration_key(self.info)
        return read_calibration(self._storage, key) if self._storage.exists(calibration_name(key)) else NOT_CALIBRATED

    @cached_property
    def background(self) -> Background:
        """What stands behind the images of the release as a whole."""
        return Background.of(self.table)

    @cached_property
    def neighborhoods(self) -> Neighborhoods:
        """Finds what is near."""
        return Neighborhoods(self.table, self.info, self.model, self.calibration.radii)

    # -- placing -------------------------------------------------------------------------------------

    def encode(self, images: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
        """The feature float16 [d] of each RGB image (as `decode_as_stored` gives it) for every embedding of the maps.

        Every batch has the same shape (one image on a CPU): vectors do not depend on the company of an image.
        """
        found: list[dict[str, np.ndarray]] = [{} for _ in images]
        for name, encoder in self.encoders.items():
            feature = self.model.features[name]
            for start, values in _batches(encoder, images, feature):
                for offset, vector in enumerate(values):
                    found[start + offset][name] = vector
        return found

    def locate(self, vectors: Sequence[Vectors]) -> dict[str, Located]:
        """The places of images, by space; bit for bit the same alone and in company."""
        columns = {name: np.stack([item[name] for item in vectors]) for name in self.model.features}
        return {
            recipe.space: self.model.placers[recipe.space].place(recipe.features(columns))
            for recipe in self.model.recipes
        }

    def place_file(self, data: bytes, limits: Fetch | None = None) -> Placed:
        """Where the image in a file falls, decoded and sized as the images of the release were.

        Raises FetchError when it is no image, or beyond `limits` (`max_bytes`, `max_pixels`; default: those the release
        was made with), ModelError when a model of the release is not on this machine.
        """
        settings = self.info.how_stored
        if limits is not None:
            settings = settings.model_copy(update={"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels})
        return self.place_stored(store_image(data, settings))

    def place_stored(self, stored: StoredImage) -> Placed:
        """Where an image falls that was stored as those of the release were."""
        placed = self.place(decode_image(stored.data))
        return replace(placed, generated_id=stored.sha256, width=stored.width, height=stored.height)

    def place(self, image: Image.Image, vectors: Vectors | None = None) -> Placed:
        """Where `image` (RGB, as `decode_as_stored` gives it) falls and what is near.

        `vectors`: what `encode` gave of it, where that is known already. Raises ModelError when a model of the release
        is not on this machine.
        """
        return self.place_all([image], None if vectors is None else [vectors])[0]

    def place_all(self, images: Sequence[Image.Image], vectors: Sequence[Vectors] | None = None) -> list[Placed]:
        """`place` of several images."""
        if not images:
            return []
        found = vectors if vectors is not None else self.encode(images)
        located = self.locate(found)
        return [self._placed(images[row], found[row], located, row) for row in range(len(images))]

    def _placed(self, image: Image.Image, vectors: Vectors, located: Mapping[str, Located], row: int) -> Placed:
        picture, near = Picture(image), self.neighborhoods.around(vectors)
        distances = {space: float(found.distance[row]) for space, found in located.items()}
        copy = self._possible_copy(picture, near)
        shown = {space: found.leaders(_SHOWN) for space, found in near.items()}
        p_value = self._p_value(distances, picture)
        return Placed(
            release=self.version,
            generated_id=None,
            width=image.width,
            height=image.height,
            placements={
                space: self._placement(space, found, row, near[space], picture, copy)
                for space, found in located.items()
            },
            p_value=p_value,
            agreement=_agreement([_ids(shown[space]) for space in self._single]),
            verdict=_verdict(p_value, copy),
            copy=copy,
            behind=self.background.behind(
                list({item["id"]: item for rows in shown.values() for item in rows}.values())
            ),
            calibration=self.calibration.version,
            vectors=vectors,
        )

    def _placement(
        self, space: str, located: Located, row: int, near: Near, picture: Picture, copy: PossibleCopy | None
    ) -> Placement:
        x, y, z = (float(value) for value in located.coords[row])
        distance = float(located.distance[row])
        usual = self.calibration.distances.get(space)
        p_value = self._p_value({space: distance}, picture)
        if copy is not None:
            here = copy.id in _ids(near.leaders(_CANDIDATES))
            copy = replace(copy, chance=self._chance({space: near}, copy.correlation)) if here else None
        return Placement(
            position=(x, y, z),
            uncertainty=float(located.spread[row]),
            jitter=float(located.jitter[row]),
            trust=float(located.trust[row]),
            distance=distance,
            percentile=usual.percentile(distance) if usual else None,
            group_percentile=usual.group_percentile(distance) if usual else None,
            p_value=p_value,
            verdict=_verdict(p_value, copy),
            copy=copy,
            neighbours=near.neighbours(_SHOWN),
            behind=self.background.behind(near.leaders(_SHOWN)),
        )

    def _possible_copy(self, picture: Picture, near: Mapping[str, Near]) -> PossibleCopy | None:
        """The neighbour whose pixels correlate best, and how unusual that is; None when none does well."""
        best = best_match(picture, near, self.neighborhoods)
        if best is None or best[1].correlation < _SAME:
            return None
        row_id, match = best
        chance = self._chance(near, match.correlation)
        return PossibleCopy(row_id, match.correlation, chance, **vars(match.alteration))

    def _p_value(self, distances: Mapping[str, float], picture: Picture) -> float | None:
        known = self.calibration.distances.keys() >= distances.keys()
        return self.calibration.p_value(distances, picture.detail) if known else None

    def _chance(self, near: Mapping[str, Near], correlation: float) -> float | None:
        distances = {space: float(found.distances[0]) for space, found in near.items()}
        known = self.calibration.distances.keys() >= distances.keys()
        return self.calibration.chance(distances, correlation) if known else None

    @cached_property
    def _single(self) -> list[str]:
        """The spaces of one embedding."""
        return [recipe.space for recipe in self.model.recipes if len(recipe.blocks) == 1]


def calibration_key(info: ReleaseInfo) -> str:
    """Fingerprint of the usual distances of a release: its maps, models and rows decide them."""
    digests = {name: model.digest for name, model in info.models.items()}
    return fingerprint("calibration", 4, info.fingerprint, info.projection, digests)


def _batches(encoder: Encoder, images: Sequence[Image.Image], feature: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float16 [n, d]) of batches of one shape, the last filled up."""
    size = 1 if encoder.device.type == "cpu" else _GPU_BATCH
    for start in range(0, len(images), size):
        batch = list(images[start : start + size])
        values = encode_images(encoder, batch + [batch[-1]] * (size - len(batch)))[feature][: len(batch)]
        if not np.isfinite(values).all():
            raise DataError("A model gave a vector with values that are not finite: the image cannot be placed.")
        yield start, values


def best_match(picture: Picture, near: Mapping[str, Near], neighborhoods: Neighborhoods) -> tuple[str, Match] | None:
    """The neighbour (by id) whose pixels correlate best with a picture's; None without neighbours."""
    rows = [row for found in near.values() for row in found.leaders(_CANDIDATES)]
    thumbnails = neighborhoods.thumbnails(rows)
    return best_copy(picture, {row_id: Picture(decode_image(file)) for row_id, file in thumbnails.items()})


def _ids(rows: Sequence[Mapping[str, object]]) -> set[object]:
    return {row["id"] for row in rows}


def _agreement(shown: Sequence[set[object]]) -> float | None:
    """Share of the near images that all embeddings name."""
    if len(shown) < 2:
        return None
    return len(set.intersection(*shown)) / max(1, min(map(len, shown)))


def _verdict(p_value: float | None, copy: PossibleCopy | None) -> Verdict:
    if p_value is None:
        return UNKNOWN
    if copy is not None and copy.chance is not None and copy.chance <= LEVEL:
        return COPY
    return FAR if p_value <= LEVEL else USUAL
