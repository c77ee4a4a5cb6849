"""The UMAP backends: repeatable, defined for any number of rows, chosen by what the machine has."""

import hashlib
import inspect
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from latent_assets.errors import ProfileError
from latent_assets.profile import Projection
from latent_assets.projection import backend, mapping
from latent_assets_tests.projection import synthetic

SETTINGS = Projection(backend="umap-learn", n_epochs=40)
CUML = Path(__file__).with_name("cuml_umap_26.10.json")


def fit(features: np.ndarray, metric: Any, settings: Projection = SETTINGS) -> np.ndarray:
    return mapping.make_map(backend.UmapLearn(), features, metric, settings).coords


@pytest.mark.parametrize("rows", range(8))
@pytest.mark.parametrize("same", [True, False])
def test_few_rows_have_defined_coordinates(rows: int, same: bool) -> None:
    features = np.ones((rows, 8), np.float32) if same else synthetic.clip_vectors(rows, dims=8)[0]
    coords = fit(features, "euclidean", SETTINGS)
    assert coords.shape == (rows, 3) and coords.dtype == np.float32
    assert np.isfinite(coords).all()
    if rows >= 2 and not same:
        assert len(np.unique(coords, axis=0)) == rows


def test_one_and_two_rows_exactly() -> None:
    assert fit(np.ones((1, 4), np.float32), "cosine", SETTINGS).tolist() == [[0.0, 0.0, 0.0]]
    two = fit(np.array([[0, 0], [2, 0]], np.float32), "euclidean", SETTINGS)
    np.testing.assert_allclose(np.abs(two), [[10, 0, 0], [10, 0, 0]], atol=1e-5)
    assert two[0, 0] == -two[1, 0]


def test_identical_vectors_beside_others_stay_finite() -> None:
    features, _ = synthetic.clip_vectors(120)
    features[:60] = features[0]
    coords = fit(features, "cosine", SETTINGS)
    assert np.isfinite(coords).all()
    assert np.linalg.norm(coords[:60] - coords[:60].mean(axis=0), axis=1).max() < 10.0


def test_a_seeded_fit_repeats_exactly_in_another_process() -> None:
    code = (
        "import hashlib; from latent_assets_tests.projection.test_backend import fitted;"
        "print(hashlib.sha256(fitted(42).tobytes()).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=synthetic.REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    assert found.stdout.strip() == hashlib.sha256(fitted(42).tobytes()).hexdigest()
    assert fitted(43).tobytes() != fitted(42).tobytes()


def fitted(seed: int) -> np.ndarray:
    features, _ = synthetic.clip_vectors(200)
    return fit(features, "cosine", SETTINGS.model_copy(update={"seed": seed}))


def test_neighbours_stay_together() -> None:
    features, labels = synthetic.clip_vectors(300)
    coords = fit(features, "cosine", SETTINGS)
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.99


def test_a_layout_to_start_from_is_kept() -> None:
    """A stretched and turned layout is refined where it is; `umap.UMAP` would squeeze it into a cube."""
    features, _ = synthetic.clip_vectors(300)
    prepared = backend.UmapLearn().prepare(features, "cosine", SETTINGS)
    before = prepared.layout(backend.first_start(features, 0), 0)
    turned = before[:, [2, 0, 1]] * np.float32([1.0, 1.3, 0.8])
    after = prepared.layout(turned, 1, warm=True)
    assert np.median(np.linalg.norm(after - turned, axis=1)) < 0.1 * np.ptp(turned, axis=0).max()
    assert all(np.corrcoef(turned[:, axis], after[:, axis])[0, 1] > 0.95 for axis in range(3))


def test_the_graph_is_that_of_umap_learn() -> None:
    from umap import UMAP

    features, _ = synthetic.clip_vectors(400)
    ours = backend.UmapLearn().prepare(features, "cosine", SETTINGS).graph
    theirs = UMAP(n_neighbors=15, metric="cosine", n_epochs=0, random_state=0).fit(features).graph_.toarray()
    dense = np.zeros((400, 400), np.float32)
    dense[ours.head, ours.tail] = ours.weights
    np.testing.assert_allclose(dense, theirs, atol=2e-3)


def test_what_is_compiled_is_kept_on_disk() -> None:
    """A second process compiles nothing: umap-learn alone does in every one."""
    code = (
        "import json; from latent_assets_tests.projection.test_backend import fitted; fitted(1);"
        "from umap import layouts, umap_;"
        "kept = [layouts._nb_optimize_layout_euclidean_single_epoch, umap_.smooth_knn_dist];"
        "print(json.dumps([[len(f.stats.cache_hits), len(f.stats.cache_misses)] for f in kept]))"
    )
    fitted(1)
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=synthetic.REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(found.stdout) == [[1, 0], [1, 0]]


def test_the_principal_axes_never_exist_in_float64_as_a_whole() -> None:
    import tracemalloc

    features = np.random.default_rng(3).normal(size=(150_000, 64)).astype(np.float32)
    tracemalloc.start()
    backend.principal_axes(features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < features.nbytes  # float64 as a whole would be twice that


def test_principal_axes_are_those_of_the_covariance_with_fixed_signs() -> None:
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(40, 3)) * [5.0, 2.0, 1.0] @ rng.normal(size=(3, 90))
    for features in (wide, np.concatenate([wide, wide[:, :90] * -1.0, wide])):
        coords = backend.principal_axes(features.astype(np.float32))
        spectrum = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)[:3]
        np.testing.assert_allclose(np.linalg.norm(coords, axis=0), spectrum, rtol=1e-4)
        largest = coords[np.abs(coords).argmax(axis=0), range(3)]
        assert (largest > 0).all()


