"""The alert: a failed run of an atlas reaches the command that the operator named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from latent_assets.defs import tags
from latent_assets.defs.jobs import ALERT_VARIABLE, send_alert, sensors
from latent_assets.defs.partitions import op_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the alert's command got on its input; the file is not there before it ran."""
    file, script = tmp_path / "heard.json", tmp_path / "listen.py"
    script.write_text(f"import pathlib, sys; pathlib.Path({str(file)!r}).write_text(sys.stdin.read())")
    monkeypatch.setenv(ALERT_VARIABLE, f"'{sys.executable}' '{script}'")
    return file


def fail(profile: Profile, run_of: str) -> None:
    """A run of `run_of` fails, and the alert of `profile` is told."""

    @dg.op
    def breaks() -> None:
        raise ValueError("the disk is full")

    @dg.job
    def broken() -> None:
        breaks()

    name = op_name(profile, "alert_on_failure")
    alert = next(found for found in sensors(Lineage(profile)) if found.name == name)
    with dg.DagsterInstance.ephemeral() as instance:
        run = broken.execute_in_process(instance=instance, raise_on_error=False, tags={tags.PROFILE: run_of})
        context = dg.build_run_status_sensor_context(
            sensor_name=name,
            dagster_instance=instance,
            dagster_run=run.dagster_run,
            dagster_event=run.get_run_failure_event(),
        )
        alert(context.for_run_failure())


def test_a_failed_run_reaches_the_command(small_profile: Callable[..., Profile], heard: Path) -> None:
    profile = small_profile()
    fail(profile, run_of=profile.name)
    message = json.loads(heard.read_text())
    assert message["profile"] == profile.name and message["job"] == "broken" and message["run"]
    assert "failed" in message["error"]


def test_the_run_of_another_atlas_does_not(small_profile: Callable[..., Profile], heard: Path) -> None:
    fail(small_profile(), run_of="another")
    assert not heard.exists()


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        send_alert([sys.executable, "-c", "raise SystemExit(3)"], {})
