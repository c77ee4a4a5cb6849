"""A whole atlas below a directory whose name is a pattern, a URL and a shell's nightmare."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latent_assets.client import Atlas
from latent_assets.profile import load_profile
from latent_assets_tests.conftest import profile_over, serving_gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.small_models import write_clip, write_vae

ODD = 'a [b]*#%41 it\'s "q" ?é;&$(x)~'


@pytest.mark.slow
def test_everything_works_below_an_odd_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / ODD
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(odd / "home"))
    models: dict[str, dict[str, Any]] = {
        "clip": write_clip(odd / "models" / "clip"),
        "vae": {**write_vae(odd / "models" / "vae"), "batch_size": 16},
    }
    with serving_gallery(odd / "gallery") as gallery:
        (odd / "remove.csv").write_text(f"url\n{gallery.url('000.png')}\n")
        (odd / "remove.txt").write_text(f"{gallery.url('001.png')}\n")
        lists = ["remove.csv", "remove.txt"]
        profile = profile_over(gallery, models, odd, filters={"remove": lists}, examples=["it's `red`", '"x" $HOME'])
        file = write_profile(profile, odd / "the profile's.toml")
        assert load_profile(file) == profile
        with small_atlas(profile) as atlas:
            results = atlas.build()
            assert not any(result.failed for result in results.values())
            assert not atlas.instance.telemetry_enabled
            assert atlas.rebuild() == set()
        found = Atlas.open(profile.root)
        assert len(found) == 58 and len(found.search_text("red", k=3)) == 3
        assert Atlas.open(found.uri).version == found.version
        # the commands that a build prints can be pasted
        monkeypatch.delenv("DAGSTER_HOME")
        command = [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=odd)
        assert done.returncode == 0, done.stderr
        printed = done.stdout.partition("Try:\n")[2].splitlines()
        assert [shlex.split(line)[-3:] for line in printed] == [[query, "-p", str(file)] for query in profile.examples]
        pasted = subprocess.run(
            ["sh", "-c", printed[0]], capture_output=True, text=True, timeout=300, check=False, cwd=odd
        )
        assert pasted.returncode == 0 and "cosine similarity" in pasted.stdout, pasted.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {ODD, "state"}, "nothing is written elsewhere"
    assert not [path for path in odd.iterdir() if "%5B" in path.name]
    assert all(
        os.fspath(link.resolve()).startswith(str(odd)) for link in (tmp_path / "state" / "latent-assets").iterdir()
    )
