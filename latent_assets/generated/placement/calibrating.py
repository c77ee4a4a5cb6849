"""Making the calibration of a release: distances of its held-out images, and how far copies are from originals."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from latent_assets.generated.placement.calibration import NOT_CALIBRATED, Calibration, Distances
from latent_assets.generated.placement.copies import Picture
from latent_assets.generated.placement.groups import distances_to
from latent_assets.generated.placement.neighborhood import Neighborhoods, matrix, rows_of
from latent_assets.generated.placement.placing import ImagePlacer, best_match
from latent_assets.images.decode.image import decode_image
from latent_assets.projection.neighbors import ExactIndex, Neighbors
from latent_assets.spaces import Metric

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
    distances = {}
    for recipe in placer.model.recipes:
        index = placer.model.placers[recipe.space].index
        distances[recipe.space] = usual_distances(index, recipe.features(vectors), radii[recipe.space])
    details, correlations = [], []
    neighborhoods = Neighborhoods(placer.table, placer.info, placer.model, radii)
    for row, (row_id, file) in enumerate(zip(rows["id"].to_pylist(), rows["thumbnail"].to_pylist(), strict=True)):
        picture = Picture(decode_image(file))
        near = neighborhoods.around({name: values[row] for name, values in vectors.items()}, without=row_id)
        others = {space: found.beyond(radii[space]) for space, found in near.items()}
        match = best_match(picture, others, neighborhoods)
        details.append(picture.detail)
        correlations.append(match[1].correlation if match else 0.0)
    return Calibration(distances, np.array(details), np.array(correlations))


def usual_distances(index: ExactIndex, held_out: np.ndarray, radius: float) -> Distances:
    """Distances of a space's fitted rows (`index`), and of `held_out` float [h, d] features, to fitted ones."""
    none = np.zeros(0)
    if len(index) < 2:
        return Distances(index.metric, radius, none, none, none)
    sample = np.unique(np.linspace(0, len(index) - 1, min(len(index), _SAMPLE)).astype(np.int64))
    among = index.search(index.points[sample], min(_NEIGHBORS, len(index) - 1), exclude=sample)
    found = index.search(held_out, min(_NEIGHBORS, len(index)))
    nearest = found.distances[:, 0].astype(np.float32).astype(np.float64)  # as a placement tells them
    return Distances(index.metric, radius, nearest, _beyond(found, radius), np.sort(_beyond(among, radius)))


def copy_radii(placer: ImagePlacer, thumbnails: Sequence[bytes]) -> dict[str, float]:
    """By space how far altered copies of pictures (files) are from their originals: the 95th percentile."""
    copies = [altered_copies(file) for file in thumbnails]
    each = len(copies[0])
    encoded = placer.encode([image for images in copies for image in images])
    columns = {name: np.stack([item[name] for item in encoded]) for name in placer.model.features}
    found = {}
    for recipe in placer.model.recipes:
        features = recipe.features(columns).reshape(len(copies), each, -1)
        found[recipe.space] = copy_radius(
            features[:, 0], [features[:, number] for number in range(1, each)], recipe.metric
        )
    return found


def _beyond(found: Neighbors, radius: float) -> np.ndarray:
    """Of each row the distance to the nearest neighbour that is farther than `radius`; the last where none is."""
    outside = found.distances > radius
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), found.distances.shape[1] - 1)
    distances: np.ndarray = found.distances[np.arange(len(first)), first]
    return distances


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
