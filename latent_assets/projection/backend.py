"""One interface over the implementations of UMAP: umap-learn on the CPU, cuML on a CUDA GPU.

Which one runs, how many epochs a fit has, where it starts and what tiny inputs get are decided here; what the features
mean, and how a layout becomes a map, is not.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from latent_assets.errors import ProfileError
from latent_assets.models.device import cuda_name
from latent_assets.profile import Projection
from latent_assets.projection.layout import Graph, fuzzy_graph, neighbor_table, optimise
from latent_assets.spaces import Metric

_SMALLEST_FIT = 5  # UMAP needs a graph; fewer points are laid out by their principal axes
_START_EXTENT = 10.0  # of the principal axes, as UMAP's own initialisations have it
_FEW_ROWS, _EPOCHS_OF_FEW, _EPOCHS = 10_000, 500, 200  # umap-learn's defaults
# a layout that exists already is refined, not stirred: infra/bench/fit.py --drift. Fewer epochs would draw weak edges
# never
_WARM_EPOCHS, _LEAST_WARM_EPOCHS, _WARM_RATE = 0.25, 100, 0.25
_CHUNK_ROWS = 16_384


class Prepared(Protocol):
    """The rows of one map, their neighbours found: ready to be laid out, more than once if need be."""

    @property
    def graph(self) -> Graph:
        """The fuzzy graph of the rows."""
        ...

    def layout(self, start: np.ndarray, seed: int, warm: bool = False) -> np.ndarray:
        """Lay out the rows in 3D from `start` float32 [n, 3] in UMAP's own distances; float32 [n, 3] in the same.

        warm: `start` is a layout, and is kept but for what the rows ask for. The same input, settings and machine give
        the same bits.
        """
        ...


class Backend(Protocol):
    """An implementation of UMAP. `device` is what a person wants to read: "cpu" or the GPU's name.

    fit_rows: above so many rows a sample is fitted, unless the profile says otherwise.
    """

    name: str
    device: str
    fit_rows: int

    def prepare(self, features: np.ndarray, metric: Metric, settings: Projection) -> Prepared:
        """Find the neighbours of `features` float32 [n, d]. Cosine expects vectors of unit length."""
        ...


class UmapLearn:
    """umap-learn, single-threaded so that a seeded build repeats exactly."""

    name = "umap-learn"
    device = "cpu"
    fit_rows = 50_000

    def prepare(self, features: np.ndarray, metric: Metric, settings: Projection) -> Prepared:
        return _OnCpu(features, metric, settings)


class _OnCpu:
    def __init__(self, features: np.ndarray, metric: Metric, settings: Projection) -> None:
        self._settings, self._rows = settings, len(features)
        self.graph = graph_of(features, metric, settings)

    def layout(self, start: np.ndarray, seed: int, warm: bool = False) -> np.ndarray:
        if self._rows < _SMALLEST_FIT:
            return start
        epochs, rate = schedule(self._settings, self._rows, warm)
        return optimise(self.graph, start, epochs, rate, seed, self._settings.min_dist)


class Cuml:
    """RAPIDS cuML. Seeded, so its graph is brute force and the layout repeats on one machine."""

    name = "cuml"
    fit_rows = 1_000_000

    def __init__(self, device: str) -> None:
        self.device = device

    def prepare(self, features: np.ndarray, metric: Metric, settings: Projection) -> Prepared:
        return _OnGpu(features, metric, settings)


class _OnGpu:
    def __init__(self, features: np.ndarray, metric: Metric, settings: Projection) -> None:
        self._features, self._metric, self._settings = features, metric, settings

    @cached_property
    def graph(self) -> Graph:
        """Found on the CPU when it is asked for: only a warm start needs it here."""
        return graph_of(self._features, self._metric, self._settings)

    def layout(self, start: np.ndarray, seed: int, warm: bool = False) -> np.ndarray:
        rows = len(self._features)
        if rows < _SMALLEST_FIT:
            return start
        from cuml.manifold import UMAP

        epochs, rate = schedule(self._settings, rows, warm)
        model: Any = UMAP(
            n_components=3,
            n_neighbors=neighbors_of(self._settings, rows),
            min_dist=self._settings.min_dist,
            metric=self._metric,
            n_epochs=epochs,
            learning_rate=rate,
            init=np.ascontiguousarray(start, dtype=np.float32),
            random_state=seed,
            output_type="numpy",
        )
        return np.asarray(model.fit_transform(self._features), dtype=np.float32)


def neighbors_of(settings: Projection, rows: int) -> int:
    """How many neighbours of each of `rows` rows the graph joins it to, itself among them."""
    return min(settings.n_neighbors, rows - 1)


def graph_of(features: np.ndarray, metric: Metric, settings: Projection) -> Graph:
    """The fuzzy graph of `features`; without edges where there are too few rows for one."""
    rows = len(features)
    if rows < _SMALLEST_FIT:
        none = np.zeros(0, np.int32)
        return Graph(rows, none, none, none.astype(np.float32))
    return fuzzy_graph(*neighbor_table(features, neighbors_of(settings, rows), metric))


def schedule(settings: Projection, rows: int, warm: bool) -> tuple[int, float]:
    """Epochs and learning rate of a fit of `rows` rows, from nothing or from a layout that exists (`warm`)."""
    epochs = settings.n_epochs or (_EPOCHS_OF_FEW if rows <= _FEW_ROWS else _EPOCHS)
    if not warm:
        return epochs, 1.0
    return min(epochs, max(_LEAST_WARM_EPOCHS, round(_WARM_EPOCHS * epochs))), _WARM_RATE


def choose_backend(settings: Projection) -> Backend:
    """The backend for `projection.backend`: "auto" takes cuML when it is installed and a CUDA GPU is there.

    Raises ProfileError when "cuml" is asked for and cannot run.
    """
    wanted = settings.backend
    if wanted == "umap-learn" or (wanted == "auto" and find_spec("cuml") is None):
        return UmapLearn()
    if find_spec("cuml") is None:
        raise ProfileError(
            '`projection.backend = "cuml"`: cuML is not installed. Install the extra `gpu` '
            '(pip install "latent-assets[gpu]"), or set `backend = "auto"`.'
        )
    if (device := cuda_name()) is not None:
        return Cuml(device)
    if wanted == "cuml":
        raise ProfileError(
            '`projection.backend = "cuml"`: no CUDA GPU is visible. Run where there is one, or set `backend = "auto"`.'
        )
    return UmapLearn()


def principal_axes(features: np.ndarray) -> np.ndarray:
    """Coordinates on the three principal axes, float64 [n, 3]; the sign of each axis is fixed, missing axes are 0.

    `features` [n, d] are widened to float64 chunk by chunk, never all at once.
    """
    rows, dims = features.shape
    coords = np.zeros((rows, 3))
    if rows < 2:
        return coords
    from threadpoolctl import threadpool_limits

    # one thread: the same bits on any number of cores, and no spinning when the cores are busy
    with threadpool_limits(1, user_api="blas"):
        mean = features.mean(axis=0, dtype=np.float64)
        if rows >= dims:
            covariance = np.zeros((dims, dims))
            for chunk in _chunks(features, mean):
                covariance += chunk.T @ chunk
            axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :3]
        else:  # few rows: their decomposition costs less than that of d x d
            axes = np.linalg.svd(features.astype(np.float64) - mean, full_matrices=False)[2][:3].T
        found = np.concatenate([chunk @ axes for chunk in _chunks(features, mean)])
    # an axis may point either way: let its largest coordinate be positive
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    coords[:, : found.shape[1]] = found * np.where(largest < 0, -1.0, 1.0)
    return coords


def _chunks(features: np.ndarray, mean: np.ndarray) -> Any:
    for start in range(0, len(features), _CHUNK_ROWS):
        yield features[start : start + _CHUNK_ROWS].astype(np.float64) - mean


def first_start(features: np.ndarray, seed: int) -> np.ndarray:
    """Where a first fit starts: the principal axes, each as long as UMAP has them, float32 [n, 3].

    A little seeded noise separates equal points; an axis without extent becomes noise.
    """
    coords = principal_axes(features)
    if len(coords) < _SMALLEST_FIT:
        return np.asarray(coords, dtype=np.float32)
    noise = np.random.default_rng(seed).normal(size=coords.shape)
    extent = np.ptp(coords, axis=0)
    flat = extent <= 1e-9 * max(extent.max(initial=0.0), 1e-30)
    scaled = np.where(flat, noise, _START_EXTENT * coords / np.where(flat, 1.0, extent))
    return np.asarray(scaled + 1e-4 * noise, dtype=np.float32)
