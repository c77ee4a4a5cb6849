"""One interface over the implementations of UMAP: umap-learn on the CPU, cuML on a CUDA GPU.

Which one runs, the initial layout, tiny inputs and the scale of the map are decided here; what the features mean
is not.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from latent_assets.errors import ProfileError
from latent_assets.models.device import cuda_name
from latent_assets.profile import Projection
from latent_assets.projection.neighbors import self_neighbors
from latent_assets.spaces import Metric

MAP_RADIUS = 10.0
_RADIUS_PERCENTILE = 99.0
_SMALLEST_FIT = 5  # UMAP needs a graph; fewer points are laid out by their principal axes
_EXACT_GRAPH_ROWS = 20_000  # up to here the exact graph costs less than pynndescent and its compilation


class Backend(Protocol):
    """An implementation of UMAP. `device` is what a person wants to read: "cpu" or the GPU's name."""

    name: str
    device: str

    def fit(
        self, features: np.ndarray, metric: Metric, settings: Projection, init: np.ndarray | None = None
    ) -> np.ndarray:
        """Lay out `features` float32 [n, d] in 3D: float32 [n, 3], centred, 99 % of the points within radius 10.

        `init` float32 [n, 3] is a layout to start from (a previous release); without it the principal axes are.
        The same input, settings and machine give the same bits. Cosine expects vectors of unit length.
        """
        ...


class UmapLearn:
    """umap-learn, single-threaded so that a seeded build repeats exactly."""

    name = "umap-learn"
    device = "cpu"

    def fit(
        self, features: np.ndarray, metric: Metric, settings: Projection, init: np.ndarray | None = None
    ) -> np.ndarray:
        if len(features) < _SMALLEST_FIT:
            return normalise(principal_axes(features))
        import umap

        k = min(settings.n_neighbors, len(features) - 1)
        graph = exact_graph(features, k, metric) if len(features) <= _EXACT_GRAPH_ROWS else (None, None, None)
        model = umap.UMAP(
            n_components=3,
            n_neighbors=k,
            min_dist=settings.min_dist,
            metric=metric,
            n_epochs=settings.n_epochs,
            init=initial_layout(features, settings.seed, init),
            random_state=settings.seed,
            n_jobs=1,
            precomputed_knn=graph,
        )
        with warnings.catch_warnings():
            # it says that its own `transform` is off: placement is ours
            warnings.filterwarnings("ignore", message=".*knn_search_index.*")
            return normalise(model.fit_transform(features))


class Cuml:
    """RAPIDS cuML. Seeded, so its graph is brute force and the layout repeats on one machine."""

    name = "cuml"

    def __init__(self, device: str) -> None:
        self.device = device

    def fit(
        self, features: np.ndarray, metric: Metric, settings: Projection, init: np.ndarray | None = None
    ) -> np.ndarray:
        if len(features) < _SMALLEST_FIT:
            return normalise(principal_axes(features))
        from cuml.manifold import UMAP

        model: Any = UMAP(
            n_components=3,
            n_neighbors=min(settings.n_neighbors, len(features) - 1),
            min_dist=settings.min_dist,
            metric=metric,
            n_epochs=settings.n_epochs,
            init=initial_layout(features, settings.seed, init),
            random_state=settings.seed,
            output_type="numpy",
        )
        return normalise(np.asarray(model.fit_transform(features)))


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


def exact_graph(features: np.ndarray, k: int, metric: Metric) -> tuple[np.ndarray, np.ndarray, None]:
    """The k nearest neighbours in umap-learn's form: indices, distances [n, k], each row starting with itself."""
    rows = np.arange(len(features))
    found = self_neighbors(features, k - 1, metric)
    indices = np.hstack([rows[:, None], found.indices])
    distances = np.hstack([np.zeros((len(features), 1)), found.distances]).astype(np.float32)
    return indices, distances, None


def principal_axes(features: np.ndarray) -> np.ndarray:
    """Coordinates on the three principal axes, float64 [n, 3]; the sign of each axis is fixed, missing axes are 0."""
    coords = np.zeros((len(features), 3))
    if len(features) < 2:
        return coords
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    # the covariance d x d costs less than the decomposition of n x d where rows are many
    solver = "covariance_eigh" if len(features) >= features.shape[1] else "full"
    # one thread: the same bits on any number of cores, and no spinning when the cores are busy
    with threadpool_limits(1, user_api="blas"), np.errstate(invalid="ignore"):  # equal rows have no variance to share
        found = PCA(min(3, *features.shape), svd_solver=solver).fit_transform(features.astype(np.float64))
    # an axis may point either way: let its largest coordinate be positive
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    coords[:, : found.shape[1]] = found * np.where(largest < 0, -1.0, 1.0)
    return coords


def initial_layout(features: np.ndarray, seed: int, init: np.ndarray | None = None) -> np.ndarray:
    """Where the optimisation starts: `init` or the principal axes, scaled to 10, float32 [n, 3].

    A little seeded noise separates equal points; an axis without extent becomes noise.
    """
    coords = principal_axes(features) if init is None else np.asarray(init, dtype=np.float64)
    noise = np.random.default_rng(seed).normal(size=coords.shape)
    extent = np.abs(coords).max(axis=0)
    flat = extent <= 1e-9 * max(extent.max(initial=0.0), 1e-30)
    scaled = np.where(flat, noise, 10.0 * coords / np.where(flat, 1.0, extent))
    return np.asarray(scaled + 1e-4 * noise, dtype=np.float32)


def normalise(coords: np.ndarray) -> np.ndarray:
    """Centre `coords` [n, 3] on their mean and scale them so that 99 % lie within radius 10, float32."""
    if len(coords) == 0:
        return np.zeros((0, 3), np.float32)
    wide = coords.astype(np.float64)
    wide -= wide.mean(axis=0)
    radius = float(np.percentile(np.linalg.norm(wide, axis=1), _RADIUS_PERCENTILE))
    return np.asarray(wide * (MAP_RADIUS / radius if radius > 0 else 1.0), dtype=np.float32)
