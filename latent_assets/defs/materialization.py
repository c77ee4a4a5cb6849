"""How an asset is materialized here: skip what is current, isolate a failed shard, report one event per shard.

Every asset goes through these functions, so that metadata, data versions and failures look the same
everywhere. What a stage does is passed in.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from latent_assets.defs.lock import exclusive
from latent_assets.errors import DataError
from latent_assets.pipeline.lineage import WHOLE, Lineage, Made, Produced
from latent_assets.progress import Progress, current_listener, listening

OWNERS = ["team:atlas"]

Metadata = dict[str, dg.MetadataValue]
Event = dg.MaterializeResult[Any] | dg.AssetCheckResult


@dataclass
class ShardOutcomes:
    """What a run did, shard by shard, for one asset."""

    stage: str
    made: dict[str, Made] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


def picture(data: bytes, kind: str = "png") -> dg.MetadataValue:
    """An image as metadata: Markdown with the picture inside, so that it needs no file server."""
    return dg.MetadataValue.md(f"![picture](data:image/{kind};base64,{base64.b64encode(data).decode()})")


def standard_metadata(made: Made) -> Metadata:
    """What every materialization says of itself."""
    manifest = made.manifest
    return {
        "dagster/row_count": dg.MetadataValue.int(manifest.rows),
        "work": dg.MetadataValue.text("unchanged, nothing done" if made.unchanged else "done"),
        "seconds": dg.MetadataValue.float(manifest.seconds),
        "fingerprint": dg.MetadataValue.text(manifest.fingerprint),
    }


def run_whole(
    context: dg.AssetExecutionContext,
    lineage: Lineage,
    stage: str,
    produce: Callable[[str], Produced],
    describe: Callable[[Made], Metadata],
    check: Callable[[Made], Sequence[dg.AssetCheckResult]],
) -> Iterator[Event]:
    """Materialize an unpartitioned asset, then report its checks.

    An error is noted for `status` and becomes a Dagster failure; the checks that a DataError names are reported
    as failed first.
    """
    try:
        with exclusive(lineage), logging_progress(context):
            made = lineage.ensure(stage, WHOLE, produce)
    except Exception as error:
        problems = error.problems if isinstance(error, DataError) else {}
        for name, found in problems.items():
            yield dg.AssetCheckResult(asset_key=stage, check_name=name, passed=False, metadata={"found": found})
        raise dg.Failure(description=str(error), allow_retries=False) from error
    if made.unchanged:
        context.log.info(f"{stage}: unchanged since its last build, nothing done")
    yield dg.MaterializeResult(
        asset_key=stage,
        metadata={**standard_metadata(made), **describe(made)},
        data_version=dg.DataVersion(made.manifest.version),
    )
    yield from check(made)


def run_shards(
    context: dg.AssetExecutionContext,
    lineage: Lineage,
    stages: Sequence[str],
    work: Callable[[str, Sequence[str]], Mapping[str, Made | Exception]],
    describe: Callable[[str, Made], Metadata],
    check: Callable[[ShardOutcomes], Sequence[dg.AssetCheckResult]],
) -> Iterator[Event]:
    """Materialize the run's shards of one or more assets, one after the other.

    `work(shard, stages)` makes a shard and returns what became of each stage, or why it failed; an error raised
    by it fails all of them, for that shard alone. When all shards are through, the run fails if any did, after
    the others were recorded.
    """
    outcomes = {stage: ShardOutcomes(stage) for stage in stages}
    keys = list(context.partition_keys)
    with exclusive(lineage), logging_progress(context):
        for key in keys:
            try:
                results = work(key, stages)
            except Exception as error:
                results = dict.fromkeys(stages, error)
            for stage, result in results.items():
                if isinstance(result, Exception):
                    context.log.error(f"{stage}[{key}]: {type(result).__name__}: {result}")
                    lineage.note_failure(stage, key, result)
                    outcomes[stage].failed[key] = result
                else:
                    outcomes[stage].made[key] = result
                    outcomes[stage].metadata[key] = {**standard_metadata(result), **describe(stage, result)}
    checks = [result for outcome in outcomes.values() for result in check(outcome)]
    failed = {key: error for outcome in outcomes.values() for key, error in outcome.failed.items()}
    if failed:
        _record_shards(context, outcomes, _provenance(context, stages))
        yield from checks
        listed = "; ".join(f"{key}: {error}" for key, error in sorted(failed.items())[:10])
        raise dg.Failure(
            description=f"{len(failed)} of {len(keys)} shards failed ({listed}). The others are stored and recorded.",
            metadata={"failed shards": dg.MetadataValue.json(sorted(failed))},
            allow_retries=False,
        )
    for stage, outcome in outcomes.items():
        first = outcome.made[keys[0]]
        alone = len(keys) == 1
        yield dg.MaterializeResult(
            asset_key=stage,
            metadata=outcome.metadata[keys[0]] if alone else {},
            data_version=dg.DataVersion(first.manifest.version),
        )
    if len(keys) > 1:
        _record_shards(context, outcomes, _recorded_tags(context, stages, keys[0]))
    yield from checks


def shard_checks(outcome: ShardOutcomes, names: Sequence[str]) -> list[dg.AssetCheckResult]:
    """A result per check: failed with the shards whose DataError names it, passed with the shards that were made.

    A check says nothing when no shard got as far as being checked.
    """
    results = []
    for name in names:
        failed = {
            key: error.problems[name]
            for key, error in outcome.failed.items()
            if isinstance(error, DataError) and name in error.problems
        }
        if failed or outcome.made:
            metadata: Metadata = {
                "failed shards": dg.MetadataValue.json(failed),
                "shards passed": dg.MetadataValue.int(len(outcome.made)),
            }
            results.append(
                dg.AssetCheckResult(asset_key=outcome.stage, check_name=name, passed=not failed, metadata=metadata)
            )
    return results


def _record_shards(
    context: dg.AssetExecutionContext, outcomes: Mapping[str, ShardOutcomes], tags: Mapping[str, Mapping[str, str]]
) -> None:
    """One materialization event per shard with its own data version and metadata.

    Dagster gives all partitions of a run the same data version; a shard's version is the hash of its own
    content, and staleness is decided by it. These events come last, so they are the ones that count.
    """
    for stage, outcome in outcomes.items():
        for key, made in outcome.made.items():
            context.log_event(
                dg.AssetMaterialization(
                    asset_key=stage,
                    partition=key,
                    metadata=outcome.metadata[key],
                    tags={
                        **tags[stage],
                        "dagster/data_version": made.manifest.version,
                        "dagster/data_version_is_user_provided": "true",
                    },
                )
            )


def _recorded_tags(context: dg.AssetExecutionContext, stages: Sequence[str], key: str) -> dict[str, Mapping[str, str]]:
    """The provenance that Dagster itself wrote for this run's events: code version and input versions."""
    tags: dict[str, Mapping[str, str]] = {}
    for stage in stages:
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(stage), asset_partitions=[key]), limit=1
        ).records
        materialization = records[0].asset_materialization if records else None
        tags[stage] = dict(materialization.tags or {}) if materialization else {}
    return tags


