"""All that the code location defines for the demo, as it was recorded: a change of it is seen in review.

After a change that is meant: `python -m latent_assets_tests.defs.test_snapshot` records anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg

from latent_assets.definitions import build_defs
from latent_assets.profile import load_profile

_RECORDED = Path(__file__).with_name("definitions.json")


def described(definitions: dg.Definitions) -> dict[str, Any]:
    """Assets, checks, jobs, schedules and sensors by name, without what differs between two checkouts."""
    assets: dict[str, Any] = {}
    checks: dict[str, Any] = {}
    for definition in definitions.resolve_asset_graph().assets_defs:
        for key in definition.keys:
            spec = definition.specs_by_key[key]
            assets[key.to_user_string()] = {
                "group": spec.group_name,
                "kinds": sorted(spec.kinds),
                "owners": list(spec.owners),
                "parents": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
                "description": spec.description,
                "partitions": getattr(spec.partitions_def, "name", None),
                "pools": sorted(definition.op.pools) if definition.is_executable else [],
                "automated": spec.automation_condition is not None,
                "metadata": sorted(spec.metadata),
                "tags": sorted(name for name in spec.tags if not name.startswith("dagster/kind/")),
            }
        for check in definition.check_specs:
            name = f"{check.asset_key.to_user_string()}:{check.name}"
            checks[name] = {"description": check.description, "blocking": check.blocking}
    return {
        "assets": assets,
        "checks": checks,
        "jobs": sorted(job.name for job in definitions.jobs or ()),
        "schedules": {
            schedule.name: [schedule.cron_schedule, schedule.default_status.value]
            for schedule in definitions.schedules or ()
            if isinstance(schedule, dg.ScheduleDefinition)
        },
        "sensors": {
            sensor.name: sensor.default_status.value
            for sensor in definitions.sensors or ()
            if isinstance(sensor, dg.SensorDefinition)
        },
    }


def recorded_now() -> str:
    return json.dumps(described(build_defs(load_profile("demo"))), indent=1, sort_keys=True) + "\n"


def test_definitions_are_as_recorded() -> None:
    assert json.loads(recorded_now()) == json.loads(_RECORDED.read_text(encoding="utf-8"))


if __name__ == "__main__":
    _RECORDED.write_text(recorded_now(), encoding="utf-8")
