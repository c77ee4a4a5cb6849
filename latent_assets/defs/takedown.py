"""A takedown as Dagster sees it: what its log and its pictures say of the images goes, too.

A run whose events show or name one of them is deleted with all of them, and the assets' own records of their last
events; what is current is told to the instance anew, without them. What is taken out of the atlas is `pipeline`'s.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from latent_assets.defs.build import end_dead_runs
from latent_assets.defs.generated import PROJECTION
from latent_assets.defs.instance import instance_home
from latent_assets.defs.metadata import event_metadata
from latent_assets.defs.partitions import asset_key
from latent_assets.defs.provenance import Provenance, observe_sources, unrecorded
from latent_assets.errors import DataError, LatentAssetsError
from latent_assets.pipeline.lineage import Lineage, Materialized
from latent_assets.pipeline.manifests import WHOLE
from latent_assets.pipeline.states import State
from latent_assets.pipeline.takedown import Match, Outcome, Plan, begin, carry_out, unfinished

_RUNLESS = ""  # run id of events that no run wrote
_FEWEST_CHARACTERS = 6  # of a caption that is looked for: shorter ones are words of other texts
# stages whose pictures show all rows
_SHOWN_WHOLE = ("umap_model", "atlas_table")


@dataclass(frozen=True)
class TakenDown:
    """What a takedown did: its outcome, and the ids of the runs that are gone."""

    outcome: Outcome
    runs: tuple[str, ...]


def take_down(
    lineage: Lineage, instance: dg.DagsterInstance, found: Match, reason: str, named: Mapping[str, int]
) -> TakenDown:
    """Take images out of everything, Dagster's log included.

    Raises DataError while a run of the atlas goes on: it could write what is taken out.
    """
    with lineage.claims.alone("a takedown"):
        _refuse_runs(lineage, instance)
        return _carry_out(lineage, instance, begin(lineage, found, reason, named), found.texts)


def resume(lineage: Lineage, instance: dg.DagsterInstance) -> list[TakenDown]:
    """End the takedowns that were begun and did not end."""
    with lineage.claims.alone("a takedown"):
        _refuse_runs(lineage, instance)
        return [_carry_out(lineage, instance, plan, ()) for plan in unfinished(lineage.storage)]


def _refuse_runs(lineage: Lineage, instance: dg.DagsterInstance) -> None:
    if going := end_dead_runs(lineage, instance):
        raise DataError(
            f"{len(going)} runs go on in this Dagster instance, the first is {going[0][:8]}: wait for them or stop "
            "them, then start again. Nothing was taken down."
        )


def _carry_out(lineage: Lineage, instance: dg.DagsterInstance, plan: Plan, texts: Iterable[str]) -> TakenDown:
    runs = forget_runs(lineage, instance, plan, texts)
    outcome = carry_out(lineage, plan, [f"{len(runs)} runs of Dagster deleted", *_beyond(instance)])
    record_current(lineage, instance, outcome)
    return TakenDown(outcome, runs)


def _beyond(instance: dg.DagsterInstance) -> list[str]:
    """What of the instance is beyond reach."""
    kind = type(instance.event_log_storage).__name__
    return [] if "Sqlite" in kind else [f"{kind}: deleted rows stay in its files until the database's own vacuum"]


# -- the log -------------------------------------------------------------------------------------------


def forget_runs(lineage: Lineage, instance: dg.DagsterInstance, plan: Plan, texts: Iterable[str]) -> tuple[str, ...]:
    """Delete the runs that name or show an image of the plan, and the assets' records; the ids of the runs."""
    needles = _Needles(lineage, plan, texts)
    gone = [run.run_id for run in instance.get_runs() if needles.in_events(instance, run.run_id)]
    for run_id in gone:
        instance.delete_run(run_id)
        _delete_captured(instance, run_id)
    if needles.in_events(instance, _RUNLESS):
        instance.event_log_storage.delete_events(_RUNLESS)
    if plan.shards:
        names = [*lineage.stages, PROJECTION]
        instance.wipe_assets([asset_key(lineage.profile, name) for name in names])
    _compact(lineage, instance, gone)
    return tuple(gone)


class _Needles:
    """Tells whether an event says something of the images of a plan, or shows them."""

    def __init__(self, lineage: Lineage, plan: Plan, texts: Iterable[str]) -> None:
        profile = lineage.profile
        self._texts = {*plan.ids, *plan.images, *(text for text in texts if len(text) >= _FEWEST_CHARACTERS)}
        # in a log texts stand as JSON writes them
        self._texts |= {json.dumps(text)[1:-1] for text in self._texts}
        self._partitioned = {asset_key(profile, name) for name, stage in lineage.stages.items() if stage.sharded}
        self._whole = {asset_key(profile, name) for name in (*_SHOWN_WHOLE, PROJECTION)}
        self._shards = set(plan.shards)

    def in_events(self, instance: dg.DagsterInstance, run_id: str) -> bool:
        """Whether one of a run's events does."""
        return any(self._hit(entry) for entry in instance.all_logs(run_id))

    def _hit(self, entry: dg.EventLogEntry) -> bool:
        event = entry.dagster_event
        if self._shards and event is not None and event.is_step_materialization:
            found = event.step_materialization_data.materialization
            if found.asset_key in self._whole:
                return True
            if found.asset_key in self._partitioned and found.partition in self._shards:
                return True
        text = dg.serialize_value(entry) if not event else f"{entry.user_message} {dg.serialize_value(event)}"
        return any(needle in text for needle in self._texts)


def _delete_captured(instance: dg.DagsterInstance, run_id: str) -> None:
    """What a run printed."""
    with suppress(NotImplementedError, OSError):
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    with suppress(OSError, NotImplementedError):
        shutil.rmtree(Path(instance.storage_directory()) / run_id, ignore_errors=True)


def _compact(lineage: Lineage, instance: dg.DagsterInstance, gone: Iterable[str]) -> None:
    """Rows that are deleted stay in a SQLite file until it is written anew."""
    history = instance_home(lineage.profile) / "history"
    for run_id in gone:
        for file in history.rglob(f"{run_id}.db*"):
            file.unlink(missing_ok=True)
    for file in instance_home(lineage.profile).rglob("*.db"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(file, timeout=30)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")


# -- told anew -----------------------------------------------------------------------------------------


def record_current(lineage: Lineage, instance: dg.DagsterInstance, outcome: Outcome) -> None:
    """Tell the instance of every artefact that is current and that it does not know as it is."""
    for observed in observe_sources(instance, lineage, list(_readable_sources(lineage))):
        instance.report_runless_asset_event(observed)
    for stage, statuses in lineage.status().items():
        current = {s.key: s.manifest for s in statuses if s.state is State.CURRENT and s.manifest}
        provenance = Provenance(instance, lineage, stage)
        for key in unrecorded(instance, lineage, stage, current):
            made = Materialized(current[key], unchanged=False, pictures=outcome.pictures.get((stage, key), {}))
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset_key=asset_key(lineage.profile, stage),
                    partition=None if key == WHOLE else key,
                    metadata={**_facts(lineage, made), "work": "after a takedown"},
                    tags=provenance.tags(made.manifest),
                )
            )


def _facts(lineage: Lineage, made: Materialized) -> dict[str, Any]:
    return event_metadata(lineage, made)


def _readable_sources(lineage: Lineage) -> Iterator[str]:
    for name in lineage.sources:
        with suppress(LatentAssetsError):
            lineage.observed(name)
            yield name
