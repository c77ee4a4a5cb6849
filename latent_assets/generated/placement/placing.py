"""Where an image that is not in the atlas falls: its place on every map, what is near, and how near that is.

Nearness is similarity, not authorship: nothing here says that an image was made from another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.table import LIVE, nearest, open_table
from latent_assets.embeddings.encoding import encode_images
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.generated.placement.background import Background, Share
from latent_assets.generated.placement.calibration import LEVEL, NOT_CALIBRATED, Calibration, read_calibration
from latent_assets.generated.placement.copies import Match, Picture
from latent_assets.generated.placement.groups import distances_to, near_duplicates
from latent_assets.images.decode.image import decode_image
from latent_assets.layout import calibration_name
from latent_assets.projection.model import load_model
from latent_assets.projection.neighbors import ExactIndex, unit
from latent_assets.spaces import embeddings as registered
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from lancedb.table import LanceTable
    from PIL import Image

    from latent_assets.models.encoder import Encoder
    from latent_assets.projection.model import MapModel
    from latent_assets.storage import Storage

Verdict = Literal["usual", "nothing is close", "unusually close to one group", "not calibrated"]

_NEIGHBORS = 48  # rows of the atlas that are looked at around an image, copies of one another among them
_MORE = 16  # asked for beyond that: equal distances are ordered by id, which a search does not do
_SHOWN = 12  # groups
_CANDIDATES = 8  # groups of each embedding whose pictures are compared
_SAME = 0.9  # correlation from which two pictures are taken for versions of one
_GPU_BATCH = 16
_FACTS = ("id", "caption", "category", "url", "source_url", "thumbnail")

Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SpacePlace:
    """A place on the map of a space, map units. spread: standard deviation of the neighbours' places around it."""

    xyz: tuple[float, float, float]
    spread: float


@dataclass(frozen=True)
class Similar:
    """A group of copies of one picture among the neighbours, by its nearest member.

    distance: in the embedding's metric (1 - cosine, or L2). size: members among the neighbours that were looked at.
    """

    id: str
    distance: float
    size: int
    caption: str | None
    category: str | None
    url: str
    source_url: str | None


@dataclass(frozen=True)
class Nearness:
    """What is near in one embedding.

    distance: to the nearest fitted image. percentile: per cent of held-out real images that are nearer to theirs.
    far: conformal p-value that a real image is this far from all; close: that one is this near to what is no copy of
    it (`calibration.Distances`). None where the release was not calibrated.
    """

    metric: str
    similar: tuple[Similar, ...]
    distance: float
    percentile: float | None
    far: float | None
    close: float | None


@dataclass(frozen=True)
class PossibleCopy:
    """The picture of the atlas that an image correlates with best, and under which alteration of it."""

    id: str
    match: Match


@dataclass(frozen=True)
class Placed:
    """An image on the maps of a release (version of the table).

    vectors: the feature of each embedding, float16 [d]. places: by space. nearness: by embedding. odd: conformal
    p-value that a real image has so little or so much detail. agreement: share of the near groups that two embeddings
    have in common, 0 to 1; None with one embedding. behind: what is commoner among the neighbours than in the atlas.
    """

    release: int
    vectors: Vectors
    places: Mapping[str, SpacePlace]
    nearness: Mapping[str, Nearness]
    odd: float | None
    agreement: float | None
    copy: PossibleCopy | None
    behind: tuple[Share, ...]
    verdict: Verdict

    @property
    def explanation(self) -> str:
        """The verdict in one sentence, with its numbers and what they cannot say."""
        if self.verdict == "not calibrated":
            return "This release says nothing of what is usual between its images: it is too small, or not calibrated."
        if self.verdict == "nothing is close":
            far = min(found.far for found in self.nearness.values() if found.far is not None)
            if self.odd is not None and self.odd < far:
                return (
                    f"Nothing in the atlas is like this: at most {self.odd:.1%} of real images have so little or so "
                    "much detail."
                )
            return (
                f"Nothing in the atlas is close: at most {far:.1%} of real images are this far from all others in one "
                "of its embeddings."
            )
        if self.verdict == "unusually close to one group":
            assert self.copy is not None
            return (
                f"Unusually close to one group of images (possible copy of {self.copy.id}, pixel correlation "
                f"{self.copy.match.correlation:.2f}). Similarity shows resemblance, not where an image came from."
            )
        return "As close to images of the atlas as real images are. Similarity is not authorship."


