"""The Dagster instance of an atlas: where its runs, events and partitions are kept, and which runs may meet."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import dagster as dg
from filelock import FileLock

from latent_assets.errors import StorageError
from latent_assets.profile import Profile, home
from latent_assets.storage import fingerprint, plain_path

_SETTINGS = """\
# Written once for a local atlas; yours to edit. infra/dagster.yaml has settings for production.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    # a run waits in the queue, not in a process of its own, until its pools are free
    granularity: run
    # one run at a time fetches (hosts are asked politely by one fetcher), encodes (models fill the memory), and works
    # on the atlas as a whole; each artefact is also claimed by the process that makes it
    default_limit: 1
  runs:
    max_concurrent_runs: 4
run_monitoring:
  enabled: true
  # a killed run does not keep its place in a pool
  free_slots_after_run_end_seconds: 60
"""

# runs at a time of the pools whose work is small and never meets: "{profile}/{pool}"
POOL_LIMITS = {"catalog": 2, "projection": 2, "fetch": 1, "models": 1, "whole": 1, "generated": 1}


def instance_home(profile: Profile) -> Path:
    """Directory of the instance: $DAGSTER_HOME when it is set, else one per profile and root below the home."""
    if value := os.environ.get("DAGSTER_HOME"):
        return Path(value).expanduser()
    usual = str(home() / profile.name)
    return home() / "dagster" / (profile.name + ("" if profile.root == usual else f"-{fingerprint(profile.root)[:8]}"))


def open_instance(profile: Profile) -> dg.DagsterInstance:
    """The instance that the UI shows too; made when it is not there. Raises StorageError when it cannot be."""
    folder = instance_home(profile)
    with ExitStack() as opening:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opening.enter_context(_alone(folder))
            settings = folder / "dagster.yaml"
            if not settings.exists():
                settings.write_text(_SETTINGS, encoding="utf-8")
            # Dagster looks for its settings by pattern: below `[x]` it would go on without them, telemetry switched on
            os.environ["DAGSTER_HOME"] = str(plain_path(folder))
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be written ({error.strerror}): set LATENT_ASSETS_HOME to a directory that can."
            ) from error
        return dg.DagsterInstance.get()


def _alone(folder: Path) -> AbstractContextManager[object]:
    """One process at a time: two that make the tables of one new instance get in each other's way.

    An instance whose directory cannot be written keeps its tables elsewhere.
    """
    written = os.access(folder, os.W_OK) or not (folder / "dagster.yaml").exists()
    return FileLock(folder / "open.lock") if written else nullcontext()


def limit_pools(instance: dg.DagsterInstance, profile: Profile) -> None:
    """Set the limits of a profile's pools where the instance has none yet."""
    known = {info.name for info in instance.event_log_storage.get_pool_limits() if info.limit is not None}
    for pool, limit in POOL_LIMITS.items():
        name = f"{profile.name}/{pool}"
        if name not in known:
            instance.event_log_storage.set_concurrency_slots(name, limit)


LOCATION = "latent_assets"  # the code location's name, as in workspace.yaml


def write_workspace(profile: Profile) -> Path:
    """The workspace file of the instance: the code location under its usual name, whatever directory this is."""
    file = instance_home(profile) / "workspace.yaml"
    location = {"module_name": "latent_assets.definitions", "location_name": LOCATION}
    lines = ["load_from:", "  - python_module:", *(f"      {key}: {value}" for key, value in location.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
