"""Trying models before a build: built-in pictures against recorded vectors, and a few images against each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_assets import cli
from latent_assets.models import check
from latent_assets.models.check import check_model, known
from latent_assets.models.pictures import pictures
from latent_assets.models.precision import arithmetic
from latent_assets.models.trying import nearest_pairs
from latent_assets.profile import ClipModel, load_profile
from latent_assets.spaces import embeddings
from latent_assets_tests.conftest import drawing


def test_the_demos_models_give_the_recorded_vectors() -> None:
    models = load_profile("demo").models
    for name in ("clip", "vae"):
        found = check_model(embeddings()[name], models.of(name))
        assert found.known and found.problem == "" and found.difference is not None and found.difference < 1e-4
        assert found.arithmetic == str(arithmetic(name, models.of(name)))


def test_other_vectors_of_known_weights_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong preprocessing, say: pictures in half of their brightness."""
    dark = [picture.point(lambda value: value // 2) for picture in pictures(8)]
    monkeypatch.setattr(check, "pictures", lambda count: iter(dark))
    found = check_model(embeddings()["clip"], load_profile("demo").models.clip)
    assert "differ from the recorded ones" in found.problem


def test_weights_that_see_nothing_are_a_problem(small_models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ClipModel(**small_models["clip"])
    found = check_model(embeddings()["clip"], spec)
    assert not found.known and found.problem == "" and found.difference is None
    monkeypatch.setattr(check, "pictures", lambda count: iter([Image.new("RGB", (64, 64))] * count))
    assert "the same vector" in check_model(embeddings()["clip"], spec).problem


def test_built_in_pictures_are_many_and_always_the_same() -> None:
    first, second = ([np.asarray(p) for p in pictures(5)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len({picture.tobytes() for picture in first}) == 5
    assert all(len(products) == 8 for products in known().values())


def test_nearest_of_a_few_images_are_those_that_look_alike() -> None:
    row, spec = embeddings()["vae"], load_profile("demo").models.vae
    red, also_red, blue = (Image.new("RGB", (80, 80), c) for c in ((250, 0, 0), (240, 5, 5), (0, 0, 250)))
    near = nearest_pairs(row, spec, [red, blue, also_red], 1)
    assert (near[0][0][0], near[2][0][0]) == (2, 0)


def run(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["latent-assets", *arguments])
        cli.main()
    return int(ended.value.code or 0)


def test_try_prints_what_is_near(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(drawing(seed))
    images = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    assert run("try", *images, "--text", "a blue square", "-k", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["nearest"]) == {"clip", "vae"} and set(found["nearest"]["clip"]) == set(images)
    assert len(found["text"]) == 3 and found["text"][0]["score"] >= found["text"][2]["score"]
    assert run("try", *images, "-p", "folder") == 0
    shown = capsys.readouterr()
    assert "cosine similarity" in shown.out and "OpenMoji" in shown.err, "unfit models are named"
    (tmp_path / "3.png").write_bytes(b"no image")
    assert run("try", *images, str(tmp_path / "3.png")) != 0
    assert "3.png cannot be read as an image" in capsys.readouterr().err
    assert run("try", images[0]) != 0


def test_models_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clip"]["arithmetic"]["dtype"] == "float32" and len(found["clip"]["digest"]) == 32
    assert run("models", "check", "--json") == 0
    assert json.loads(capsys.readouterr().out)["vae"]["known"]
