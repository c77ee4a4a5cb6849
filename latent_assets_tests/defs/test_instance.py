"""The Dagster instance of an atlas, opened by several processes."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import dagster as dg
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


ODD = ["[ab] x*y", "x?y=1", "100% %41 a#b", 'it\'s "q" zoë $HOME;`x`']


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("variable", ["LATENT_ASSETS_HOME", "DAGSTER_HOME"])
def test_settings_are_found_below_any_directory(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / name))
    profile = small_profile()
    folder = instance_home(profile)
    with open_instance(profile) as instance:
        assert not instance.telemetry_enabled and not instance.nux_enabled
        queue = instance.get_concurrency_config()
        assert queue.run_queue_config is not None and queue.run_queue_config.max_concurrent_runs == 4
        assert queue.pool_config.default_pool_limit == 1
        assert instance.get_runs() == []
    assert folder.is_relative_to(tmp_path / name) and (folder / "history" / "runs.db").is_file()
    found = {path.name for path in tmp_path.iterdir()}
    assert found <= {name, "gallery", "state"}, "nothing is written elsewhere"
    # as the processes that the UI starts find it
    with dg.DagsterInstance.get() as again:
        assert not again.telemetry_enabled


def test_a_link_is_made_anew_when_it_leads_elsewhere(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(tmp_path / "[home]"))
    with open_instance(small_profile()):
        link = Path(os.environ["DAGSTER_HOME"])
    assert link.is_symlink() and link.is_relative_to(tmp_path / "state")
    target = link.readlink()
    link.unlink()
    link.symlink_to(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME")
    with open_instance(small_profile()) as instance:
        assert not instance.telemetry_enabled
    assert link.readlink() == target
    # without a directory that lasts, there is the system's for temporary files
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_instance(small_profile()) as instance:
        assert not instance.telemetry_enabled
    assert Path(os.environ["DAGSTER_HOME"]).parent == tmp_path / f"latent-assets-{os.getuid()}"
