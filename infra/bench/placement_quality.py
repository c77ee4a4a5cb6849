"""The part `quality` of the benchmark of placement: methods compared on one map. See `placement`."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from infra.bench.placement_methods import METHODS, Map
from infra.bench.synthetic_vectors import CHUNK, sources
from latent_assets.profile import Projection
from latent_assets.projection.backend import first_start
from latent_assets.projection.distances import unit
from latent_assets.projection.index import make_index
from latent_assets.projection.model import read_model
from latent_assets.spaces import Metric
from latent_assets.storage import Storage

Place = Callable[[np.ndarray], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be asked for."""
    parser.set_defaults(run=quality)
    parser.add_argument("--rows", type=int, default=4_000, help="synthetic images that are fitted")
    parser.add_argument("--held", type=int, default=400, help="images that are held out and placed")
    parser.add_argument("--atlas", help="root of an atlas that was built; its fitted images, instead of synthetic ones")
    parser.add_argument("--space", default="clip")
    parser.add_argument("--landmarks", type=int, help="fit only so many, and draw the map of the others from them")


def quality(options: argparse.Namespace) -> None:
    """Print the table of methods."""
    fitted, held, metric, settings = _data(options)
    k = settings.n_neighbors
    begun = time.perf_counter()
    landmarks = fitted if options.landmarks is None else fitted[: options.landmarks]
    reducer = _fit(landmarks, metric, settings, settings.seed)
    drawn = Map(reducer.embedding_.astype(np.float64), reducer._a, reducer._b)
    index = make_index(landmarks, metric)
    if len(landmarks) < len(fitted):
        others = METHODS["geometric median"](index.search(fitted[len(landmarks) :], k), drawn)
        drawn, index = Map(np.concatenate([drawn.coords, others]), drawn.a, drawn.b), make_index(fitted, metric)
    diameter = 2 * float(np.percentile(np.linalg.norm(drawn.coords - drawn.coords.mean(axis=0), axis=1), 99))
    print(f"{len(fitted):,} images on the map after {time.perf_counter() - begun:.0f} s, {len(held)} held out, k {k}")
    methods: dict[str, Place] = {
        name: lambda rows, method=method: method(index.search(rows, k), drawn)  # type: ignore[misc]
        for name, method in METHODS.items()
    }
    refits: list[np.ndarray] = []
    if options.landmarks is None:
        methods["umap.transform"] = lambda rows: np.asarray(reducer.transform(rows), np.float64)
        start = np.concatenate([drawn.coords, METHODS["nearest neighbour"](index.search(held, k), drawn)])
        refits = [_refit(fitted, held, start, metric, settings, seed) for seed in (1, 2)]
    near = index.search(held, 15).indices
    on_map = make_index(drawn.coords.astype(np.float32), "euclidean")
    print(f"{'method':<27} {'recall at 15':>12} {'to a refit: median':>19} {'p95':>7}   ms for 1 / 100 / {len(held)}")
    for name, method in methods.items():
        method(held[:2])  # compiled
        places, times = np.zeros(0), []
        for count in (1, 100, len(held)):
            begun = time.perf_counter()
            places = method(held[:count])
            times.append(1e3 * (time.perf_counter() - begun))
        there = on_map.search(places.astype(np.float32), 15).indices
        recall = (near[:, :, None] == there[:, None, :]).any(axis=2).mean()
        away = _share(places, refits[0], diameter) if refits else f"{'':27}"
        print(f"{name:<27} {recall:12.4f} {away}   {' / '.join(f'{value:.1f}' for value in times)}")
    if refits:
        print(f"{'another refit':<27} {'':12} {_share(refits[1], refits[0], diameter)}")


def _share(places: np.ndarray, refit: np.ndarray, diameter: float) -> str:
    away = np.linalg.norm(places - refit, axis=1) / diameter
    return f"{np.median(away):19.4f} {np.percentile(away, 95):7.4f}"


def _data(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Metric, Projection]:
    """Features of fitted and of held-out images, the metric and the settings of their map."""
    if options.atlas is None:
        vectors = sources()[options.space]
        fitted = vectors.rows(0, options.rows).astype(np.float32)
        start = -(-options.rows // CHUNK) * CHUNK
        held = vectors.rows(start, start + options.held).astype(np.float32)
        if options.space == "clip":
            return unit(fitted), unit(held), "cosine", Projection()
        return fitted, held, "euclidean", Projection()
    storage = Storage(options.atlas)
    (fingerprint, *_) = storage.folders("projection")
    model = read_model(storage, fingerprint)
    (recipe,) = (recipe for recipe in model.recipes if recipe.space == options.space)
    features = recipe.features(model.vectors)
    held_out = np.random.default_rng(0).permutation(len(features))[: options.held]
    rest = np.delete(np.arange(len(features)), held_out)
    return features[rest], features[held_out], recipe.metric, Projection(n_neighbors=model.n_neighbors)


def _fit(features: np.ndarray, metric: Metric, settings: Projection, seed: int, start: np.ndarray | None = None) -> Any:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return umap.UMAP(
            n_components=3,
            n_neighbors=settings.n_neighbors,
            min_dist=settings.min_dist,
            metric=metric,
            n_epochs=settings.n_epochs,
            init=first_start(features, seed) if start is None else start.astype(np.float32),
            random_state=seed,
            transform_seed=seed,
            n_jobs=1,
        ).fit(features)


def _refit(
    fitted: np.ndarray, held: np.ndarray, start: np.ndarray, metric: Metric, settings: Projection, seed: int
) -> np.ndarray:
    """Where the held-out rows lie on a map that was fitted with them, brought onto the first by a similarity.

    The fit starts from the first map, new rows from their nearest neighbours.
    """
    from scipy.spatial.transform import Rotation

    noise = 1e-3 * np.random.default_rng(seed).normal(size=start.shape)
    found = _fit(np.concatenate([fitted, held]), metric, settings, seed, start + noise).embedding_.astype(np.float64)
    n = len(fitted)
    goal, given = start[:n] - start[:n].mean(axis=0), found[:n] - found[:n].mean(axis=0)
    turn, _ = Rotation.align_vectors(goal, given)
    turned = turn.apply(given)
    scale = float((turned * goal).sum() / (turned**2).sum())
    return np.asarray(scale * turn.apply(found[n:] - found[:n].mean(axis=0)) + start[:n].mean(axis=0))
