"""The whole graph over a root on S3: built, unchanged, changed and asked, with nothing of the atlas on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.s3_server import BUCKET, SECRET, restartable_s3_server, s3_server

OUTAGES = ("image_shards", "vae_latents", "atlas_table")


@pytest.mark.slow
def test_an_atlas_on_s3(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        profile = small_profile(root=f"s3://{BUCKET}/small")
        with small_atlas(profile) as atlas:
            assert len(atlas.rebuild()) == 7 + 6 * 3
            assert atlas.rebuild() == set()
            gallery.write([name for name in sorted(gallery.files) if name != "007.png"])
            made = atlas.rebuild()
            assert len([key for stage, key in made if stage == "image_shards"]) == 1
            found = Atlas.open(profile.root)
            assert len(found) == 59
            first = found.search_text("a circle", k=3)[0]
            assert first.id not in {hit.id for hit in found.neighbors(first.id, k=5)}
            events = [str(entry) for run in atlas.instance.get_runs() for entry in atlas.instance.all_logs(run.run_id)]
            assert events and not any(SECRET in text for text in events), "credentials stay out of logs and metadata"
    assert not Path(str(tmp_path / "root")).exists()


@pytest.mark.slow
def test_a_server_that_is_restarted_during_a_build_is_waited_for(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone for three seconds and its start, as each of these stages begins."""
    profile = small_profile(root=f"s3://{BUCKET}/small", fetch={"concurrency": 4, "per_host": 4})
    file = write_profile(profile, tmp_path / "profile.toml")
    gallery.delay = 0.05
    (tmp_path / "s3").mkdir()
    with restartable_s3_server(tmp_path / "s3") as server:
        command = [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(file)]
        environment = {**os.environ, **server.environment}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        waiting, said = list(OUTAGES), list[str]()
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if waiting and line.startswith(waiting[0]):
                waiting.pop(0)
                server.stop()
                time.sleep(3)
                server.start()
        assert process.wait(600) == 0, "".join(said)
        assert waiting == [], "".join(said)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        found = Atlas.open(profile.root)
        assert len(found) == found.to_polars(["id"])["id"].n_unique() == 60
        assert sorted(gallery.requests) == sorted(gallery.files), "nothing was fetched twice"
        with small_atlas(profile) as atlas:
            assert atlas.rebuild() == set(), "everything is recorded and sound"
