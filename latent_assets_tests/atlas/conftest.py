"""A synthetic atlas, built once; tests that publish get a copy of their own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from latent_assets import spaces
from latent_assets_tests.atlas.built import Built, at, build


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An atlas of 60 rows in 3 shards up to its coordinates, without a table."""
    return build(tmp_path_factory.mktemp("atlas") / "root")


@pytest.fixture
def built(template: Built, tmp_path: Path) -> Built:
    """A copy of `template` below the test's own directory."""
    root = tmp_path / "root"
    shutil.copytree(template.storage.root, root)
    return at(template, root)


@pytest.fixture(autouse=True)
def _built_in_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embeddings and maps of the package, whatever extensions other tests of this process have registered."""
    for registry, names in ((spaces._EMBEDDINGS, {"clip", "vae"}), (spaces._SPACES, {"clip", "vae", "joint"})):
        for name in set(registry) - names:
            monkeypatch.delitem(registry, name)


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> spaces.Embedding:
    """A third embedding with a map of its own, registered for one test."""
    row = replace(
        spaces.embeddings()["vae"],
        name="hue",
        stage="hue_histograms",
        source="hue_model",
        features=("histogram",),
        whole=None,
        meaning="histogram of hues; compare by L2",
        shows="colours alone",
    )
    monkeypatch.setitem(spaces._EMBEDDINGS, "hue", row)
    monkeypatch.setitem(spaces._SPACES, "hue", spaces.Space("hue", ("hue",), "euclidean", "colours alone"))
    return row
