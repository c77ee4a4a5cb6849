"""Making the calibration of a release: distances of its held-out images, and how far copies are from originals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from latent_assets.atlas.resident import matrix
from latent_assets.generated.placement.alterations import ALTERATIONS, halved, jpeg
from latent_assets.generated.placement.calibration import NOT_CALIBRATED, Calibration, Distances
from latent_assets.generated.placement.copies import best_copies, views
from latent_assets.generated.placement.correlation import FINE, Picture
from latent_assets.generated.placement.groups import alike, distances_to
from latent_assets.generated.placement.neighborhood import rows_of
from latent_assets.generated.placement.placing import ImagePlacer, Surroundings
from latent_assets.images.decode.image import decode_image
from latent_assets.projection.features import SpaceRecipe
from latent_assets.projection.model import MapModel
from latent_assets.projection.neighbors import Neighbors
from latent_assets.spaces import embeddings

_ALTERED = 48  # images whose altered copies are encoded
_NEIGHBORS = 64
_SAMPLE = 1_000


def calibrate(placer: ImagePlacer) -> Calibration:
    """What is usual in a release; `NOT_CALIBRATED` for one without rows or without held-out ones.

    Raises ModelError when a model of the release is not on this machine.
    """
    ids = placer.model.report["held_out"]
    if not ids:
        return NOT_CALIBRATED
    rows = rows_of(placer.table, ids, ["id", *placer.model.features, "thumbnail"])
    vectors = {name: matrix(rows[name]) for name in placer.model.features}
    images = [decode_image(file) for file in rows["thumbnail"].to_pylist()]
    radii, least = copy_radii(placer, images[:_ALTERED]), copy_correlation(images[:_ALTERED])
    details, correlations = [], []
    another: dict[str, list[float]] = {recipe.space: [] for recipe in placer.model.recipes}
    neighborhoods = placer.neighborhoods_within(radii)
    for row, (row_id, image) in enumerate(zip(rows["id"].to_pylist(), images, strict=True)):
        query = {name: values[row] for name, values in vectors.items()}
        found = placer.surroundings(neighborhoods, image, query, without=row_id)
        same, correlation = _others(found, least)
        details.append(found.detail)
        correlations.append(correlation)
        for space, near in found.near.items():
            others = near.without(near.own | np.array([item["id"] in same for item in near.rows], bool))
            another[space].append(float(others.distances[0] if len(others.distances) else near.distances[-1]))
    distances = {
        recipe.space: usual_distances(placer.model, recipe, vectors, np.array(another[recipe.space]), radii)
        for recipe in placer.model.recipes
    }
    return Calibration(radii, least, distances, np.array(details), np.array(correlations))


def usual_distances(
    model: MapModel,
    recipe: SpaceRecipe,
    held_out: Mapping[str, np.ndarray],
    other: np.ndarray,
    radii: Mapping[str, float],
) -> Distances:
    """Distances in a space of fitted rows, and of `held_out` vectors float [h, d] by embedding, to fitted ones.

    other: float64 [h], those of held-out images to rows of the release that are no near-duplicates of them.
    """
    placer = model.placers[recipe.space]
    index = placer.index
    sample = np.unique(np.linspace(0, len(index) - 1, min(len(index), _SAMPLE)).astype(np.int64))
    among = index.search(placer.points.rows(sample), min(_NEIGHBORS, len(index) - 1), exclude=sample)
    found = index.search(recipe.features(held_out), 1)
    fitted = {name: values[sample] for name, values in model.vectors.items()}
    return Distances(
        nearest=found.distances[:, 0].astype(np.float32).astype(np.float64),  # as a placement tells them
        other=other,
        apart=np.sort(_to_another(model, fitted, among, radii)),
    )


def _to_another(
    model: MapModel, queries: Mapping[str, np.ndarray], found: Neighbors, radii: Mapping[str, float]
) -> np.ndarray:
    """Of each query the distance to its nearest neighbour that is no near-duplicate; to its last where all are."""
    distances = found.distances[:, -1].copy()
    for row, near in enumerate(found.indices):
        query = {name: values[row][None] for name, values in queries.items()}
        same = alike({name: values[near] for name, values in model.vectors.items()}, query, radii)[:, 0]
        if not same.all():
            distances[row] = found.distances[row, np.argmin(same)]
    return distances


def _others(found: Surroundings, least: float) -> tuple[set[str], float]:
    """The rows that correlate with an image as its copies do, and the best correlation of another one."""
    same: set[str] = set()
    matches = found.matches
    while matches:
        for row_id, match in matches:
            if match.correlation < least:
                return same, match.correlation
            same.add(row_id)
        left = {row_id: picture for row_id, picture in found.candidates.items() if row_id not in same}
        matches = best_copies(found.pictures, left)
    return same, 0.0


def copy_correlation(images: Sequence[Image.Image]) -> float:
    """The correlation that 95 % of altered copies, of each kind, have with their originals at least; 1 without any."""
    rng = np.random.default_rng(0)
    originals = [{"": Picture(image, FINE)} for image in images]
    least = 1.0
    for alter in ALTERATIONS.values() if images else ():
        found = []
        for image, original in zip(images, originals, strict=True):
            pictures = {view.inside: Picture(view.image) for view in views(alter(image, rng))}
            found += [match.correlation for _, match in best_copies(pictures, original)]
        least = min(least, float(np.quantile(found, 0.05)))
    return least


def copy_radii(placer: ImagePlacer, images: Sequence[Image.Image]) -> dict[str, float]:
    """By embedding how far altered copies of pictures are from their originals: 95 % of copies are within all."""
    copies = [altered_copies(image) for image in images]
    each = len(copies[0])
    encoded = placer.encode([image for altered in copies for image in altered])
    apart = {}
    for name in placer.model.features:
        vectors = np.stack([item[name] for item in encoded]).reshape(len(copies), each, -1)
        metric = embeddings()[name].metric
        apart[name] = np.concatenate([distances_to(one[0], one[1:], metric) for one in vectors])
    return common_radii(apart)


def common_radii(apart: Mapping[str, np.ndarray], share: float = 0.95) -> dict[str, float]:
    """The radius of each embedding such that at least `share` of copies are within all of them: the same quantile of
    each, the least that does. apart: by embedding the distances float [n] of the same copies."""
    columns = [np.asarray(distances, np.float64) for distances in apart.values()]
    ranks = np.max([np.searchsorted(np.sort(column), column, side="left") for column in columns], axis=0)
    last = int(np.sort(ranks)[max(0, int(np.ceil(share * len(ranks))) - 1)])
    return {name: float(np.sort(distances)[last]) for name, distances in apart.items()}


def altered_copies(image: Image.Image) -> list[Image.Image]:
    """A picture and copies that are hardly altered: a poor JPEG, half the size, a border cut off."""
    rng = np.random.default_rng(0)
    width, height = image.size
    cut = image.crop((width // 40, height // 40, width - width // 40, height - height // 40))
    return [image, jpeg(image, rng), halved(image, rng), cut]
