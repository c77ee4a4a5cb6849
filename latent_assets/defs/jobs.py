"""Named jobs, their schedules, and the sensors: what runs by itself once it is switched on. All are shipped stopped."""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from latent_assets.defs import tags
from latent_assets.defs.assets import checked_materialization, run_tags
from latent_assets.defs.partitions import asset_key, op_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.states import State

ALERT_VARIABLE = "LATENT_ASSETS_ALERT"
EVERY_QUARTER = "*/15 * * * *"
EVERY_SUNDAY = "30 3 * * 0"


class RebuildConfig(dg.Config):
    """Run configuration of `rebuild`. retry: reasons of failed rows that are fetched once more."""

    retry: list[str] = Field(default_factory=list)


class VerifyConfig(dg.Config):
    """Run configuration of `verify`. deep: decode every image, too."""

    deep: bool = False


def jobs(lineage: Lineage) -> list[Any]:
    """`refresh_sources`, `rebuild` and `verify` of a profile."""
    return [_refresh_sources(lineage), _rebuild(lineage), _verify(lineage)]


def schedules(lineage: Lineage) -> list[dg.ScheduleDefinition]:
    """When sources are looked at, and when everything is read through."""
    return [
        dg.ScheduleDefinition(
            name=op_name(lineage.profile, f"{job}_schedule"),
            job_name=op_name(lineage.profile, job),
            cron_schedule=when,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
        for job, when in (("refresh_sources", EVERY_QUARTER), ("verify", EVERY_SUNDAY))
    ]


def sensors(lineage: Lineage) -> list[dg.SensorDefinition]:
    """The automation of all assets, and the alert on failed runs."""
    assets = dg.AssetSelection.assets(*(asset_key(lineage.profile, name) for name in lineage.stages))
    return [
        dg.AutomationConditionSensorDefinition(
            name=op_name(lineage.profile, "automation"),
            target=assets,
            default_status=dg.DefaultSensorStatus.STOPPED,
            minimum_interval_seconds=10,
            run_tags=run_tags(lineage.profile),
        ),
        _alert(lineage),
    ]


def automation_names(lineage: Lineage) -> tuple[list[str], list[str]]:
    """Names of the schedules and sensors that `latent-assets automate` switches."""
    return [s.name for s in schedules(lineage)], [s.name for s in sensors(lineage)]


def _refresh_sources(lineage: Lineage) -> Any:
    names = [asset_key(lineage.profile, name) for name in lineage.sources]
    return dg.define_asset_job(
        op_name(lineage.profile, "refresh_sources"),
        selection=dg.AssetSelection.assets(*names),
        description="Look at the list of images and at the models: what depends on one that changed is then stale.",
        tags=run_tags(lineage.profile),
    )


def _rebuild(lineage: Lineage) -> dg.JobDefinition:
    @dg.op(name=op_name(lineage.profile, "rebuild_what_is_due"))
    def rebuild_what_is_due(context: dg.OpExecutionContext, config: RebuildConfig) -> None:
        from latent_assets.defs.build import Builder

        own = Lineage(lineage.profile, lineage.storage)
        failed: dict[str, str] = {}
        for result in Builder(own, context.instance, parent_run=context.run_id).build(retry=config.retry):
            context.log.info(f"{result.stage}: {result.done} made, {result.unchanged} unchanged")
            for key, why in result.failed.items():
                failed[f"{result.stage}[{key}]"] = why
        if failed:
            listed = "; ".join(f"{name}: {why}" for name, why in list(failed.items())[:10])
            raise dg.Failure(f"{len(failed)} artefacts could not be made: {listed}", allow_retries=False)

    @dg.job(
        name=op_name(lineage.profile, "rebuild"),
        description="What `latent-assets build` does: bring everything up to date, stage by stage, in runs of its own.",
        tags=run_tags(lineage.profile),
        executor_def=dg.in_process_executor,
    )
    def rebuild() -> None:
        rebuild_what_is_due()

    return rebuild


def _verify(lineage: Lineage) -> dg.JobDefinition:
    @dg.op(name=op_name(lineage.profile, "read_everything"))
    def read_everything(context: dg.OpExecutionContext, config: VerifyConfig) -> None:
        own = Lineage(lineage.profile, lineage.storage)
        damaged = []
        for found, findings in own.verify(config.deep):
            stage = own.stages[found.stage]
            target = checked_materialization(context.instance, own, stage, found.key)
            for finding in findings:
                warns = stage.check(finding.check).warns
                context.instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        asset_key=asset_key(own.profile, found.stage),
                        check_name=finding.check,
                        passed=finding.passed,
                        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
                        metadata={"found": finding.found} if finding.found else {},
                        partition=found.key if stage.sharded else None,
                        target_materialization_data=target,
                    )
                )
            if found.state is State.DAMAGED:
                damaged.append(f"{found.stage}[{found.key}]: {found.why}")
                context.log.error(damaged[-1])
        if damaged:
            raise dg.Failure(
                f"{len(damaged)} artefacts are damaged and due again: {'; '.join(damaged[:10])}", allow_retries=False
            )

    @dg.job(
        name=op_name(lineage.profile, "verify"),
        description="Read everything that was made and report every check; what is damaged becomes due again.",
        tags=run_tags(lineage.profile),
        executor_def=dg.in_process_executor,
    )
    def verify() -> None:
        read_everything()

    return verify


def _alert(lineage: Lineage) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name=op_name(lineage.profile, "alert_on_failure"),
        description=f"Hands every failed run of this atlas to the command in ${ALERT_VARIABLE}, as JSON on its input.",
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
    )
    def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if run.tags.get(tags.PROFILE, lineage.profile.name) != lineage.profile.name:
            return
        command = os.environ.get(ALERT_VARIABLE)
        message = {
            "profile": lineage.profile.name,
            "run": run.run_id,
            "job": run.job_name,
            "error": context.failure_event.message or "",
            "assets": sorted(key.to_user_string() for key in run.asset_selection or ()),
        }
        context.log.error(json.dumps(message))
        if command:
            send_alert(shlex.split(command), message)

    return alert_on_failure


def send_alert(command: Sequence[str], message: dict[str, Any]) -> None:
    """Run an alert's command with `message` (JSON) on its standard input. Raises CalledProcessError when it fails."""
    subprocess.run(command, input=json.dumps(message), text=True, check=True, timeout=60)
