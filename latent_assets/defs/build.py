"""Building an atlas: the runs that bring everything up to date, in lineage order, on the atlas's own instance.

Decides which assets and shards a run takes, from what `Lineage` says is not current. The same runs can be
started in the UI; nothing here does work that an asset would not do.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import dagster as dg

from latent_assets.defs import partitions
from latent_assets.defs.sources import source_names
from latent_assets.errors import LatentAssetsError
from latent_assets.pipeline.lineage import WHOLE, Lineage, Standing, State
from latent_assets.storage import process_lives

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_PROCESS = "latent_assets/process"
_DUE = (State.MISSING, State.STALE, State.FAILED)


@dataclass(frozen=True)
class StageResult:
    """What a build did for one stage: artefacts made, artefacts that were current, and what failed."""

    stage: str
    done: int
    unchanged: int
    failed: dict[str, str]
    seconds: float


Announce = Callable[[str, int, int], None]


class Builder:
    """Brings one atlas up to date."""

    def __init__(self, definitions: dg.Definitions, lineage: Lineage, instance: dg.DagsterInstance) -> None:
        self.lineage, self.instance = lineage, instance
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def build(
        self, announce: Announce = lambda stage, due, total: None, retry: Sequence[str] = ()
    ) -> Iterator[StageResult]:
        """Run what is not current, stage by stage; `announce(stage, due, total)` comes before each stage.

        `retry`: reasons of failed rows that are fetched once more (see `images.outcome.Reason`).
        A stage whose shards partly failed lets the others go on; what needs all of them then fails and names
        what is missing.
        """
        self.lineage.refresh()
        self.lineage.storage.sweep()
        self._end_dead_runs()
        announce("sources", 0, 0)
        self._observe()
        embeddings: list[str] = [name for name in ("vae_latents", "clip_embeddings") if name in self.lineage.stages]
        steps: list[list[str]] = [[name] for name in self.lineage.stages if name not in embeddings]
        steps.insert(3, embeddings)
        for stages in steps:
            yield from self._step(stages, announce, retry if stages == ["image_shards"] else ())

    def _step(self, stages: list[str], announce: Announce, retry: Sequence[str]) -> Iterator[StageResult]:
        """Bring one stage, or the two embedding stages together, up to date."""
        before = {stage: self.lineage.standing(stage) for stage in stages}
        started = time.perf_counter()
        due = {stage: [s.key for s in before[stage] if s.state in _DUE] for stage in stages}
        for stage in stages:
            due[stage] += self._unrecorded(stage, before[stage])
        if stages == ["shard_catalog"] and (due["shard_catalog"] or self._catalog_is_newer()):
            # one cheap run over all shards tells Dagster which of them changed and which did not
            due["shard_catalog"] = self.lineage.keys("shard_catalog")
        if retry:
            held = {s.key: s.manifest.details["reasons"] for s in before["image_shards"] if s.manifest}
            due["image_shards"] += [key for key, reasons in held.items() if set(retry) & set(reasons)]
        work = sorted({key for keys in due.values() for key in keys})
        announce(" + ".join(stages), len(work), len(before[stages[0]]))
        for selection, keys in self._runs(due):
            self._run(selection, keys, {"image_shards": {"config": {"retry": list(retry)}}} if retry else {})
        after = {stage: self.lineage.standing(stage) for stage in stages} if work else before
        for stage in stages:
            yield _result(stage, before[stage], after[stage], time.perf_counter() - started)

    def _unrecorded(self, stage: str, standings: Sequence[Standing]) -> list[str]:
        """Current artefacts that the instance does not know of as they are.

        A killed run has finished shards that it did not record; another instance may have made them. Their run
        finds nothing to do and records them.
        """
        current = {s.key: s.manifest.version for s in standings if s.state is State.CURRENT and s.manifest}
        if not current:
            return []
        recorded: dict[str, str] = {}
        limit = min(3 * len(current) + 8, 4_000)
        for record in self.instance.fetch_materializations(dg.AssetKey(stage), limit=limit).records:
            event = record.asset_materialization
            if event is not None:
                recorded.setdefault(event.partition or WHOLE, (event.tags or {}).get("dagster/data_version", ""))
        older = self.instance.get_materialized_partitions(dg.AssetKey(stage)) - set(recorded)
        return [key for key, version in current.items() if key not in older and recorded.get(key) != version]

    def _catalog_is_newer(self) -> bool:
        """Whether `laion_metadata` was materialized after the shards' last events."""
        newest = self.instance.fetch_materializations(dg.AssetKey("laion_metadata"), limit=1).records
        shards = self.instance.fetch_materializations(dg.AssetKey("shard_catalog"), limit=1).records
        return bool(newest) and (not shards or shards[0].storage_id < newest[0].storage_id)

    def _runs(self, due: dict[str, list[str]]) -> Iterator[tuple[list[str], list[str]]]:
        """Selections of assets with the shards they take: contiguous ranges of at most `shards.per_run`."""
        per_run = self.lineage.profile.shards.per_run
        wanted = {key: tuple(stage for stage in due if key in due[stage]) for keys in due.values() for key in keys}
        if set(wanted) <= {WHOLE}:
            for key, stages in wanted.items():
                yield list(stages), [key]
            return
        order = self.instance.get_dynamic_partitions("shard")
        in_catalog = set(self.lineage.shards())
        known = [key for key in order if key in in_catalog]
        for stages, group in groupby(known, key=lambda key: wanted.get(key, ())):
            keys = list(group)
            if stages:
                # a range ends where the instance has a key in between that is no longer in the catalog
                for chunk in _contiguous(keys, order, per_run):
                    yield list(stages), chunk

    def _run(self, stages: Sequence[str], keys: Sequence[str], ops: Mapping[str, Any] | None = None) -> None:
        """One Dagster run. Failures are in its events and in the manifests; other shards go on."""
        tags = {_PROCESS: f"{socket.gethostname()}:{os.getpid()}"}
        partition_key = None
        if keys != [WHOLE]:
            partitions.register(self.instance, keys)
            if len(keys) == 1:
                partition_key = keys[0]
            else:
                tags |= {_RANGE_START: keys[0], _RANGE_END: keys[-1]}
        # an interrupt goes through; a failed run is in its events, and its reasons are noted for `standing`
        with _quiet(), self._noting_failures(stages, keys):
            self._job.execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(stage) for stage in stages],
                partition_key=partition_key,
                tags=tags,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": dict(ops or {})},
            )

    @contextmanager
    def _noting_failures(self, stages: Sequence[str], keys: Sequence[str]) -> Iterator[None]:
        """Swallow a run's error; note it for artefacts that it left undone without a reason of their own."""
        try:
            yield
        except Exception as error:
            for stage in set(stages) & set(self.lineage.stages):
                for standing in self.lineage.standing(stage):
                    if standing.key in keys and standing.state in (State.MISSING, State.STALE):
                        self.lineage.note_failure(stage, standing.key, error)

    def _observe(self) -> None:
        """Record the versions of sources and models, where they are not what was recorded last."""
        names = source_names(self.lineage.profile)
        current = {"laion_source": lambda: self.lineage.source.version} | {
            f"{model}_model": lambda model=model: getattr(self.lineage, f"{model}_files").digest  # type: ignore[misc]
            for model in ("clip", "vae", "diffusion")
        }
        changed = []
        for name in names:
            try:
                version = current[name]()
            except LatentAssetsError:
                if name == "diffusion_model":  # nothing of the atlas is made from it
                    continue
                raise
            records = self.instance.fetch_observations(dg.AssetKey(name), limit=1).records
            observed = records[0].event_log_entry.asset_observation if records else None
            if observed is None or (observed.tags or {}).get("dagster/data_version") != version:
                changed.append(name)
        if changed:
            self._run(changed, [WHOLE])

    def _end_dead_runs(self) -> None:
        """Close the runs of builds that were killed, so that the UI does not show them as running."""
        unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
        for run in self.instance.get_runs(dg.RunsFilter(statuses=unfinished)):
            host, _, process = run.tags.get(_PROCESS, "").rpartition(":")
            gone = process.isdigit() and (int(process) == os.getpid() or not process_lives(int(process)))
            # of this machine, and not of this build: no run of it has begun yet
            if host == socket.gethostname() and gone:
                self.instance.report_run_failed(run, "The process of this run ended before the run did.")


def _contiguous(keys: list[str], order: Sequence[str], per_run: int) -> Iterator[list[str]]:
    place = {key: index for index, key in enumerate(order)}
    chunk: list[str] = []
    for key in keys:
        if chunk and (len(chunk) == per_run or place[key] != place[chunk[-1]] + 1):
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk


def _result(stage: str, before: list[Standing], after: list[Standing], seconds: float) -> StageResult:
    old = {s.key: s.manifest for s in before}
    done = sum(s.manifest is not None and s.manifest != old.get(s.key) for s in after)
    unchanged = sum(s.state is State.CURRENT and s.manifest == old.get(s.key) for s in after)
    failed = {s.key: s.why for s in after if s.state is not State.CURRENT}
    return StageResult(stage, done, unchanged, failed, seconds)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dagster's own log lines off the terminal; they are in the instance."""
    logger = logging.getLogger("dagster")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
