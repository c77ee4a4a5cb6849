"""The assets: one factory over the table of stages. No work of its own.

A batch of stages is one multi-asset, whose checks can be run alone. Each shard is an event of its own, written when it
is done; a shard that fails blocks itself, and what is made of it, alone.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from pydantic import Field

from latent_assets.defs import partitions, tags
from latent_assets.defs.automation import rebuild_when_due
from latent_assets.defs.metadata import OWNERS, event_metadata
from latent_assets.defs.partitions import asset_key, op_name
from latent_assets.defs.provenance import Provenance, observe_sources
from latent_assets.defs.sources import source_assets
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.pipeline.lineage import Lineage, MakeOptions, Materialized
from latent_assets.pipeline.manifests import WHOLE
from latent_assets.pipeline.stages import Check, Finding, Stage
from latent_assets.pipeline.workers import BATCH, make_on_devices
from latent_assets.profile import Profile
from latent_assets.progress import Progress, current_listener, listening

Event = Any


class MakeConfig(dg.Config):
    """Run configuration of every asset.

    `force`: make it again, whatever is there. `retry`: reasons (images.download.outcome.Reason) of failed rows of
    `image_shards` that are fetched once more.
    """

    force: bool = False
    retry: list[str] = Field(default_factory=list)


def all_assets(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The sources and models, and the assets of all stages in build order."""
    shards = partitions.shard_partitions(lineage.profile)
    stages = [_batch(lineage, [lineage.stages[name] for name in names], shards) for names in lineage.batches()]
    return [*source_assets(lineage), *stages]


def _batch(lineage: Lineage, stages: list[Stage], shards: dg.DynamicPartitionsDefinition) -> dg.AssetsDefinition:
    first, profile = stages[0], lineage.profile
    partitions_def = shards if first.sharded else None
    per_run = first.per_run or profile.shards.per_run
    checks = [_check_spec(lineage, stage, check, partitions_def) for stage in stages for check in stage.checks]

    @dg.multi_asset(
        name=op_name(profile, first.batch),
        specs=[_spec(lineage, stage) for stage in stages],
        check_specs=checks,
        can_subset=True,
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.multi_run(per_run) if first.sharded else None,
        pool=pool_name(profile, first.pool),
        op_tags={tags.PROFILE_HASH: profile.fingerprint},
    )
    def make(context: dg.AssetExecutionContext, config: MakeConfig) -> Iterator[Event]:
        yield from _Run(context, lineage, stages, config).events()

    return make


