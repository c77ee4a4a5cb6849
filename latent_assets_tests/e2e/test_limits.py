"""A whole build where the machine allows little: it ends well, or stops and names the limit."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pytest

from latent_assets import cli
from latent_assets.images import faults
from latent_assets.images.download import http_client
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.small_atlas import write_profile


@pytest.mark.slow
def test_a_build_with_few_open_files(small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery) -> None:
    files = 128
    profile = small_profile(fetch={"concurrency": 256, "per_host": 256})
    gallery.delay = 0.05
    done = subprocess.run(
        [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(write_profile(profile, tmp_path / "p.toml"))],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    assert done.returncode == 0, done.stderr
    outcomes = [m.details["reasons"] for m in Lineage(profile).manifests.all("image_shards").values()]
    assert outcomes == [{"ok": 20}] * 3
    assert lance.dataset(f"{profile.root}/lance/atlas.lance", version="live").count_rows() == 60


@pytest.mark.slow
def test_a_limit_stops_the_build_with_its_name(
    small_profile: Callable[..., Profile],
    tmp_path: Path,
    gallery: Gallery,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_profile(small_profile(fetch={"timeout": 0.1}), tmp_path / "p.toml")

    def refused(info: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(http_client, "routed_socket", refused)
    monkeypatch.setattr(faults, "_SHORTEST_PATIENCE", 0.3)
    monkeypatch.setattr(sys, "argv", ["latent-assets", "build", "-p", str(file)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 8
    assert "error: The open files of this machine ran out (Too many open files)." in said
    assert "ulimit -n" in said and "Traceback" not in said and "build again" in said
    assert gallery.requests == []
    monkeypatch.undo()
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(tmp_path / "home"))
    status = Lineage(small_profile(fetch={"timeout": 0.1})).status(["image_shards"])["image_shards"]
    assert [found.state for found in status] == ["failed", "missing", "missing"], "no further shard was begun"
