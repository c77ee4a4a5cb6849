"""Making the calibration of a release: distances of its held-out images, and how far copies are from originals."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from latent_assets.generated.placement.calibration import NOT_CALIBRATED, Calibration, Distances
from latent_assets.generated.placement.copies import Picture
from latent_assets.generated.placement.groups import distances_to
from latent_assets.generated.placement.placing import ImagePlacer, matrix
from latent_assets.images.decode.image import decode_image
from latent_assets.projection.model import MapModel
from latent_assets.projection.neighbors import ExactIndex, Neighbors, unit
from latent_assets.spaces import Metric, embeddings

_ALTERED = 48  # images whose altered copies are encoded
_NEIGHBORS = 64
_SAMPLE = 1_000


def calibrate(placer: ImagePlacer) -> Calibration:
    """What is usual in a release; `NOT_CALIBRATED` for one without rows or without held-out ones.

    Raises ModelError when a model of the release is not on this machine.
    """
    held_out = placer.model.report["held_out"]
    if not held_out:
        return NOT_CALIBRATED
    rows = placer.rows(held_out, [*placer.model.features, "thumbnail"])
    copies = [altered_copies(file) for file in rows["thumbnail"].to_pylist()[:_ALTERED]]
    encoded = placer.encode([image for images in copies for image in images])
    each = len(copies[0])
    found = {}
    for name in placer.model.features:
        metric = embeddings()[name].metric
        vectors = np.stack([item[name] for item in encoded]).reshape(len(copies), each, -1)
        radius = copy_radius(vectors[:, 0], [vectors[:, number] for number in range(1, each)], metric)
        found[name] = usual_distances(placer.model, name, metric, matrix(rows[name]), radius)
    pictures = [Picture(decode_image(file)) for file in rows["thumbnail"].to_pylist()]
    return Calibration(found, np.sort([picture.detail for picture in pictures]))


def usual_distances(model: MapModel, embedding: str, metric: Metric, held_out: np.ndarray, radius: float) -> Distances:
    """Distances of an embedding's fitted rows, and of `held_out` float [h, d] rows of it, to fitted ones."""
    points = np.asarray(model.vectors[embedding], np.float32)
    queries = np.asarray(held_out, np.float32)
    if metric == "cosine":
        points, queries = unit(points), unit(queries)
    none = np.zeros(0)
    if len(points) < 2:
        return Distances(metric, radius, none, none, none)
    index = ExactIndex(points, metric)
    sample = np.unique(np.linspace(0, len(points) - 1, min(len(points), _SAMPLE)).astype(np.int64))
    among = index.search(points[sample], min(_NEIGHBORS, len(points) - 1), exclude=sample)
    found = index.search(queries, min(_NEIGHBORS, len(points))) if len(queries) else None
    return Distances(
        metric,
        radius,
        np.sort(found.distances[:, 0]) if found else none,
        np.sort(_beyond(found, radius)) if found else none,
        np.sort(_beyond(among, radius)),
    )


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