def _provenance(context: dg.AssetExecutionContext, stages: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """The same provenance, put together for a run that fails before Dagster writes it."""
    tags: dict[str, Mapping[str, str]] = {}
    for stage in stages:
        key = dg.AssetKey(stage)
        values = {"dagster/code_version": context.assets_def.code_versions_by_key.get(key) or context.run_id}
        for parent in context.assets_def.asset_deps[key]:
            record = _latest(context.instance, parent)
            if record is not None:
                event = record.asset_materialization or record.event_log_entry.asset_observation
                version = (event.tags or {}).get("dagster/data_version", "INITIAL") if event else "INITIAL"
                values[f"dagster/input_data_version/{parent.to_user_string()}"] = version
                values[f"dagster/input_event_pointer/{parent.to_user_string()}"] = str(record.storage_id)
        tags[stage] = values
    return tags


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.EventLogRecord | None:
    materialized = instance.fetch_materializations(key, limit=1).records
    return next(iter(materialized or instance.fetch_observations(key, limit=1).records), None)


@contextmanager
def logging_progress(context: dg.AssetExecutionContext, every: float = 10.0) -> Iterator[None]:
    """Write progress to the run's log, at most once in `every` seconds, unless the command line shows it."""
    last = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            of = f" of {progress.total}" if progress.total else ""
            context.log.info(f"{progress.stage}: {progress.done}{of} {progress.unit} {progress.note}")

    with nullcontext() if current_listener() else listening(tell):
        yield
