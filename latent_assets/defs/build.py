"""Building an atlas: the runs that bring everything up to date, in lineage order, on the atlas's own instance.

Decides which assets and shards a run takes, from what `Lineage` says is due. The same runs can be started in the UI;
nothing here does work that an asset would not do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import dagster as dg

from latent_assets.defs import partitions, tags
from latent_assets.defs.assets import all_assets, run_tags
from latent_assets.defs.generated import IMAGES, PROJECTION, generated_assets
from latent_assets.defs.instance import unrecorded_because
from latent_assets.defs.partitions import asset_key, op_name, partitions_name
from latent_assets.defs.provenance import observe_sources, unrecorded
from latent_assets.errors import LatentAssetsError
from latent_assets.generated.projecting import pending
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.makers.atlas import recover_table
from latent_assets.pipeline.manifests import WHOLE
from latent_assets.pipeline.states import DUE, ArtifactStatus, State
from latent_assets.pipeline.takedown import refuse_unfinished
from latent_assets.processes import Process, this_process

_JUST_NOW = 60.0  # seconds


@dataclass(frozen=True)
class StageResult:
    """What a build did for one stage: artefacts made, artefacts that were current, and why others are not.

    `waiting`: the keys of `failed` that only wait for what they are made from.
    """

    stage: str
    done: int
    unchanged: int
    failed: dict[str, str]
    seconds: float
    waiting: frozenset[str] = frozenset()


_ABSENT = "which is not there yet"
Announce = Callable[[str, int, int], None]


class Builder:
    """Brings one atlas up to date. `parent_run`: the run that builds, when it is one itself."""

    def __init__(self, lineage: Lineage, instance: dg.DagsterInstance, parent_run: str | None = None) -> None:
        self.lineage, self.instance, self._parent_run = lineage, instance, parent_run
        assets = [*all_assets(lineage), *generated_assets(lineage)]
        definitions = dg.Definitions(assets, executor=dg.in_process_executor)
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def build(
        self, announce: Announce = lambda stage, due, total: None, retry: Sequence[str] = ()
    ) -> Iterator[StageResult]:
        """Run what is due, stage by stage; `announce(stage, due, total)` comes before each.

        `retry`: reasons of failed rows that are fetched once more (see `images.download.outcome.Reason`).
        A stage whose shards partly failed lets the others go on; what needs all of them waits, and names what is
        missing. Raises ResourceError when a limit of this machine was met.
        """
        self.lineage.refresh()
        self.lineage.storage.check_writable()
        with self.lineage.claims.present():
            yield from self._build(announce, retry)

    def _build(self, announce: Announce, retry: Sequence[str]) -> Iterator[StageResult]:
        refuse_unfinished(self.lineage.storage)
        self.lineage.storage.sweep(self.lineage.claims.gone)
        end_dead_runs(self.lineage, self.instance)
        recover_table(self.lineage)
        announce("sources", 0, 0)
        self._observe()
        for batch in self.lineage.batches():
            yield from self._step(batch, announce, retry if batch == ["image_shards"] else ())
        if (found := pending(self.lineage.profile, self.lineage.storage)) and found.live is not None:
            yield self.place_generated(announce)

    def place_generated(self, announce: Announce = lambda stage, due, total: None) -> StageResult:
        """Take what is in the inbox, and place what has no place on the release that is live, until nothing is left."""
        profile, started = self.lineage.profile, time.perf_counter()
        done, before = 0, ""
        failed: dict[str, str] = {}
        # work that a run leaves as it was (a file that is being written) is the next build's
        while (found := pending(profile, self.lineage.storage)) and not failed and found.digest != before:
            before = found.digest
            due = len(found.batch) + len(found.accepted) + len(found.unplaced)
            announce(PROJECTION, due, due)
            try:
                self._execute([asset_key(profile, name) for name in (IMAGES, PROJECTION)], self._run_tags())
            except Exception as error:
                failed[WHOLE] = str(error.__cause__ or error)
            else:
                done += due
        return StageResult(PROJECTION, done, 0, failed, time.perf_counter() - started)

    def _step(self, stages: list[str], announce: Announce, retry: Sequence[str]) -> Iterator[StageResult]:
        """Bring the stages of one batch up to date."""
        before = self.lineage.status(stages)
        started = time.perf_counter()
        due = {stage: [s.key for s in before[stage] if s.state in DUE] for stage in stages}
        for stage in stages:
            due[stage] += self._unrecorded(stage, before[stage])
        if retry:
            held = {s.key: self.lineage.details(s.manifest).reasons for s in before["image_shards"] if s.manifest}
            due["image_shards"] += [key for key, reasons in held.items() if set(retry) & set(reasons)]
        work = sorted({key for keys in due.values() for key in keys})
        announce(" + ".join(stages), len(work), len(before[stages[0]]))
        for selection, keys in self._runs(due):
            self._run(selection, keys, retry)
            if self.lineage.exhausted is not None:
                raise self.lineage.exhausted
        after = self.lineage.status(stages) if work else before
        for stage in stages:
            if not after[stage] and self.lineage.manifests.get("laion_metadata") is None:
                # nobody knows its shards yet
                after[stage] = [
                    ArtifactStatus(stage, WHOLE, State.WAITING, f"{stage} needs laion_metadata, {_ABSENT}.")
                ]
            yield _result(stage, before[stage], after[stage], time.perf_counter() - started)

    def _unrecorded(self, stage: str, statuses: Sequence[ArtifactStatus]) -> list[str]:
        """Current artefacts that the instance does not know of as they are: their run finds nothing to do."""
        current = {s.key: s.manifest for s in statuses if s.state is State.CURRENT and s.manifest}
        return unrecorded(self.instance, self.lineage, stage, current)

    def _runs(self, due: dict[str, list[str]]) -> Iterator[tuple[list[str], list[str]]]:
        """Selections of assets with the shards they take: contiguous ranges of as many as a run takes."""
        wanted = {key: tuple(stage for stage in due if key in set(due[stage])) for keys in due.values() for key in keys}
        if set(wanted) <= {WHOLE}:
            for key, stages in wanted.items():
                yield list(stages), [key]
            return
        partitions.register(self.instance, self.lineage.profile, self.lineage.shards())
        order = self.instance.get_dynamic_partitions(partitions_name(self.lineage.profile))
        in_catalog = set(self.lineage.shards())
        known = [key for key in order if key in in_catalog]
        for stages, group in groupby(known, key=lambda key: wanted.get(key, ())):
            keys = list(group)
            if stages:
                per_run = self.lineage.stages[stages[0]].per_run or self.lineage.profile.shards.per_run
                # a range ends where the instance has a key in between that is no longer in the catalog
                for chunk in _contiguous(keys, order, per_run):
                    yield list(stages), chunk

    def _run(self, stages: Sequence[str], keys: Sequence[str], retry: Sequence[str] = ()) -> None:
        """One Dagster run. Failures are in its events and noted for `status`; other shards go on."""
        labels = self._run_tags()
        partition_key = None
        if keys != [WHOLE] and len(keys) == 1:
            partition_key = keys[0]
        elif keys != [WHOLE]:
            labels |= {tags.RANGE_START: keys[0], tags.RANGE_END: keys[-1]}
        ops: dict[str, Any] = {}
        if retry:
            name = op_name(self.lineage.profile, self.lineage.stages[stages[0]].batch)
            ops[name] = {"config": {"retry": list(retry)}}
        # an interrupt goes through; a failed run is in its events, and its reasons are noted for `status`
        with self._noting_failures(stages, keys):
            self._execute([asset_key(self.lineage.profile, stage) for stage in stages], labels, partition_key, ops)

    def _run_tags(self) -> dict[str, str]:
        found = {tags.PROCESS: str(this_process()), **run_tags(self.lineage.profile)}
        return found | ({"dagster/parent_run_id": self._parent_run} if self._parent_run else {})

    def _execute(
        self,
        selection: Sequence[dg.AssetKey],
        labels: Mapping[str, str],
        partition_key: str | None = None,
        ops: Mapping[str, Any] | None = None,
    ) -> None:
        config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        if ops:
            config["ops"] = dict(ops)
        with _quiet():
            self._job.execute_in_process(
                instance=self.instance,
                asset_selection=list(selection),
                partition_key=partition_key,
                tags=dict(labels),
                run_config=config,
            )

    @contextmanager
    def _noting_failures(self, stages: Sequence[str], keys: Sequence[str]) -> Iterator[None]:
        """Swallow a run's error; note it for artefacts that it left undone without a reason of their own.

        Raises StorageError when runs cannot be recorded any more.
        """
        try:
            yield
        except Exception as error:
            if self.lineage.exhausted is not None:
                return  # what was not begun has not failed
            if (problem := unrecorded_because(error)) is not None:
                raise problem from error
            for stage, statuses in self.lineage.status(stages).items():
                for found in statuses:
                    if found.key in keys and found.state in (State.MISSING, State.STALE, State.DAMAGED):
                        self.lineage.note_failure(stage, found.key, error)

    def _observe(self) -> None:
        """Record the versions of sources and models, where they are not what was recorded last.

        Raises the error of one that cannot be read, unless nothing of the atlas is made from it.
        """
        names = []
        for name, source in self.lineage.sources.items():
            try:
                self.lineage.observed(name)
            except LatentAssetsError:
                if source.needed:
                    raise
                continue
            names.append(name)
        for found in observe_sources(self.instance, self.lineage, names):
            self.instance.report_runless_asset_event(found)


def end_dead_runs(lineage: Lineage, instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of processes that were killed, so that the UI does not show them as running.

    Call it before this process begins a run. Returns the ids of those that go on, or may: queued ones do not.
    """
    begun = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    going: list[str] = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=begun)):
        run = record.dagster_run
        process = Process.parse(run.tags.get(tags.PROCESS, ""))
        ended = None if process is None else process == this_process() or process.has_ended()
        if process is not None and ended is None:
            # of another container or machine: it says that it lives, unless it began just now
            old = time.time() - record.create_timestamp.timestamp() > _JUST_NOW
            ended = old and lineage.claims.gone(process)
        if ended:
            instance.report_run_failed(run, "The process of this run ended before the run did.")
        else:
            going.append(run.run_id)
    return going


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


def _result(
    stage: str, before: Sequence[ArtifactStatus], after: Sequence[ArtifactStatus], seconds: float
) -> StageResult:
    old: Mapping[str, Any] = {s.key: s.manifest for s in before}
    done = sum(s.manifest is not None and s.manifest != old.get(s.key) for s in after)
    unchanged = sum(s.state is State.CURRENT and s.manifest == old.get(s.key) for s in after)
    failed = {s.key: s.why for s in after if s.state is not State.CURRENT}
    waiting = frozenset(s.key for s in after if s.state is State.WAITING)
    return StageResult(stage, done, unchanged, failed, seconds, waiting)


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