def _check_spec(
    lineage: Lineage, stage: Stage, check: Check, partitions_def: dg.PartitionsDefinition[str] | None
) -> dg.AssetCheckSpec:
    """A check of every partition: one that failed does not read "passed" because another succeeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # the lock file pins the version
        return dg.AssetCheckSpec(
            check.name,
            asset=asset_key(lineage.profile, stage.name),
            description=check.description,
            partitions_def=partitions_def,
        )


def pool_name(profile: Profile, pool: str) -> str:
    """The pool that keeps apart the runs which should not meet (`Stage.pool`)."""
    return f"{profile.name}/{pool}"


def _spec(lineage: Lineage, stage: Stage) -> dg.AssetSpec:
    profile = lineage.profile
    metadata: dict[str, Any] = {"profile": profile.name, "dagster/uri": lineage.storage.uri(stage.group)}
    if stage.name == "atlas_table":
        metadata |= {"dagster/uri": lineage.storage.lance_uri, "dagster/table_name": f"{profile.name}.atlas"}
    return dg.AssetSpec(
        asset_key(profile, stage.name),
        deps=[asset_key(profile, parent) for parent in stage.parents],
        skippable=True,
        group_name=stage.group,
        kinds=set(stage.kinds),
        owners=OWNERS,
        code_version=lineage.code_version(stage.name),
        description=stage.description,
        metadata=metadata,
        automation_condition=rebuild_when_due(_depth(lineage, stage.name)),
    )


def _depth(lineage: Lineage, name: str) -> int:
    """Steps from the farthest source to a stage; 0 for a source."""
    if name in lineage.sources:
        return 0
    return 1 + max(_depth(lineage, parent) for parent in lineage.stages[name].parents)


@dataclass
class _Progress:
    """What the steps of one run did so far, for the step that ends last to tell."""

    failed: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


# by run: its steps follow each other in one process
_runs: dict[str, _Progress] = defaultdict(_Progress)


class _Run:
    """One execution of a batch's op: which stages and checks, over which shards."""

    def __init__(
        self, context: dg.AssetExecutionContext, lineage: Lineage, stages: Sequence[Stage], config: MakeConfig
    ) -> None:
        self._context, self._lineage, self._config = context, lineage, config
        self._profile = lineage.profile
        selected = context.selected_asset_keys
        self._made = [stage for stage in stages if asset_key(self._profile, stage.name) in selected]
        self._checks = {(key.asset_key, key.name) for key in context.selected_asset_check_keys}
        self._checked = [
            stage
            for stage in stages
            if stage not in self._made and any(self._wants(stage, check.name) for check in stage.checks)
        ]
        self._batch, self._sharded = stages[0].batch, stages[0].sharded

    def events(self) -> Iterator[Event]:
        """Make and judge, shard by shard; the events of each come when it is done."""
        accept_run(self._context, self._profile)
        keys = self._keys()
        progress = _runs[self._context.run.run_id]
        failed: dict[str, str] = {}
        with logging_progress(self._context):
            yield from self._observe()
            yield from self._make_all(keys, failed)
            yield from self._judge_all(keys, failed)
        for stage in self._made:
            output = self._context.assets_def.get_output_name_for_asset_key(asset_key(self._profile, stage.name))
            yield dg.Output(None, output_name=output, metadata=tags.EVENTS_ARE_WRITTEN)
        progress.failed |= failed
        progress.ended.add(self._batch)
        if progress.failed and progress.ended >= self._batches_of_run():
            # steps before go on for the shards that did not fail; the run ends as failed all the same
            _runs.pop(self._context.run.run_id, None)
            listed = "; ".join(f"{name}: {why}" for name, why in sorted(progress.failed.items())[:10])
            raise dg.Failure(
                description=f"{len(progress.failed)} artefacts could not be made ({listed}). The others are stored and "
                "recorded.",
                metadata={"failed": dg.MetadataValue.json(sorted(progress.failed))},
                allow_retries=False,
            )

    # -- parts ---------------------------------------------------------------------------------------

    def _keys(self) -> list[str]:
        if not self._sharded:
            return [WHOLE]
        if self._context.has_partition_key or self._context.has_partition_key_range:
            return list(self._context.partition_keys)
        return self._lineage.shards()  # checks that are run alone, without a partition

    def _observe(self) -> Iterator[Event]:
        """Versions of the sources and models that this run uses, where the instance knows others."""
        used = sorted({p for stage in self._made for p in stage.parents if p in self._lineage.sources})
        yield from observe_sources(self._context.instance, self._lineage, used)

    def _make_all(self, keys: Sequence[str], failed: dict[str, str]) -> Iterator[Event]:
        if not self._made:
            return
        names = [stage.name for stage in self._made]
        provenance = {name: Provenance(self._context.instance, self._lineage, name) for name in names}
        options = MakeOptions(force=self._config.force, retry=tuple(self._config.retry))
        unchanged = 0
        elsewhere = make_on_devices(self._lineage, names, keys, options) if self._batch == BATCH else set()
        for key in keys:
            if (limit := self._lineage.exhausted) is not None:  # it would fail as well, after as long a wait
                failed |= {_named(name, key): str(limit) for name in names}
                continue
            for name, result in self._lineage.ensure(names, key, options).items():
                stage = self._lineage.stages[name]
                if isinstance(result, Exception):
                    self._context.log.error(f"{_named(name, key)}: {type(result).__name__}: {result}")
                    failed[_named(name, key)] = str(result)
                    yield from self._failed_checks(stage, key, result)
                    continue
                unchanged += result.unchanged and key not in elsewhere
                yield from self._made_events(stage, key, result, provenance[name])
        if unchanged:
            total = len(keys) * len(names)
            self._context.log.info(f"{self._batch}: {unchanged} of {total} unchanged, nothing done for them")

    def _made_events(self, stage: Stage, key: str, made: Materialized, provenance: Provenance) -> Iterator[Event]:
        """The materialization of an artefact, and what its checks find.

        One that was there already is told, too: a backfill counts as failed where it gets no event for a partition.
        """
        partition = key if self._sharded else None
        if stage.name == "laion_metadata":
            self._register(made)
        yield dg.AssetMaterialization(
            asset_key=asset_key(self._profile, stage.name),
            partition=partition,
            metadata=event_metadata(self._lineage, made),
            tags=provenance.tags(made.manifest),
        )
        findings = made.findings or (self._lineage.judge(stage.name, key) if self._wanted(stage) else ())
        yield from self._evaluations(stage, key, findings)

    def _register(self, made: Materialized) -> None:
        """Make partitions of the shards that are new."""
        keys = sorted(made.manifest.details["shards"])
        if new := partitions.register(self._context.instance, self._profile, keys):
            self._context.log.info(f"registered {len(new)} shard partitions, {new[0]} to {new[-1]}")

    def _failed_checks(self, stage: Stage, key: str, error: Exception) -> Iterator[Event]:
        problems = error.problems if isinstance(error, DataError) else {}
        yield from self._evaluations(stage, key, [Finding(name, False, found) for name, found in problems.items()])

    def _judge_all(self, keys: Sequence[str], failed: dict[str, str]) -> Iterator[Event]:
        """Checks that were selected without their asset: read what is there."""
        for stage in self._checked:
            for key in keys:
                try:
                    findings = self._lineage.judge(stage.name, key, deep=True)
                except NotBuiltError as error:
                    self._context.log.warning(f"{_named(stage.name, key)}: {error}")
                    continue
                yield from self._evaluations(stage, key, findings)

    def _evaluations(self, stage: Stage, key: str, findings: Sequence[Finding]) -> Iterator[Event]:
        wanted = [finding for finding in findings if self._wants(stage, finding.check)]
        target = checked_materialization(self._context.instance, self._lineage, stage, key) if wanted else None
        for finding in wanted:
            warns = stage.check(finding.check).warns
            found = {"found": finding.found} if finding.found else {}
            yield dg.AssetCheckEvaluation(
                asset_key=asset_key(self._profile, stage.name),
                check_name=finding.check,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
                metadata={**found, **finding.facts},
                partition=key if self._sharded else None,
                target_materialization_data=target,
            )

    def _wants(self, stage: Stage, check: str) -> bool:
        return (asset_key(self._profile, stage.name), check) in self._checks

    def _wanted(self, stage: Stage) -> bool:
        return any(self._wants(stage, check.name) for check in stage.checks)

    # -- the run -------------------------------------------------------------------------------------

    def _batches_of_run(self) -> set[str]:
        """Batches of this profile that the run executes."""
        selection = self._context.run.asset_selection
        checks = self._context.run.asset_check_selection or set()
        found = set()
        for stage in self._lineage.stages.values():
            key = asset_key(self._profile, stage.name)
            if selection is None or key in selection or any(check.asset_key == key for check in checks):
                found.add(stage.batch)
        return found


