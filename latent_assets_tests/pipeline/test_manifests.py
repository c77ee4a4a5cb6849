"""Manifests and notes: what is written is read again, and what is of an earlier format is made anew."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from latent_assets.pipeline.manifests import Manifest, Manifests, Recipe, read_details
from latent_assets.storage import Storage

RECIPE = Recipe("stage", 1, {"source": "v1"}, {"table.size": 3}, {"device": "cpu"})


@dataclass(frozen=True)
class Details:
    rate: float = 0.0


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    return Manifests(Storage(str(tmp_path)))


def test_a_manifest_makes_an_artefact_exist_and_clears_its_notes(manifests: Manifests) -> None:
    manifests.note_failure("stage", "00001", ValueError("broken picture"))
    manifests.note_damage("stage", "00001", "cut short")
    assert manifests.failures("stage")["00001"].error == "ValueError: broken picture"
    assert manifests.damages("stage")["00001"].error == "cut short" and manifests.all("stage") == {}
    written = manifests.commit(
        Manifest("stage", "00001", RECIPE, "v", 3, files={"a": 1}, details={"rate": 2.5, "x": 1})
    )
    assert manifests.get("stage", "00001") == written and written.created > 0
    assert manifests.all("stage") == {"00001": written} and written.fingerprint == RECIPE.fingerprint
    assert manifests.failures("stage") == {} and manifests.damage("stage", "00001") is None
    assert read_details(written, Details) == Details(2.5), "what a later version adds is ignored"
    assert manifests.get("stage", "00002") is None


def test_a_whole_stages_manifest_is_parsed_once_and_read_anew(manifests: Manifests) -> None:
    first = manifests.commit(Manifest("stage", "all", RECIPE, "v1"))
    assert manifests.get("stage") is manifests.get("stage")
    second = manifests.commit(Manifest("stage", "all", RECIPE, "v2"))
    assert manifests.get("stage") == second != first


def test_an_artefact_of_an_earlier_format_is_not_there(manifests: Manifests, tmp_path: Path) -> None:
    (tmp_path / "manifests/stage").mkdir(parents=True)
    (tmp_path / "manifests/stage/00001.json").write_text(
        '{"stage": "stage", "key": "00001", "fingerprint": "f", "version": "v", "rows": 3, "seconds": 1.0, '
        '"created": 1.0, "details": {}}'
    )
    assert manifests.get("stage", "00001") is None and manifests.all("stage") == {}
