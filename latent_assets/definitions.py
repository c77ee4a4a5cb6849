"""The code location. Assembly only: what the assets are is in `defs`, what they do is in the library."""

from __future__ import annotations

import os
import shlex
import sys

import dagster as dg

from latent_assets.defs.assets import all_assets
from latent_assets.defs.generated import generated_assets, generated_checks, inbox_sensor, place_job
from latent_assets.defs.instance import instance_home
from latent_assets.defs.jobs import jobs, schedules, sensors
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import DEFAULT_PROFILE, PROFILE_VARIABLE, Profile, load_profile
from latent_assets.storage import plain_path


def build_defs(profile: Profile | None = None, lineage: Lineage | None = None) -> dg.Definitions:
    """Definitions for a profile (default: the selected one).

    Everything in them carries the profile's name: `Definitions.merge` puts several atlases into one code location.
    """
    chosen = lineage or Lineage(profile or load_profile())
    return dg.Definitions(
        assets=[*all_assets(chosen), *generated_assets(chosen)],
        asset_checks=generated_checks(chosen),
        jobs=[*jobs(chosen), place_job(chosen)],
        schedules=schedules(chosen),
        sensors=[*sensors(chosen), inbox_sensor(chosen)],
        # one process: models load once, and the shards of a run share them
        executor=dg.in_process_executor,
        metadata={"profile": chosen.profile.name, "root": chosen.profile.root},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of the selected profiles: $LATENT_ASSETS_PROFILE, several with commas in between; else the demo."""
    _warn_without_home()
    selected = os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    return dg.Definitions.merge(*(build_defs(load_profile(name)) for name in selected.split(",")))


def _warn_without_home() -> None:
    """Say why a UI that was started by hand is empty: without DAGSTER_HOME, Dagster keeps nothing."""
    if "DAGSTER_HOME" not in os.environ and {"grpc", "code-server"} & set(sys.argv):
        profile = load_profile((os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE).split(",")[0])
        print(  # noqa: T201
            f"DAGSTER_HOME is not set, so this UI is empty and keeps nothing: stop it and start `latent-assets ui`, or "
            f"set DAGSTER_HOME={shlex.quote(str(plain_path(instance_home(profile))))}",
            file=sys.stderr,
        )