def checked_materialization(instance: dg.DagsterInstance, lineage: Lineage, stage: Stage, key: str) -> Any:
    """The latest materialization of an artefact, for the evaluations of its checks; None when there is none."""
    asset = asset_key(lineage.profile, stage.name)
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]) if stage.sharded else asset
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records:
        return None
    last = records[0]
    return tags.CheckedMaterialization(run_id=last.run_id, storage_id=last.storage_id, timestamp=last.timestamp)


def accept_run(context: dg.AssetExecutionContext, profile: Profile) -> None:
    """Tag a run with the profile that its code location was loaded with.

    Raises Failure when the profile changed between: a run works with that one, or not at all.
    """
    launched = _launched_hash(context)
    if launched not in (None, profile.fingerprint):
        raise dg.Failure(
            description=f"The profile {profile.name} changed after this code location was loaded "
            f"({launched} is now {profile.fingerprint}): reload the code location, then start the run again.",
            allow_retries=False,
        )
    wanted = run_tags(profile)
    if any(context.run.tags.get(name) != value for name, value in wanted.items()):
        context.instance.add_run_tags(context.run.run_id, wanted)


def run_tags(profile: Profile) -> dict[str, str]:
    """Tags of every run of a profile."""
    return {tags.PROFILE: profile.name, tags.PROFILE_HASH: profile.fingerprint}


def _launched_hash(context: dg.AssetExecutionContext) -> str | None:
    """The hash of the profile that the code location had when the run was put together.

    It is a tag of the op in the job's snapshot, which the instance keeps as it was then.
    """
    snapshot_id = context.run.job_snapshot_id
    if snapshot_id is None:
        return None
    snapshot = context.instance.get_job_snapshot(snapshot_id)
    for definition in snapshot.node_defs_snapshot.op_def_snaps:
        if definition.name == context.op_def.name:
            found: str | None = definition.tags.get(tags.PROFILE_HASH)
            return found
    return None


def _named(stage: str, key: str) -> str:
    return stage if key == WHOLE else f"{stage}[{key}]"


@contextmanager
def logging_progress(context: dg.AssetExecutionContext, every: float = 10.0) -> Iterator[None]:
    """Write progress to the run's log, at most once in `every` seconds, unless the command line shows it."""
    last = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last
        if progress.lasting:
            context.log.warning(f"{progress.stage}: {progress.note}")
        elif time.monotonic() - last >= every:
            last = time.monotonic()
            of = f" of {progress.total}" if progress.total else ""
            context.log.info(f"{progress.stage}: {progress.done}{of} {progress.unit} {progress.note}")

    with nullcontext() if current_listener() else listening(tell):
        yield
