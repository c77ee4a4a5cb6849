"""The code location. Assembly only: what the assets are is in `defs`, what they do is in the library."""

from __future__ import annotations

import dagster as dg

from latent_assets.defs.assets import stage_assets
from latent_assets.defs.jobs import jobs, schedules, sensors
from latent_assets.defs.sources import source_assets
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile, load_profile


def build_defs(profile: Profile | None = None, lineage: Lineage | None = None) -> dg.Definitions:
    """Definitions for a profile (default: the selected one).

    Everything in them carries the profile's name: `Definitions.merge` puts several atlases into one code location.
    """
    chosen = lineage or Lineage(profile or load_profile())
    return dg.Definitions(
        assets=[*source_assets(chosen), *stage_assets(chosen)],
        jobs=jobs(chosen),
        schedules=schedules(chosen),
        sensors=sensors(chosen),
        # one process: models load once, and the shards of a run share them
        executor=dg.in_process_executor,
        metadata={"profile": chosen.profile.name, "root": chosen.profile.root},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The selected profile's definitions ($LATENT_ASSETS_PROFILE, else the demo)."""
    return build_defs()
