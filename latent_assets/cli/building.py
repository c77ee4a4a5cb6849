"""Commands that build the atlas and say how far it is: `build`, `status`, `verify` and `automate`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, announce_home, selected_profile
from latent_assets.errors import ProfileError
from latent_assets.profile import PROFILE_VARIABLE

if TYPE_CHECKING:
    from latent_assets.defs.build import StageResult
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.states import ArtifactStatus

_REASONS_SHOWN, _KEYS_SHOWN = 10, 8


def build(
    profile: ProfileOption = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="Fetch rows that failed for this reason once more (repeatable).")
    ] = None,
    replace_source: Annotated[
        bool, typer.Option("--replace-source", help="Let this source take over a root that belongs to another one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the atlas up to date: only what is missing or stale is redone."""
    from dagster import DagsterExecutionInterruptedError

    from latent_assets.cli.report import print_report
    from latent_assets.defs.build import Builder
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.defs.instance import open_instance
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.ownership import take_root
    from latent_assets.pipeline.report import make_report

    chosen = selected_profile(profile)
    announce_home([chosen])
    lineage = Lineage(chosen)
    reasons = _checked_reasons(retry or [])
    if replace_source:
        take_root(lineage.storage, chosen)
    started = time.perf_counter()
    results = []
    try:
        with open_instance(chosen) as instance, BuildDisplay(err) as display:
            for result in Builder(lineage, instance).build(display.begin, reasons):
                display.end(result)
                results.append(result)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        err.print("Stopped. What is finished is kept; `latent-assets build` goes on from here.")
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - started
    failed = [result for result in results if result.failed]
    report = make_report(lineage, not any(result.stage == "atlas_table" for result in failed))
    if as_json:
        print_json(
            {
                "profile": chosen.name,
                "root": chosen.root,
                "lance_uri": lineage.storage.lance_uri,
                "seconds": round(seconds, 2),
                "done": {result.stage: result.done for result in results},
                "unchanged": {result.stage: result.unchanged for result in results},
                "failed": {result.stage: result.failed for result in failed},
                "waiting": {result.stage: sorted(result.waiting) for result in failed if result.waiting},
                "report": report.to_json(),
            }
        )
    else:
        done = sum(result.done for result in results)
        if not failed:
            work = f"{done} artefacts made" if done else "nothing changed, nothing to do"
            out.print(chosen.title or chosen.name, style="bold", end=" ")
            out.print(f"is up to date: {work} ({seconds:.1f} s).")
        print_report(out, report)
        if not failed:
            _show_examples(lineage)
    if failed:
        _show_failures(failed)
        err.print(
            "What is finished is kept; `latent-assets status` shows all, `latent-assets build` goes on from here."
        )
        raise typer.Exit(1)


def _show_failures(failed: Sequence[StageResult]) -> None:
    """Each reason once, with the artefacts it stopped; what merely waits for them is named after."""
    for result in failed:
        by_reason: dict[str, list[str]] = {}
        for key, why in result.failed.items():
            if key not in result.waiting:
                by_reason.setdefault(why, []).append(key)
        for why, keys in by_reason.items():
            which = "" if keys == ["all"] else f" {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
            err.print(f"{result.stage}{which}: {why}", style="red", highlight=False, markup=False)
    if waiting := [result.stage for result in failed if len(result.waiting) == len(result.failed)]:
        err.print(f"Waiting for that: {', '.join(waiting)}.", highlight=False)


def _checked_reasons(reasons: Sequence[str]) -> list[str]:
    from latent_assets.images.outcome import Reason

    known = {reason.value for reason in Reason} - {Reason.OK.value}
    if unknown := sorted(set(reasons) - known):
        raise ProfileError(f"--retry {unknown[0]}: no such reason. Known: {', '.join(sorted(known))}.")
    return list(reasons)


def _show_examples(lineage: Lineage) -> None:
    """Where the atlas is, and queries to begin with."""
    chosen = os.environ.get(PROFILE_VARIABLE, lineage.profile.name)
    option = "" if lineage.profile.name == "demo" else f" -p {shlex.quote(chosen)}"
    program = Path(sys.argv[0])
    name = program.name if shutil.which(program.name) else shlex.quote(os.path.relpath(program))
    if program.name == "__main__.py":
        name = f"{shlex.quote(sys.executable)} -m latent_assets.cli"
    out.print(f"Atlas (LanceDB): {lineage.storage.lance_uri}", highlight=False)
    out.print("Try:", highlight=False)
    for query in lineage.profile.examples:
        out.print(f"  {name} search {shlex.quote(query)}{option}", highlight=False)


