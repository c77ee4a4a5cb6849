"""Switching the automation of an atlas on and off, as the UI's switches do."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg

from latent_assets.defs.instance import LOCATION, write_workspace
from latent_assets.defs.jobs import automation_names
from latent_assets.errors import LatentAssetsError
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile


def switch_automation(instance: dg.DagsterInstance, profile: Profile, on: bool) -> None:
    """Start or stop the schedules and sensors of a profile. Raises LatentAssetsError with what Dagster says."""
    schedules, sensors = automation_names(Lineage(profile))
    workspace = write_workspace(profile)
    states = automation_states(instance, profile)
    for kind, names in (("schedule", schedules), ("sensor", sensors)):
        for name in names:
            if states[name] == on:
                continue
            command = [sys.executable, "-W", "ignore", "-m", "dagster", kind, "start" if on else "stop"]
            done = subprocess.run(
                [*command, "-w", str(workspace), "-l", LOCATION, name],
                capture_output=True,
                text=True,
                check=False,
                cwd=workspace.parent,
                env=os.environ,
            )
            if done.returncode:
                raise LatentAssetsError(f"{name} could not be switched: {(done.stderr or done.stdout).strip()[-500:]}")


def automation_states(instance: dg.DagsterInstance, profile: Profile) -> dict[str, bool]:
    """Whether each schedule and sensor of a profile is running, by name."""
    schedules, sensors = automation_names(Lineage(profile))
    running = {state.instigator_name for state in instance.all_instigator_state() if state.is_running}
    return {name: name in running for name in (*schedules, *sensors)}
