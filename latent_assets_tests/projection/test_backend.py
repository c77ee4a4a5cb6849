"""The UMAP backends: repeatable, defined for any number of rows, chosen by what the machine has."""

import hashlib
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from latent_assets.errors import ProfileError
from latent_assets.profile import Projection
from latent_assets.projection import backend
from latent_assets_tests.projection import synthetic

SETTINGS = Projection(backend="umap-learn", n_epochs=40)


@pytest.mark.parametrize("rows", range(8))
@pytest.mark.parametrize("same", [True, False])
def test_few_rows_have_defined_coordinates(rows: int, same: bool) -> None:
    features = np.ones((rows, 8), np.float32) if same else synthetic.clip_vectors(rows, dims=8)[0]
    coords = backend.UmapLearn().fit(features, "euclidean", SETTINGS)
    assert coords.shape == (rows, 3) and coords.dtype == np.float32
    assert np.isfinite(coords).all()
    if rows >= 2 and not same:
        assert len(np.unique(coords, axis=0)) == rows


def test_one_and_two_rows_exactly() -> None:
    fit = backend.UmapLearn().fit
    assert fit(np.ones((1, 4), np.float32), "cosine", SETTINGS).tolist() == [[0.0, 0.0, 0.0]]
    two = fit(np.array([[0, 0], [2, 0]], np.float32), "euclidean", SETTINGS)
    np.testing.assert_allclose(np.abs(two), [[10, 0, 0], [10, 0, 0]], atol=1e-5)
    assert two[0, 0] == -two[1, 0]


def test_identical_vectors_beside_others_stay_finite() -> None:
    features, _ = synthetic.clip_vectors(120)
    features[:60] = features[0]
    coords = backend.UmapLearn().fit(features, "cosine", SETTINGS)
    assert np.isfinite(coords).all()
    assert np.linalg.norm(coords[:60] - coords[:60].mean(axis=0), axis=1).max() < 10.0


def test_map_is_centred_and_scaled() -> None:
    coords = backend.UmapLearn().fit(synthetic.clip_vectors(300)[0], "cosine", SETTINGS)
    np.testing.assert_allclose(coords.mean(axis=0), 0.0, atol=1e-4)
    assert np.percentile(np.linalg.norm(coords, axis=1), 99) == pytest.approx(10.0, rel=1e-4)


def test_normalise_is_not_fooled_by_an_outlier() -> None:
    coords = np.random.default_rng(0).normal(size=(1000, 3))
    coords[0] = 1e6
    radius = np.linalg.norm(backend.normalise(coords), axis=1)
    assert np.median(np.linalg.norm(backend.normalise(coords[1:]), axis=1)) > 3.0
    assert np.percentile(radius, 99) == pytest.approx(10.0, rel=1e-4)


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
    return backend.UmapLearn().fit(features, "cosine", SETTINGS.model_copy(update={"seed": seed}))


def test_neighbours_stay_together() -> None:
    features, labels = synthetic.clip_vectors(300)
    coords = backend.UmapLearn().fit(features, "cosine", SETTINGS)
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.99


def test_above_the_exact_graph_umap_finds_its_own_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_EXACT_GRAPH_ROWS", 100)
    monkeypatch.setattr(backend, "exact_graph", None)
    test_neighbours_stay_together()


def test_a_layout_to_start_from_is_kept() -> None:
    features, _ = synthetic.clip_vectors(300)
    before = backend.UmapLearn().fit(features, "cosine", SETTINGS)
    turned = before[:, [2, 0, 1]]
    short = SETTINGS.model_copy(update={"n_epochs": 11})
    after = backend.UmapLearn().fit(features, "cosine", short, init=turned)
    kept = np.corrcoef(np.linalg.norm(turned - turned[0], axis=1), np.linalg.norm(after - after[0], axis=1))[0, 1]
    assert kept > 0.95
    assert all(np.corrcoef(turned[:, axis], after[:, axis])[0, 1] > 0.9 for axis in range(3))


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
