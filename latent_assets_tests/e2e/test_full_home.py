"""A disk that is full or read-only and holds Dagster's instance, too: said in a sentence, not in SQL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from latent_assets.defs.instance import open_instance
from latent_assets.profile import Profile
from latent_assets_tests.e2e.small_atlas import write_profile
from latent_assets_tests.e2e.test_faults import command, small_disk


@dataclass
class Home:
    """A disk with root and home on it, where an instance was made already."""

    disk: Path
    file: Path

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        found = os.statvfs(self.disk)
        with (self.disk / "filler").open("wb") as file:
            file.write(bytes(max(0, found.f_bavail * found.f_frsize - left)))

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.disk)], check=True)

    def build(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command("build", "-p", str(self.file)), capture_output=True, text=True, check=False)


@pytest.fixture
def home(small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        monkeypatch.setenv("LATENT_ASSETS_HOME", str(disk / "home"))
        profile = small_profile(root=str(disk / "root"))
        with open_instance(profile):
            pass
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        yield Home(disk, write_profile(profile, tmp_path / "profile.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 120_000])
def test_a_full_disk_is_named(home: Home, left: int) -> None:
    home.fill(left)
    done = home.build()
    assert done.returncode in (1, 4)
    assert "is full" in done.stderr and "what is finished is kept" in done.stderr.lower(), done.stderr
    for noise in ("SQL", "sqlite", "Traceback", "unexpected"):
        assert noise not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_read_only_disk_is_named(home: Home) -> None:
    home.remount("ro")
    done = home.build()
    home.remount("rw")
    assert done.returncode == 4 and "read-only" in done.stderr.lower(), done.stderr
    for noise in ("SQL", "sqlite", "Traceback", "unexpected"):
        assert noise not in done.stderr, done.stderr
