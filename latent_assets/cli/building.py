"""Commands that build the atlas and say how far it is: `build`, `status`, `verify` and `automate`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, selected_profile
from latent_assets.errors import ProfileError
from latent_assets.profile import PROFILE_VARIABLE

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage


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

    from latent_assets.defs.build import Builder
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.defs.instance import open_instance
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.ownership import take_root

    chosen = selected_profile(profile)
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
    failed = {result.stage: result.failed for result in results if result.failed}
    done = sum(result.done for result in results)
    if as_json:
        print_json(
            {
                "profile": chosen.name,
                "root": chosen.root,
                "lance_uri": lineage.storage.lance_uri,
                "seconds": round(seconds, 2),
                "done": {result.stage: result.done for result in results},
                "unchanged": {result.stage: result.unchanged for result in results},
                "failed": failed,
            }
        )
    elif not failed:
        if any(result.done for result in results if result.stage == "laion_metadata"):
            _print_notes(lineage)
        work = f"{done} artefacts made" if done else "nothing changed, nothing to do"
        out.print(chosen.title or chosen.name, style="bold", end=" ")
        out.print(f"is up to date: {work} ({seconds:.1f} s).")
        _show_examples(lineage)
    if failed:
        _show_failures(failed)
        err.print(
            "What is finished is kept; `latent-assets status` shows all, `latent-assets build` goes on from here."
        )
        raise typer.Exit(1)


def _show_failures(failed: dict[str, dict[str, str]]) -> None:
    """Each reason once, with the artefacts it stopped; what merely waits for them is named after."""
    waiting = [stage for stage, shards in failed.items() if all(_waits(why) for why in shards.values())]
    for stage, shards in failed.items():
        by_reason: dict[str, list[str]] = {}
        for key, why in shards.items():
            by_reason.setdefault(why, []).append(key)
        for why, keys in by_reason.items():
            if stage not in waiting:
                which = "" if keys == ["all"] else f" {', '.join(keys[:8])}{' ...' if len(keys) > 8 else ''}"
                err.print(f"{stage}{which}: {why}", style="red", highlight=False, markup=False)
    if waiting:
        err.print(f"Waiting for that: {', '.join(waiting)}.", highlight=False)


def _waits(why: str) -> bool:
    return " needs " in why and "not there" in why


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
    """What is there, missing, stale or failed, stage by stage, and why."""
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.states import State

    chosen = selected_profile(profile)
    lineage = Lineage(chosen)
    found = lineage.status()
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
            }
        )
        return
    table = Table("stage", *(state.value for state in State), "rows", "why", box=None, pad_edge=False)
    for name, stage in found.items():
        counts = [sum(s.state is state for s in stage) for state in State]
        rows = sum(s.manifest.rows for s in stage if s.manifest)
        reasons = list(dict.fromkeys(f"{'' if s.key == 'all' else s.key + ': '}{s.why}" for s in stage if s.why))
        why = "; ".join(reasons[:3]) + (f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else "")
        if not stage:
            why = "no shards yet"
        table.add_row(name, *(str(count or "·") for count in counts), f"{rows:,}", Text(why[:400]))
    out.print(table)
    _print_losses(lineage)


def _print_losses(lineage: Lineage) -> None:
    """Where the rows of the source went that are not in the atlas."""
    metadata = lineage.manifests.get("laion_metadata")
    if metadata is None:
        return
    details = lineage.details(metadata)
    dropped = {str(reason): int(count) for reason, count in details.funnel if count}
    outcomes: dict[str, int] = {}
    for manifest in lineage.manifests.all("image_shards").values():
        for reason, count in lineage.details(manifest).reasons.items():
            outcomes[reason] = outcomes.get(reason, 0) + count
    out.print(f"\n{details.rows_read:,} rows read, {metadata.rows:,} in the catalog", highlight=False)
    for title, counts in (("dropped by the catalog", dropped), ("fetch outcomes", outcomes)):
        if counts:
            out.print(
                f"{title}: " + ", ".join(f"{reason} {count:,}" for reason, count in counts.items()), highlight=False
            )
    _print_notes(lineage)


def _print_notes(lineage: Lineage) -> None:
    """What was met in the source besides its rows."""
    metadata = lineage.manifests.get("laion_metadata")
    for note in lineage.details(metadata).notes if metadata else ():
        out.print(f"note: {note}", highlight=False, markup=False)


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
    with open_instance(chosen) as instance:
        if action != "status":
            switch_automation(instance, chosen, on=action == "on")
        for name, running in automation_states(instance, chosen).items():
            out.print(f"{name:<44} {'running' if running else 'stopped'}", highlight=False)
