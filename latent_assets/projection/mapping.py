"""From the features of one space to its map: laid out, islands pulled in, turned and scaled, by a fixed rule or onto
the map of the release before, with what was done on record.

The layout itself is the business of `backend`; files and reports are that of `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latent_assets.errors import DataError
from latent_assets.profile import Projection
from latent_assets.projection.backend import Backend, Prepared, first_start
from latent_assets.projection.drift import Drift, measure_drift
from latent_assets.projection.frame import Frame, aligning_frame, first_frame
from latent_assets.projection.islands import Shift, anchor, find_islands, pull_in
from latent_assets.projection.previous import Shared, enough, warm_start
from latent_assets.spaces import Metric

# in UMAP's own distances (spread 1): beyond one, two points of a layout hardly attract each other
_ISLAND_GAP = 1.0
_NEAREST_ISLAND = 0.5
_FARTHEST_ISLAND = 3.0  # that an island of the release before may be away; pulled in they lie nearer
_SMALLEST = 5  # fewer rows are laid out by their principal axes, in other units


@dataclass(frozen=True)
class Transformation:
    """What was done to a layout to make it a map.

    pulled_in: islands moved towards the middle, in the layout's units. frame: then the whole, as a similarity.
    anchored: islands put back to where they were in the release `onto`, in map units.
    """

    frame: Frame
    pulled_in: tuple[Shift, ...] = ()
    anchored: tuple[Shift, ...] = ()
    onto: str | None = None


@dataclass(frozen=True)
class Map:
    """One map: coords float32 [n, 3], map units.

    drift: how far the rows lie from where they lay in the release before; floor: how far two fits of these very rows,
    which differ in nothing but their seed, lie from each other, begun where that release had them. None without one.
    """

    coords: np.ndarray
    transformation: Transformation
    drift: Drift | None = None
    floor: Drift | None = None


def make_map(
    backend: Backend, features: np.ndarray, metric: Metric, settings: Projection, before: Shared | None = None
) -> Map:
    """The map of `features` float32 [n, d], as a later state of `before` where enough rows are shared.

    Raises DataError when the backend gives coordinates that are not finite.
    """
    prepared = backend.prepare(features, metric, settings)
    if before is None or not enough(int(before.known.sum()), len(features)):
        raw = _finite(backend, prepared.layout(first_start(features, settings.seed), settings.seed))
        return finish(raw)
    found, *others = (_later(backend, prepared, settings, before, settings.seed + i) for i in range(3))
    places = before.places[before.known]
    first, second = (other.coords[before.known] for other in others)
    return Map(
        found.coords,
        found.transformation,
        measure_drift(before.everything, places, found.coords[before.known]),
        measure_drift(before.everything, first, second),
    )


def finish(raw: np.ndarray) -> Map:
    """A layout float32 [n, 3] in UMAP's own distances as a first map: islands pulled in, turned and scaled by rule."""
    moved, shifts = (
        pull_in(raw, find_islands(raw, _ISLAND_GAP), _NEAREST_ISLAND) if len(raw) >= _SMALLEST else (raw, [])
    )
    frame = first_frame(moved)
    return Map(frame.apply(moved), Transformation(frame, tuple(shifts)))


def _later(backend: Backend, prepared: Prepared, settings: Projection, before: Shared, seed: int) -> Map:
    """A warm fit, turned onto the release before; its islands stay where they were, new ones are pulled in."""
    start, factor = warm_start(prepared.graph, before.known, before.places, settings.min_dist, seed)
    raw = _finite(backend, prepared.layout(start, seed, warm=True))
    islands = find_islands(raw, _ISLAND_GAP)
    frame = aligning_frame(raw[before.known], before.places[before.known], islands[before.known])
    put_back, anchored, kept = anchor(frame.apply(raw), islands, before.known, before.places)
    # by the earlier map's units: this layout may have grown since
    moved, shifts = pull_in(put_back, islands, _NEAREST_ISLAND / factor, kept, _FARTHEST_ISLAND / factor)
    pulled = tuple(shift.scaled(1.0 / frame.scale) for shift in shifts)
    record = Transformation(frame, pulled, tuple(anchored), before.release)
    return Map(moved.astype(np.float32), record)


def _finite(backend: Backend, raw: np.ndarray) -> np.ndarray:
    if not np.isfinite(raw).all():
        raise DataError(f"{backend.name} gave coordinates that are not finite.")
    return raw
