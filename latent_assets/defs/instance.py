"""The Dagster instance of an atlas: where its runs, events and partitions are kept."""

import os
from pathlib import Path

import dagster as dg

from latent_assets.errors import StorageError
from latent_assets.profile import Profile, home
from latent_assets.storage import fingerprint

_SETTINGS = """\
# Written once for a local atlas; yours to edit. infra/ has settings for production.
telemetry:
  enabled: false
nux:
  enabled: false
# one run at a time: a run's shards share the models, and hosts are asked politely by one fetcher
concurrency:
  runs:
    max_concurrent_runs: 1
"""


def instance_home(profile: Profile) -> Path:
    """Directory of the instance: $DAGSTER_HOME when it is set, else one per profile and root below the home."""
    if value := os.environ.get("DAGSTER_HOME"):
        return Path(value).expanduser()
    usual = str(home() / profile.name)
    return home() / "dagster" / (profile.name + ("" if profile.root == usual else f"-{fingerprint(profile.root)[:8]}"))


def open_instance(profile: Profile) -> dg.DagsterInstance:
    """The instance that the UI shows too; made when it is not there. Raises StorageError when it cannot be."""
    folder = instance_home(profile)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "dagster.yaml"
        if not settings.exists():
            settings.write_text(_SETTINGS, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error.strerror}): set LATENT_ASSETS_HOME to a directory that can."
        ) from error
    os.environ["DAGSTER_HOME"] = str(folder)
    return dg.DagsterInstance.get()
