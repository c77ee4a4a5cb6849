"""Making the calibration of a release: distances of its held-out images, and how far copies are from originals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from latent_assets.generated.placement.calibration import NOT_CALIBRATED, Calibration, Distances
from latent_assets.generated.placement.copies import Picture
from latent_assets.generated.placement.groups import alike, distances_to
from latent_assets.generated.placement.neighborhood import Neighborhoods, matrix, rows_of
from latent_assets.generated.placement.placing import ImagePlacer, best_match
from latent_assets.images.decode.image import decode_image
from latent_assets.projection.features import SpaceRecipe
from latent_assets.projection.model import MapModel
from latent_assets.projection.neighbors import Neighbors
from latent_assets.spaces import Metric, embeddings

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
    radii = copy_radii(placer, rows["thumbnail"].to_pylist()[:_ALTERED])
    details, correlations = [], []
    another: dict[str, list[float]] = {recipe.space: [] for recipe in placer.model.recipes}
    neighborhoods = Neighborhoods(placer.table, placer.info, placer.model, radii)
    for row, (row_id, file) in enumerate(zip(rows["id"].to_pylist(), rows["thumbnail"].to_pylist(), strict=True)):
        picture = Picture(decode_image(file))
        near = neighborhoods.around({name: values[row] for name, values in vectors.items()}, without=row_id)
        others = {space: found.others() for space, found in near.items()}
        match = best_match(picture, others, neighborhoods)
        details.append(picture.detail)
        correlations.append(match[1].correlation if match else 0.0)
        for space, found in others.items():
            another[space].append(float(found.distances[0] if len(found.distances) else near[space].distances[-1]))
    distances = {
        recipe.space: usual_distances(placer.model, recipe, vectors, np.array(another[recipe.space]), radii)
        for recipe in placer.model.recipes
    }
    return Calibration(radii, distances, np.array(details), np.array(correlations))


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


def copy_radii(placer: ImagePlacer, thumbnails: Sequence[bytes]) -> dict[str, float]:
    """By embedding how far altered copies of pictures (files) are from their originals: the 95th percentile."""
    copies = [altered_copies(file) for file in thumbnails]
    each = len(copies[0])
    encoded = placer.encode([image for images in copies for image in images])
    found = {}
    for name in placer.model.features:
        vectors = np.stack([item[name] for item in encoded]).reshape(len(copies), each, -1)
        metric = embeddings()[name].metric
        found[name] = copy_radius(vectors[:, 0], [vectors[:, number] for number in range(1, each)], metric)
    return found


def copy_radius(originals: np.ndarray, copies: Sequence[np.ndarray], metric: Metric) -> float:
    """How far altered copies are from their originals: the 95th percentile; 0 without any.

    originals: vectors float [n, d]; copies: the vectors of each alteration in the same order.
    """
    apart = [
        distances_to(original, altered[row][None], metric)[0]
        for altered in copies
        for row, original in enumerate(originals)
    ]
    return float(np.quantile(apart, 0.95)) if apart else 0.0


def altered_copies(thumbnail: bytes) -> list[Image.Image]:
    """A picture (a file) and copies as they are met: a poor JPEG, half the size, a border cut off."""
    image = decode_image(thumbnail)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    width, height = image.size
    smaller = image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS)
    cut = image.crop((width // 40, height // 40, width - width // 40, height - height // 40))
    return [image, decode_image(buffer.getvalue()), smaller, cut]
