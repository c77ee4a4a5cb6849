"""The Dagster instance of an atlas, opened by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from latent_assets.defs.instance import instance_home, open_instance
from latent_assets.profile import Profile, load_profile
from latent_assets_tests.e2e.small_atlas import write_profile


def _open(file: str, together: Barrier) -> None:
    profile = load_profile(file)
    together.wait(120)
    with open_instance(profile) as instance:
        assert instance.get_runs() == []


def test_processes_that_begin_together_make_one_instance(small_profile: Callable[..., Profile], tmp_path: Path) -> None:
    file = write_profile(small_profile(), tmp_path / "profile.toml")
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(4)
    processes = [spawn.Process(target=_open, args=(str(file), together)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


def test_a_directory_that_only_has_the_settings_is_opened_as_it_is(
    small_profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster mounts it, read-only, with the tables in a database elsewhere."""
    profile = small_profile()
    with open_instance(profile):
        folder = instance_home(profile)
    (folder / "open.lock").unlink(missing_ok=True)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    with open_instance(profile) as instance:
        assert instance.get_runs() == []
    assert not (folder / "open.lock").exists()
