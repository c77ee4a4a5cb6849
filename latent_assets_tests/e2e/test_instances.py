"""What an instance keeps apart, and what a Dagster that was started without one says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

import latent_assets
from latent_assets.defs.instance import instance_home, limit_pools, open_instance
from latent_assets.profile import Profile, load_profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.dagster_ui import free_port, running, serving_ui, wait_until
from latent_assets_tests.e2e.small_atlas import write_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_runs_of_one_pool_follow_each_other_and_others_do_not_wait(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path
) -> None:
    """Three runs are asked for at once: two that fetch, whose pool admits one, and one of the catalog."""
    profile = small_profile()
    with open_instance(profile) as instance:
        limit_pools(instance, profile)
        with serving_ui(
            str(instance_home(profile)), str(write_profile(profile, tmp_path / "profile.toml")), daemon=True
        ) as ui:
            assert ui.wait_for_run(ui.launch(["laion_metadata"])) == "SUCCESS"
            for shard in ("00000", "00001"):
                assert ui.wait_for_run(ui.launch(["shard_catalog"], shard)) == "SUCCESS"
            gallery.delay = 0.8  # 20 images, one host: a fetch lasts longer than the queue's look around
            fetches = [ui.launch(["image_shards"], shard) for shard in ("00000", "00001")]
            other = ui.launch(["shard_catalog"], "00002")
            assert [ui.wait_for_run(run) for run in [*fetches, other]] == ["SUCCESS"] * 3
        first, second = sorted(_worked(instance, run) for run in fetches)
        assert first[1] <= second[0], "two runs of one pool met"
        begun, _ = _worked(instance, other)
        assert begun < second[1], "a run of another pool waited for both"


def _worked(instance: dg.DagsterInstance, run: str) -> tuple[float, float]:
    """When a run's process began and ended its work."""
    record = instance.get_run_record_by_id(run)
    assert record is not None and record.start_time is not None and record.end_time is not None
    return record.start_time, record.end_time


@pytest.mark.parametrize("program", ["dagster", "dg"])
def test_dagster_without_a_home_says_how_to_see_the_atlas(program: str, tmp_path: Path) -> None:
    """In the checkout, as its documentation says to start it: one line names the command and the directory."""
    checkout = Path(latent_assets.__file__).parents[1]
    if program == "dagster":
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", "workspace.yaml"]
    else:
        command = [str(Path(sys.executable).with_name("dg")), "dev"]
    environment = {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "yes", "PYTHONPATH": str(checkout)}
    address = ["-h" if program == "dagster" else "--host", "127.0.0.1", "--port", str(free_port())]
    log = tmp_path / "log"

    with running([*command, *address], checkout, log, environment) as process:

        def told() -> str | None:
            assert process.poll() is None, log.read_text()
            return next((line for line in log.read_text().splitlines() if "DAGSTER_HOME is not set" in line), None)

        line = wait_until(told, 180)
    assert "`latent-assets ui`" in line and f"DAGSTER_HOME={instance_home(load_profile('demo'))}" in line
    left = [path.name for path in checkout.iterdir() if path.name.startswith(".tmp_dagster_home")]
    for name in left:  # what a killed `dagster dev` leaves behind
        subprocess.run(["rm", "-rf", str(checkout / name)], check=True)