def test_auto_without_cuml_is_umap_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, cuml=False, device="NVIDIA H100")
    chosen = backend.choose_backend(Projection(backend="auto"))
    assert (chosen.name, chosen.device) == ("umap-learn", "cpu")


def test_auto_takes_cuml_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, cuml=True, device="NVIDIA H100")
    chosen = backend.choose_backend(Projection(backend="auto"))
    assert (chosen.name, chosen.device) == ("cuml", "NVIDIA H100")
    assert backend.choose_backend(Projection(backend="umap-learn")).name == "umap-learn"


def test_auto_with_cuml_but_no_gpu_is_umap_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, cuml=True, device=None)
    assert backend.choose_backend(Projection(backend="auto")).name == "umap-learn"


@pytest.mark.parametrize(("cuml", "reason"), [(False, "cuML is not installed"), (True, "no CUDA GPU is visible")])
def test_cuml_that_cannot_run_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, cuml: bool, reason: str
) -> None:
    _machine(monkeypatch, cuml=cuml, device=None)
    with pytest.raises(ProfileError, match=reason) as refused:
        backend.choose_backend(Projection(backend="cuml"))
    assert "projection.backend" in str(refused.value) and 'backend = "auto"' in str(refused.value)


def _machine(monkeypatch: pytest.MonkeyPatch, cuml: bool, device: str | None) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: ModuleSpec(name, None) if cuml else None)
    monkeypatch.setattr(backend, "cuda_name", lambda: device)


# -- cuML ------------------------------------------------------------------------------------------------


def test_what_cuml_is_asked_for_is_in_its_published_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuML cannot run here: a class with the recorded signature stands where its would be, and nothing else."""
    asked = _recorded_cuml(monkeypatch)
    rows = synthetic.clip_vectors(60)[0]
    made = mapping.make_map(backend.Cuml("a GPU"), rows, "cosine", SETTINGS)
    assert made.coords.shape == (60, 3)
    (given,) = asked
    assert given["metric"] == "cosine" and given["random_state"] == 42 and given["n_epochs"] == 40
    assert given["init"].dtype == np.float32 and given["init"].shape == (60, 3)
    # what umap-learn is run with is what cuML assumes where it is not told
    recorded = json.loads(CUML.read_text())
    defaults = {name: value for method in recorded["methods"].values() for name, value in method["defaults"].items()}
    assert (defaults["spread"], defaults["set_op_mix_ratio"], defaults["local_connectivity"]) == (1.0, 1.0, 1.0)
    assert (defaults["negative_sample_rate"], defaults["repulsion_strength"]) == (5, 1.0)


def test_an_argument_that_cuml_does_not_have_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _recorded_cuml(monkeypatch)
    from cuml.manifold import UMAP

    with pytest.raises(TypeError, match="data_on_host"):
        UMAP(data_on_host=True)


def _recorded_cuml(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a `cuml.manifold.UMAP` in place that takes what the recorded one takes; returns what its calls were given."""
    recorded, asked = json.loads(CUML.read_text()), []

    def bound(method: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        kinds = {"positional": inspect.Parameter.POSITIONAL_OR_KEYWORD, "named": inspect.Parameter.KEYWORD_ONLY}
        known = recorded["methods"][method]
        parameters = [
            inspect.Parameter(name, kinds[kind], default=known["defaults"].get(name, inspect.Parameter.empty))
            for kind in ("positional", "named")
            for name in known[kind]
        ]
        return dict(inspect.Signature(parameters).bind(*arguments, **named).arguments)

    class UMAP:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            asked.append(bound("__init__", *arguments, **named))

        def fit_transform(self, *arguments: Any, **named: Any) -> np.ndarray:
            bound("fit_transform", *arguments, **named)
            return np.asarray(asked[-1]["init"])

    module, manifold = ModuleType("cuml"), ModuleType("cuml.manifold")
    manifold.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", module)
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    return asked
