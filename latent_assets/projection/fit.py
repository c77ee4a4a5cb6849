"""Fitting the maps: rows of all shards to one model file, with the figures that say how good each map is.

Coordinates of whole shards, fitted rows or not, are made in `shard`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.errors import DataError
from latent_assets.profile import Profile, Projection, SpaceName
from latent_assets.progress import report
from latent_assets.projection.backend import Backend, choose_backend
from latent_assets.projection.features import VAE_FEATURES, FeatureChoice, SpaceRecipe, choose_vae_feature, make_recipes
from latent_assets.projection.model import content_version, header_of, model_arrays, write_model
from latent_assets.projection.quality import MapQuality, measure
from latent_assets.projection.rows import Sample, draw, read_shard_rows
from latent_assets.storage import Storage

_STAGE = "umap_model"
_FEATURE_PROBE_ROWS = 2_000


@dataclass(frozen=True)
class SpaceFit:
    """One fitted map. `seconds` is the layout alone; `lower`, `upper` are the corners of its box (map units)."""

    space: SpaceName
    rows: int
    dims: int
    metric: str
    seconds: float
    quality: MapQuality
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class FitReport:
    """What a fit made. `total_rows` are the rows of all shards, `rows` those that were fitted.

    `unmatched`: rows left out because only one of the models embedded them. `version`: hash of the model's
    arrays and decisions, equal for equal maps.
    """

    fingerprint: str
    version: str
    rows: int
    total_rows: int
    unmatched: int
    spaces: dict[str, SpaceFit]
    feature: FeatureChoice | None
    backend: str
    device: str
    bytes: int
    seconds: float


def fit_map(profile: Profile, storage: Storage, shards: Sequence[ShardEmbeddings], fingerprint: str) -> FitReport:
    """Fit every space of the profile on the rows of `shards` and store `projection/{fingerprint}/model.safetensors`.

    Above `projection.fit_rows` rows a sample is fitted, drawn by a hash of the ids. Raises DataError when there
    are no rows, a value is not finite or an id is there twice, ProfileError when the backend cannot run.
    """
    started = time.monotonic()
    settings = profile.projection
    backend = choose_backend(settings)
    rows = [read_shard_rows(storage, shard) for shard in shards]
    total = sum(len(shard.ids) for shard in rows)
    if total == 0:
        raise DataError(
            f"There are no embedded rows to project in {len(rows)} shards: see `latent-assets status` for what was "
            "fetched and encoded."
        )
    sample = draw(rows, settings.fit_rows, settings.seed)
    clip = sample.read_clip(storage)
    feature, vae = _vae_feature(storage, sample)
    recipes = make_recipes(settings.spaces, clip, vae, settings.joint_clip_weight)
    coords, fits = _fit_spaces(recipes, clip, vae, settings, backend)
    arrays = model_arrays(sample.ids, clip, vae, coords)
    dims = {name: values.shape[1] for name, values in (("clip", clip), ("vae", vae)) if values is not None}
    header = header_of(recipes, feature.chosen if feature else None, dims, settings)
    result = FitReport(
        fingerprint=fingerprint,
        version=content_version(arrays, [header["recipes"], header["vae_feature"], settings.n_neighbors]),
        rows=len(sample.ids),
        total_rows=total,
        unmatched=sum(shard.unmatched for shard in rows),
        spaces=fits,
        feature=feature,
        backend=backend.name,
        device=backend.device,
        bytes=sum(values.nbytes for values in arrays.values()),
        seconds=round(time.monotonic() - started, 3),
    )
    write_model(storage, fingerprint, arrays, header | {"report": asdict(result), "versions": _versions(backend)})
    return result


def _fit_spaces(
    recipes: Sequence[SpaceRecipe],
    clip: np.ndarray | None,
    vae: np.ndarray | None,
    settings: Projection,
    backend: Backend,
) -> tuple[dict[SpaceName, np.ndarray], dict[str, SpaceFit]]:
    coords: dict[SpaceName, np.ndarray] = {}
    fits: dict[str, SpaceFit] = {}
    for done, recipe in enumerate(recipes):
        features = recipe.features(clip, vae)
        report(_STAGE, done, len(recipes), "spaces", note=f"{recipe.space}: {len(features):,} rows, {backend.name}")
        started = time.monotonic()
        laid_out = backend.fit(features, recipe.metric, settings)
        seconds = time.monotonic() - started
        if not np.isfinite(laid_out).all():
            raise DataError(f"{backend.name} gave coordinates that are not finite for the space `{recipe.space}`.")
        coords[recipe.space] = laid_out
        fits[recipe.space] = SpaceFit(
            space=recipe.space,
            rows=len(features),
            dims=features.shape[1],
            metric=recipe.metric,
            seconds=round(seconds, 3),
            quality=measure(features, laid_out, recipe.metric),
            lower=corner(laid_out.min(axis=0)),
            upper=corner(laid_out.max(axis=0)),
        )
    report(_STAGE, len(recipes), len(recipes), "spaces")
    return coords, fits


def corner(values: np.ndarray) -> tuple[float, float, float]:
    """Three coordinates as Python floats, rounded to 3 decimals."""
    x, y, z = (round(float(value), 3) for value in values)
    return x, y, z


def _vae_feature(storage: Storage, sample: Sample) -> tuple[FeatureChoice | None, np.ndarray | None]:
    """Compare the map features on a probe of the sample and read the better one for all of it."""
    if all(rows.embeddings.vae is None for rows in sample.shards):
        return None, None
    probe = draw(sample.shards, _FEATURE_PROBE_ROWS, seed=0)
    latents = probe.read_vae(storage, "latent")
    candidates = {name: probe.read_vae(storage, name) for name in VAE_FEATURES}
    assert latents is not None
    choice = choose_vae_feature(latents, {name: values for name, values in candidates.items() if values is not None})
    return choice, sample.read_vae(storage, choice.chosen)


def _versions(backend: Backend) -> dict[str, str]:
    """Versions of what laid out the map."""
    found = {}
    for package in (backend.name, "numpy", "numba", "pynndescent"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