def status(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """What is there, missing, stale or failed, stage by stage, and why; and what became of every row."""
    from latent_assets.cli.report import print_labelled, print_report
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.report import make_report
    from latent_assets.pipeline.states import State

    chosen = selected_profile(profile)
    lineage = Lineage(chosen)
    found = lineage.status()
    report = make_report(lineage, all(s.state is State.CURRENT for s in found["atlas_table"]))
    if as_json:
        print_json(
            {
                "profile": chosen.name,
                "root": chosen.root,
                "current": all(s.state is State.CURRENT for stage in found.values() for s in stage),
                "stages": {
                    name: [
                        {"key": s.key, "state": s.state, "why": s.why, "rows": s.manifest.rows if s.manifest else None}
                        for s in stage
                    ]
                    for name, stage in found.items()
                },
                "report": report.to_json(),
            }
        )
        return
    for line in _stage_lines(found):
        out.print(line)
    for name, stage in found.items():
        for keys, why in _reasons(stage):
            out.print(f"\n{name}{keys}", style="bold", highlight=False, markup=False)
            print_labelled(out, "", why, 2)
    out.print()
    print_report(out, report)


def _stage_lines(found: Mapping[str, Sequence[ArtifactStatus]]) -> list[str]:
    """A table of counts: as narrow as it can be, so that no terminal cuts a name."""
    from latent_assets.pipeline.states import State

    head = ["stage", *(state.value for state in State), "rows"]
    lines = [
        [
            name,
            *(str(sum(s.state is state for s in stage) or "·") for state in State),
            f"{sum(s.manifest.rows for s in stage if s.manifest):,}" if stage else "no shards yet",
        ]
        for name, stage in found.items()
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    ]


def _reasons(stage: Sequence[ArtifactStatus]) -> Iterator[tuple[str, str]]:
    """Why artefacts of a stage are not current: each reason once and whole, with the shards that it is true of."""
    by_reason: dict[str, list[ArtifactStatus]] = {}
    for found in stage:
        if found.why:
            # a shard's reason names the shard
            by_reason.setdefault(found.why.replace(f"[{found.key}]", "[]"), []).append(found)
    for number, statuses in enumerate(by_reason.values()):
        if number == _REASONS_SHOWN:
            yield "", f"... and {len(by_reason) - number} reasons more: `latent-assets status --json` has them all."
            return
        keys = [found.key for found in statuses]
        more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
        yield "" if keys == ["all"] else f" {', '.join(keys[:_KEYS_SHOWN])}{more}", statuses[0].why


def verify(
    profile: ProfileOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read everything that was made; what is damaged is named, and made again by the next build."""
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.states import State

    lineage = Lineage(selected_profile(profile))
    started, read, damaged = time.perf_counter(), 0, []
    with BuildDisplay(err):
        for found, _ in lineage.verify(deep):
            read += 1
            if found.state is State.DAMAGED:
                damaged.append({"stage": found.stage, "key": found.key, "found": found.why})
    seconds = round(time.perf_counter() - started, 2)
    if as_json:
        print_json({"read": read, "damaged": damaged, "seconds": seconds, "deep": deep})
    elif read == 0:
        out.print("Nothing was built yet.")
    else:
        for each in damaged:
            err.print(f"{each['stage']} {each['key']}: {each['found']}", style="red", highlight=False, markup=False)
        sound = "all sound" if not damaged else f"{len(damaged)} damaged: `latent-assets build` makes them again"
        out.print(f"{read} artefacts read in {seconds:.1f} s, {sound}.", highlight=False)
    if damaged:
        raise typer.Exit(7)


def automate(
    action: Annotated[str, typer.Argument(metavar="on|off|status", help="Switch on, switch off, or say how it is.")],
    profile: ProfileOption = None,
) -> None:
    """Rebuild by itself what is due: sources are looked at every quarter of an hour, failed runs are reported.

    The daemon of `latent-assets ui` does the work.
    """
    from latent_assets.defs.instance import open_instance
    from latent_assets.defs.switch import automation_states, switch_automation

    if action not in ("on", "off", "status"):
        raise ProfileError(f"automate {action}: say `on`, `off` or `status`.")
    chosen = selected_profile(profile)
    announce_home([chosen])
    with open_instance(chosen) as instance:
        if action != "status":
            switch_automation(instance, chosen, on=action == "on")
        for name, running in automation_states(instance, chosen).items():
            out.print(f"{name:<44} {'running' if running else 'stopped'}", highlight=False)
