"""Fitting the maps: rows of all shards to one model file, with the figures that say how good each map is.

Coordinates of whole shards, fitted rows or not, are made in `shard`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.errors import DataError
from latent_assets.profile import Profile, Projection
from latent_assets.progress import report
from latent_assets.projection.backend import Backend, choose_backend
from latent_assets.projection.drift import Drift
from latent_assets.projection.features import FeatureChoice, SpaceRecipe, choose_features, embedded, make_recipes
from latent_assets.projection.landmarks import choose_landmarks
from latent_assets.projection.mapping import Transformation, make_map
from latent_assets.projection.model import content_version, header_of, model_arrays, write_model
from latent_assets.projection.placement import Placer
from latent_assets.projection.previous import PreviousMaps
from latent_assets.projection.quality import PROBE_ROWS, REFERENCE_ROWS, MapQuality, measure
from latent_assets.projection.rows import Sample, draw, hold_out, read_shard_rows
from latent_assets.storage import Storage

_STAGE = "umap_model"


@dataclass(frozen=True)
class SpaceFit:
    """One fitted map. `seconds` is the layout alone; `lower`, `upper` are the corners of its box (map units).

    quality: of the rows that were fitted; placed: of drawn rows that were not, but placed among them, None where there
    are none. drift, floor, transformation: as `mapping.Map` has them.
    """

    space: str
    rows: int
    dims: int
    metric: str
    seconds: float
    quality: MapQuality
    placed: MapQuality | None
    drift: Drift | None
    floor: Drift | None
    transformation: Transformation
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class FitReport:
    """What a fit made. `total_rows` are the rows of all shards, `rows` those that were fitted.

    `held_out`: ids of the rows that were kept out of it (`rows.hold_out`). `unmatched`: rows left out because not
    every model embedded them. `version`: hash of the model's arrays and decisions, equal for equal maps.
    """

    fingerprint: str
    version: str
    rows: int
    total_rows: int
    held_out: tuple[str, ...]
    unmatched: int
    spaces: dict[str, SpaceFit]
    features: dict[str, FeatureChoice]
    backend: str
    device: str
    bytes: int
    seconds: float
    aligned_to: str | None = None


def fit_map(
    profile: Profile,
    storage: Storage,
    shards: Sequence[ShardEmbeddings],
    fingerprint: str,
    features: Mapping[str, FeatureChoice | str] | None = None,
    previous: PreviousMaps | None = None,
) -> FitReport:
    """Fit every space of the profile on the rows of `shards` and store `projection/{fingerprint}/model.safetensors`.

    `features` says which column stands for each embedding, as `choose_features` does; without it, that is asked here.
    `previous`: the maps that these are to continue. Above `projection.fit_rows` rows landmarks are fitted
    (`landmarks.choose_landmarks`); a hash of the ids decides the rows that are held out to calibrate distances by.
    Shards without rows give a model without rows. Raises DataError when there are no shards, a value is not finite or
    an id is there twice, ProfileError when the backend cannot run.
    """
    started = time.monotonic()
    settings = profile.projection
    backend = choose_backend(settings)
    if not shards:
        raise DataError("There are no shards to project: see `latent-assets status` for what was fetched and encoded.")
    found = choose_features(profile, storage, shards) if features is None else features
    choices = {name: FeatureChoice(item) if isinstance(item, str) else item for name, item in found.items()}
    rows = [read_shard_rows(storage, shard) for shard in shards]
    held = hold_out(rows, settings.calibration_share, settings.calibration_rows)
    columns = {row.name: choices[row.name].chosen for row in embedded(profile, shards)}
    limit = settings.fit_rows or backend.fit_rows
    sample = choose_landmarks(storage, rows, columns, limit, settings.seed, without=held)
    vectors = {name: sample.read(storage, name, column) for name, column in columns.items()}
    recipes = make_recipes(profile.spaces, vectors, settings.joint_clip_weight)
    beyond = draw(rows, PROBE_ROWS, settings.seed, without=sample)
    further = {name: beyond.read(storage, name, column) for name, column in columns.items()}
    coords, fits = _fit_spaces(recipes, sample, vectors, further, settings, backend, previous)
    arrays = model_arrays(sample.ids, vectors, coords)
    dims = {name: values.shape[1] for name, values in vectors.items()}
    header = header_of(recipes, columns, dims, settings)
    result = FitReport(
        fingerprint=fingerprint,
        version=content_version(arrays, [header["recipes"], header["features"], settings.n_neighbors]),
        rows=len(sample.ids),
        total_rows=sum(len(shard.ids) for shard in rows),
        held_out=tuple(held.ids),
        unmatched=sum(shard.unmatched for shard in rows),
        spaces=fits,
        features={name: choices[name] for name in columns},
        backend=backend.name,
        device=backend.device,
        bytes=sum(values.nbytes for values in arrays.values()),
        seconds=round(time.monotonic() - started, 3),
        aligned_to=next((fit.transformation.onto for fit in fits.values() if fit.transformation.onto), None),
    )
    write_model(storage, fingerprint, arrays, header | {"report": asdict(result), "versions": _versions(backend)})
    return result


def _fit_spaces(
    recipes: Sequence[SpaceRecipe],
    sample: Sample,
    vectors: Mapping[str, np.ndarray],
    further: Mapping[str, np.ndarray],
    settings: Projection,
    backend: Backend,
    previous: PreviousMaps | None,
) -> tuple[dict[str, np.ndarray], dict[str, SpaceFit]]:
    """Lay out the rows `sample`, whose `vectors` by embedding are there; measure on them and on the rows `further`."""
    coords: dict[str, np.ndarray] = {}
    fits: dict[str, SpaceFit] = {}
    for done, recipe in enumerate(recipes):
        features = recipe.features(vectors)
        report(_STAGE, done, len(recipes), "spaces", note=f"{recipe.space}: {len(features):,} rows, {backend.name}")
        started = time.monotonic()
        before = previous.shared(recipe.space, sample.ids) if previous else None
        made = make_map(backend, features, recipe.metric, settings, before)
        seconds = time.monotonic() - started
        coords[recipe.space] = made.coords
        fits[recipe.space] = SpaceFit(
            space=recipe.space,
            rows=len(features),
            dims=features.shape[1],
            metric=recipe.metric,
            seconds=round(seconds, 3),
            quality=measure(features, made.coords, recipe.metric),
            placed=_placed_quality(recipe, features, made.coords, recipe.features(further), settings.n_neighbors),
            drift=made.drift,
            floor=made.floor,
            transformation=made.transformation,
            lower=corner(made.coords.min(axis=0, initial=0.0)),
            upper=corner(made.coords.max(axis=0, initial=0.0)),
        )
    report(_STAGE, len(recipes), len(recipes), "spaces")
    return coords, fits


def _placed_quality(
    recipe: SpaceRecipe, fitted: np.ndarray, coords: np.ndarray, further: np.ndarray, n_neighbors: int
) -> MapQuality | None:
    """The quality of the map for rows that were not fitted, `further` float32 [m, d], among those that were."""
    if not len(further) or not len(fitted):
        return None
    placed = Placer(fitted, coords, recipe.metric, n_neighbors).coordinates(further)
    rng = np.random.default_rng(0)
    beside = np.sort(rng.choice(len(fitted), min(len(fitted), REFERENCE_ROWS - len(further)), replace=False))
    return measure(
        np.concatenate([fitted[beside], further]),
        np.concatenate([coords[beside], placed]),
        recipe.metric,
        probes=np.arange(len(beside) + len(further)) >= len(beside),
    )


def corner(values: np.ndarray) -> tuple[float, float, float]:
    """Three coordinates as Python floats, rounded to 3 decimals."""
    x, y, z = (round(float(value), 3) for value in values)
    return x, y, z


def _versions(backend: Backend) -> dict[str, str]:
    """Versions of what laid out the map."""
    found = {}
    for package in (backend.name, "numpy", "numba", "pynndescent"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