class ImagePlacer:
    """Places images on the maps of one release. Models load at the first image; methods may be called from threads."""

    def __init__(self, storage: Storage, table: LanceTable) -> None:
        self._storage, self._table = storage, table
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
        """Shares of categories and sites in the release."""
        return Background.of(self._table)

    @cached_property
    def _fitted(self) -> dict[str, ExactIndex]:
        found = {}
        for name, points in self.model.vectors.items():
            metric = registered()[name].metric
            values = np.asarray(points, np.float32)
            found[name] = ExactIndex(unit(values) if metric == "cosine" else values, metric)
        return found

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Columns of the rows `ids` of the release that are there, in the order of `ids`."""
        every = self._table.search().select(["id"]).limit(None).to_arrow()["id"].combine_chunks()
        at = pc.index_in(pa.array(ids, pa.string()), value_set=every).drop_null()
        return self._table.take_offsets(at.to_pylist()).select(list(columns)).to_arrow()

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

    def locate(self, vectors: Sequence[Vectors]) -> list[dict[str, SpacePlace]]:
        """The places of images, by space; bit for bit the same alone and in company."""
        if not vectors:
            return []
        columns = {name: np.stack([item[name] for item in vectors]) for name in self.model.features}
        found: list[dict[str, SpacePlace]] = [{} for _ in vectors]
        for recipe in self.model.recipes:
            placed = self.model.placers[recipe.space].place(recipe.features(columns))
            for row, places in enumerate(found):
                x, y, z = (float(value) for value in placed.coords[row])
                places[recipe.space] = SpacePlace((x, y, z), float(placed.spread[row]))
        return found

    def place(self, image: Image.Image, vectors: Vectors | None = None) -> Placed:
        """Where `image` falls and what is near. `vectors`: what `encode` gave of it, where that is known already.

        Raises ModelError when a model of the release is not on this machine.
        """
        found = vectors if vectors is not None else self.encode([image])[0]
        return self._placed(image, found, self.locate([found])[0])

    def place_all(self, images: Sequence[Image.Image], vectors: Sequence[Vectors] | None = None) -> list[Placed]:
        """`place` of several images."""
        found = vectors if vectors is not None else self.encode(images)
        located = self.locate(found)
        return [self._placed(i, v, p) for i, v, p in zip(images, found, located, strict=True)]

    def _placed(self, image: Image.Image, vectors: Vectors, places: Mapping[str, SpacePlace]) -> Placed:
        near = {name: self._near(name, vectors[name]) for name in self.model.features}
        nearness = {name: self._nearness(name, vectors[name], rows) for name, rows in near.items()}
        picture = Picture(image)
        copy, odd = self._copy(picture, near), self.calibration.odd(picture.detail)
        shown = {name: [item.id for item in found.similar] for name, found in nearness.items()}
        facts = {row["id"]: row for rows in near.values() for row in rows.facts}
        behind = self.background.behind(
            [facts[row_id] for row_id in dict.fromkeys(chain.from_iterable(shown.values()))]
        )
        verdict = _verdict(nearness, odd, copy)
        return Placed(self.version, vectors, places, nearness, odd, _agreement(shown), copy, behind, verdict)

    def _near(self, embedding: str, vector: np.ndarray) -> _Near:
        """The nearest rows of the release, in an order that a rebuilt index does not change."""
        metric = self.info.metrics[embedding]
        search = nearest(self._table, embedding, metric, vector, _NEIGHBORS + _MORE)
        found = search.select([*_FACTS, embedding, "_distance"]).to_arrow()
        points = matrix(found[embedding])
        distances = distances_to(vector, points, registered()[embedding].metric)
        ids = np.array(found["id"].to_pylist())
        order = np.lexsort((ids, distances))[:_NEIGHBORS]
        facts = found.select(list(_FACTS)).take(order).to_pylist()
        usual = self.calibration.distances.get(embedding)
        radius = usual.radius if usual else 0.0
        groups = near_duplicates(points[order], radius, registered()[embedding].metric)
        return _Near(facts, distances[order], groups)

    def _nearness(self, embedding: str, vector: np.ndarray, near: _Near) -> Nearness:
        index = self._fitted[embedding]
        query = np.atleast_2d(np.asarray(vector, np.float32))
        distance = float(index.search(unit(query) if index.metric == "cosine" else query, 1).distances[0, 0])
        usual = self.calibration.distances.get(embedding)
        return Nearness(
            metric=self.info.metrics[embedding],
            similar=tuple(near.similar()),
            distance=distance,
            percentile=usual.percentile(distance) if usual else None,
            far=usual.far(distance) if usual else None,
            close=usual.close(distance) if usual else None,
        )

    def _copy(self, picture: Picture, near: Mapping[str, _Near]) -> PossibleCopy | None:
        """The candidate whose pixels correlate best; None when none does well."""
        candidates = {row["id"]: row["thumbnail"] for found in near.values() for row in found.leaders(_CANDIDATES)}
        best: PossibleCopy | None = None
        for row_id, thumbnail in sorted(candidates.items()):
            match = picture.best_match(Picture(decode_image(thumbnail)))
            if match.correlation >= _SAME and (best is None or match.correlation > best.match.correlation):
                best = PossibleCopy(row_id, match)
        return best


@dataclass(frozen=True)
class _Near:
    """Neighbours in order: their facts, distances and groups of copies."""

    facts: list[dict[str, Any]]
    distances: np.ndarray
    groups: np.ndarray

    def leaders(self, count: int) -> list[dict[str, Any]]:
        """The nearest member of each of the first groups."""
        firsts = np.unique(self.groups, return_index=True)[1][:count]
        return [self.facts[row] for row in firsts]

    def similar(self) -> list[Similar]:
        sizes = np.bincount(self.groups) if len(self.groups) else np.zeros(0, int)
        firsts = np.unique(self.groups, return_index=True)[1][:_SHOWN]
        return [
            Similar(
                distance=float(self.distances[row]),
                size=int(sizes[self.groups[row]]),
                **{name: self.facts[row][name] for name in ("id", "caption", "category", "url", "source_url")},
            )
            for row in firsts
        ]


def calibration_key(info: ReleaseInfo) -> str:
    """Fingerprint of the usual distances of a release: its maps, models and rows decide them."""
    digests = {name: model.digest for name, model in info.models.items()}
    return fingerprint("calibration", 1, info.fingerprint, info.projection, digests)


def _batches(encoder: Encoder, images: Sequence[Image.Image], feature: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float16 [n, d]) of batches of one shape, the last filled up."""
    size = 1 if encoder.device.type == "cpu" else _GPU_BATCH
    for start in range(0, len(images), size):
        batch = list(images[start : start + size])
        values = encode_images(encoder, batch + [batch[-1]] * (size - len(batch)))[feature][: len(batch)]
        if not np.isfinite(values).all():
            raise DataError("A model gave a vector with values that are not finite: the image cannot be placed.")
        yield start, values


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as an array [n, d]."""
    values = column.combine_chunks()
    found: np.ndarray = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.type.list_size)
    return found


def _agreement(shown: Mapping[str, Sequence[str]]) -> float | None:
    """Share of the near images that all embeddings name."""
    if len(shown) < 2:
        return None
    sets = [set(ids) for ids in shown.values()]
    return len(set.intersection(*sets)) / max(1, min(map(len, sets)))


def _verdict(nearness: Mapping[str, Nearness], odd: float | None, copy: PossibleCopy | None) -> Verdict:
    far = [found.far for found in nearness.values()]
    questions = [value for value in (*far, odd) if value is not None]
    if len(questions) <= len(far):
        return "not calibrated"
    # one of several questions: Bonferroni keeps the level for all of them together
    if min(questions) * len(questions) <= LEVEL:
        return "nothing is close"
    if copy is not None and min(found.close for found in nearness.values() if found.close is not None) <= LEVEL:
        return "unusually close to one group"
    return "usual"
