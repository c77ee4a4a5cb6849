"""`latent-assets releases` on a built atlas: what it prints, what it moves, what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latent_assets import cli
from latent_assets.atlas.release import stage
from latent_assets.atlas.table import LIVE, tags
from latent_assets.client import Atlas
from latent_assets.pipeline.makers.atlas import _contents
from latent_assets_tests.conftest import Built
from latent_assets_tests.e2e.small_atlas import SmallAtlas, small_atlas, write_profile

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def atlas(built: Built, tmp_path: Path) -> Iterator[SmallAtlas]:
    """A copy of the built atlas that the test may change."""
    shutil.copytree(built.profile.root, tmp_path / "root")
    profile = built.profile.model_copy(update={"root": str(tmp_path / "root")})
    with small_atlas(profile) as found:
        yield found


@pytest.fixture
def run(atlas: SmallAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`latent-assets releases ...`: exit code, standard output, standard error."""
    monkeypatch.setenv("LATENT_ASSETS_PROFILE", str(write_profile(atlas.profile, tmp_path / "copy.toml")))
    monkeypatch.setenv("LATENT_ASSETS_USER", "ada")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latent-assets", "releases", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, " ".join(printed.err.split())

    return call


def as_json(result: tuple[int, str, str]) -> Any:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def staged_again(atlas: SmallAtlas) -> int:
    """Stage the atlas once more, without publishing it: what a build leaves whose check failed."""
    info = Atlas.open(atlas.profile.root).info
    return stage(atlas.profile, atlas.lineage.storage, _contents(atlas.lineage), info).version


def live(atlas: SmallAtlas) -> int:
    return tags(atlas.lineage.storage.lance_uri)[LIVE]


def test_a_release_is_published_shown_compared_and_taken_back(run: Run, atlas: SmallAtlas) -> None:
    (first,) = as_json(run("list", "--json"))
    assert (first["version"], first["live"], first["rows"]) == (2, True, 60) and len(first["content"]) == 32
    code, text, said = run("rollback")
    assert code == 6 and "no release before" in said

    version = staged_again(atlas)
    assert live(atlas) == 2 and len(as_json(run("list", "--json"))) == 1, "what is staged is no release"
    code, text, said = run("publish", str(version))
    assert code == 0 and f"release-{version:05d} is live: 60 rows" in text and "passed row_count: 60" in said
    assert live(atlas) == version
    code, text, said = run("publish", str(version))
    assert code == 2 and "is a release already" in said
    code, text, said = run("publish", "99")
    assert code == 6 and "99" in said

    listed = as_json(run("list", "--json"))
    assert [(r["version"], r["live"]) for r in listed] == [(version, True), (2, False)]
    assert listed[0]["content"] == listed[1]["content"]
    code, text, _ = run("list")
    assert code == 0 and "release-00002" in text and "live" in text
    shown = as_json(run("show", "live", "--json"))
    assert shown["info"]["packages"]["pylance"] and shown["info"]["quality"].keys() == {"clip", "vae", "joint"}
    assert [(m["action"], m["before"], m["version"], m["who"]) for m in shown["moves"]] == [
        ("publish", 2, version, "ada")
    ]
    code, text, _ = run("show", "2")
    assert code == 0 and "by ada" in text and "model clip" in text

    differs = as_json(run("diff", "2", "live", "--json"))
    assert differs["same_rows"] is True and differs["rows"] == [60, 60] and differs["added"] == 0
    assert differs["drift"]["joint"]["moved"] == 0.0
    code, text, _ = run("diff", "release-00002")
    assert code == 0 and "the same rows" in text and "0 added, 0 removed" in text
    code, _, said = run("diff", "2", "17")
    assert code == 6 and "no release 17" in said

    started = time.perf_counter()
    code, text, _ = run("rollback")
    assert code == 0 and "release-00002 is live" in text and live(atlas) == 2
    assert time.perf_counter() - started < 5
    code, _, said = run("rollback", "live")
    assert code == 2 and "already" in said
    assert run("rollback", str(version))[0] == 0 and live(atlas) == version


def test_pruning_drops_what_nobody_needs(run: Run, atlas: SmallAtlas) -> None:
    storage = atlas.lineage.storage
    for _ in range(3):
        assert run("publish", str(staged_again(atlas)))[0] == 0
    # of a fit and a model that are gone
    storage.write_bytes("projection/ffffffffffffffffffffffffffffffff/model.safetensors", bytes(1000))
    storage.write_bytes("embeddings/ffffffffffffffffffffffffffffffff/00000.arrow", bytes(1000))
    used = {f"projection/{name}" for name in storage.folders("projection")} - {"projection/" + "f" * 32}
    kept = as_json(run("prune", "--json"))
    assert kept["releases"] == [] and kept["folders"] == [], "all of it is younger than the longest read"
    would = as_json(run("prune", "--keep", "1", "--days", "0", "--dry-run", "--json"))
    assert len(would["releases"]) == 3 and would["bytes"] == 0 and len(tags(storage.lance_uri)) == 5
    gone = as_json(run("prune", "--keep", "1", "--days", "0", "--json"))
    assert gone["releases"] == would["releases"] and gone["bytes"] > 2000
    assert sorted(gone["folders"]) == ["embeddings/" + "f" * 32, "projection/" + "f" * 32]
    assert used == {f"projection/{name}" for name in storage.folders("projection")}
    assert set(tags(storage.lance_uri)) == {LIVE, f"release-{live(atlas):05d}"}
    assert len(Atlas.open(atlas.profile.root)) == 60
    assert run("prune", "--days", "-1")[0] == 2
    # the release that the last build published is gone; nothing that it was made of is
    made = {stage for stage, _ in atlas.rebuild()}
    assert made <= {"laion_metadata", "atlas_table", "atlas_tiles", "placement_calibration"}, made
