"""The command line: `latent-assets ...`. Parses, calls the library, prints; no work of its own.

Heavy modules are imported inside the commands, so that `--help` and wrong usage answer at once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latent_assets.errors import LatentAssetsError, NotBuiltError, ProfileError
from latent_assets.profile import PROFILE_VARIABLE, Profile, load_profile, shipped_profiles

if TYPE_CHECKING:
    from latent_assets.client import Atlas, Hit
    from latent_assets.pipeline.lineage import Lineage

app = typer.Typer(
    help="Build, inspect and search a versioned 3D atlas of latent space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
profile_app = typer.Typer(help="The profiles: what to build.", no_args_is_help=True)
app.add_typer(profile_app, name="profile")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", help=f"Name or path of a profile (default: ${PROFILE_VARIABLE}, else demo)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CountOption = Annotated[int, typer.Option("--count", "-k", min=1, max=1000, help="How many results.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options that come before the command."""
    if debug:
        os.environ["LATENT_ASSETS_DEBUG"] = "1"


def _selected(profile: str | None) -> Profile:
    """The chosen profile; also for the processes started from here."""
    chosen = load_profile(profile)
    if profile:
        path = Path(profile).expanduser()
        os.environ[PROFILE_VARIABLE] = profile if profile in shipped_profiles() else str(path.resolve())
    return chosen


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


# -- building ----------------------------------------------------------------------------------------


@app.command()
def build(
    profile: ProfileOption = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="Fetch rows that failed for this reason once more (repeatable).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the atlas up to date: only what is missing or stale is redone."""
    from dagster import DagsterExecutionInterruptedError

    from latent_assets.definitions import build_defs
    from latent_assets.defs.build import Builder
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.defs.instance import open_instance
    from latent_assets.defs.lock import exclusive
    from latent_assets.pipeline.lineage import Lineage

    chosen = _selected(profile)
    lineage = Lineage(chosen)
    reasons = _checked_reasons(retry or [])
    started = time.perf_counter()
    results = []
    try:
        with exclusive(lineage), open_instance(chosen) as instance, BuildDisplay(err) as display:
            builder = Builder(build_defs(chosen, lineage=lineage), lineage, instance)
            for result in builder.build(display.begin, reasons):
                display.end(result)
                results.append(result)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        err.print("Stopped. What is finished is kept; `latent-assets build` goes on from here.")
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - started
    failed = {result.stage: result.failed for result in results if result.failed}
    done = sum(result.done for result in results)
    if as_json:
        _print_json(
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
        work = f"{done} artefacts made" if done else "nothing changed, nothing to do"
        out.print(f"[bold]{chosen.title or chosen.name}[/bold] is up to date: {work} ({seconds:.1f} s).")
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
    option = "" if lineage.profile.name == "demo" else f" -p {os.environ.get(PROFILE_VARIABLE, lineage.profile.name)}"
    program = Path(sys.argv[0])
    name = program.name if shutil.which(program.name) else os.path.relpath(program)
    out.print(f"Atlas (LanceDB): {lineage.storage.lance_uri}", highlight=False)
    out.print("Try:", highlight=False)
    for query in lineage.profile.examples:
        out.print(f'  {name} search "{query}"{option}', highlight=False)


@app.command()
def status(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """What is there, missing, stale or failed, stage by stage, and why."""
    from latent_assets.pipeline.lineage import Lineage, State

    chosen = _selected(profile)
    lineage = Lineage(chosen)
    standings = lineage.standings()
    if as_json:
        _print_json(
            {
                "profile": chosen.name,
                "root": chosen.root,
                "current": all(s.state is State.CURRENT for stage in standings.values() for s in stage),
                "stages": {
                    name: [
                        {"key": s.key, "state": s.state, "why": s.why, "rows": s.manifest.rows if s.manifest else None}
                        for s in stage
                    ]
                    for name, stage in standings.items()
                },
            }
        )
        return
    table = Table("stage", "current", "missing", "stale", "failed", "waiting", "rows", "why", box=None, pad_edge=False)
    for name, stage in standings.items():
        counts = [sum(s.state is state for s in stage) for state in State]
        rows = sum(s.manifest.rows for s in stage if s.manifest)
        reasons = list(dict.fromkeys(f"{'' if s.key == 'all' else s.key + ': '}{s.why}" for s in stage if s.why))
        why = "; ".join(reasons[:3]) + (f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else "")
        if not stage:
            why = "no shards yet"
        order = (State.CURRENT, State.MISSING, State.STALE, State.FAILED, State.WAITING)
        cells = [str(dict(zip(State, counts, strict=True))[state] or "·") for state in order]
        table.add_row(name, *cells, f"{rows:,}", Text(why[:400]))
    out.print(table)
    _print_losses(lineage)


def _print_losses(lineage: Lineage) -> None:
    """Where the rows of the source went that are not in the atlas."""
    metadata = lineage.storage.manifest("laion_metadata")
    if metadata is None:
        return
    dropped = {str(reason): int(count) for reason, count in metadata.details["funnel"] if count}
    outcomes: dict[str, int] = {}
    for manifest in lineage.storage.manifests("image_shards").values():
        for reason, count in manifest.details["reasons"].items():
            outcomes[reason] = outcomes.get(reason, 0) + count
    out.print(f"\n{metadata.details['rows_read']:,} rows read, {metadata.rows:,} in the catalog", highlight=False)
    for title, counts in (("dropped by the catalog", dropped), ("fetch outcomes", outcomes)):
        if counts:
            out.print(
                f"{title}: " + ", ".join(f"{reason} {count:,}" for reason, count in counts.items()), highlight=False
            )


@app.command()
def demo(
    serve: Annotated[bool, typer.Option(help="Open the Dagster UI on the atlas when it is built.")] = True,
    port: Annotated[int, typer.Option(help="Port of the UI.")] = 3000,
) -> None:
    """Build the embedded default atlas and open the Dagster UI on it."""
    build("demo")
    if serve:
        ui("demo", port)


@app.command()
def ui(
    profile: ProfileOption = None, port: Annotated[int, typer.Option(help="Port of the UI, on loopback.")] = 3000
) -> None:
    """Open the Dagster UI on the atlas's instance (loopback only)."""
    from latent_assets.defs.instance import open_instance

    chosen = _selected(profile)
    os.environ.setdefault(PROFILE_VARIABLE, chosen.name)
    open_instance(chosen).dispose()
    out.print(f"Dagster UI: http://127.0.0.1:{port}  (stop with Ctrl+C)", highlight=False)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "dagster",
        "dev",
        "-m",
        "latent_assets.definitions",
        "-h",
        "127.0.0.1",
    ]
    os.execv(sys.executable, [*command, "-p", str(port), "--log-level", "warning"])


# -- asking ------------------------------------------------------------------------------------------


def _open_atlas(profile: str | None) -> Atlas:
    from latent_assets.client import Atlas
    from latent_assets.storage import Storage

    chosen = _selected(profile)
    try:
        return Atlas.open(Storage(chosen.root).lance_uri)
    except NotBuiltError as error:
        option = f" -p {profile}" if profile else ""
        raise NotBuiltError(f"{error} Build it with `latent-assets build{option}`.") from error


def _print_hits(hits: Sequence[Hit], as_json: bool) -> None:
    if as_json:
        _print_json([asdict(hit) for hit in hits])
        return
    if hits:
        out.print(f"{'':>3} {hits[0].measure}", style="dim", highlight=False)
    for place, hit in enumerate(hits, 1):
        caption = (hit.caption or "(no caption)").replace("\n", " ")
        shown = caption if len(caption) <= 200 else f"{caption[:200]}…"
        category = f"  [{hit.category}]" if hit.category else ""
        out.print(f"{place:>3} {hit.score:.3f}  {shown}{category}", highlight=False, markup=False)
        out.print(f"{'':>3} {hit.id}  {hit.source_url or hit.url}", style="dim", highlight=False, markup=False)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for, in words.")],
    count: CountOption = 10,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Images that resemble a text, by CLIP."""
    _print_hits(_open_atlas(profile).search_text(text, k=count), as_json)


@app.command()
def neighbors(
    row_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a row, as `search` prints it.")],
    count: CountOption = 10,
    space: Annotated[str, typer.Option(help="clip (meaning) or vae (colour and layout).")] = "clip",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Images that resemble an image of the atlas."""
    hits = _open_atlas(profile).neighbors(row_id, k=count, space=space)
    _print_hits(hits, as_json)


@app.command()
def info(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """What the published atlas is: where, how many rows, which spaces, models and digests."""
    atlas = _open_atlas(profile)
    values = {"lance_uri": atlas.uri, "version": atlas.version, **asdict(atlas.info), "rows": len(atlas)}
    if as_json:
        _print_json(values)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in values.items():
        if key == "models":
            for name, model in value.items():
                table.add_row(f"model {name}", f"{model.get('name', '')} {model.get('digest', '')}")
        else:
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    out.print(table)


@app.command()
def schema() -> None:
    """The columns of the table `atlas`, as Markdown."""
    from latent_assets.atlas.schema import schema_markdown

    sys.stdout.write(schema_markdown())


@app.command()
def models(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """The profile's models: files, sizes and the digest of their weights."""
    from latent_assets.pipeline.lineage import Lineage

    chosen = _selected(profile)
    lineage = Lineage(chosen)
    found: dict[str, dict[str, Any]] = {}
    problems = False
    for name in ("clip", "vae", "diffusion"):
        if getattr(chosen.models, name) is None:
            continue
        try:
            files = getattr(lineage, f"{name}_files")
            found[name] = {"name": files.name, "digest": files.digest, "files": files.files, "bytes": files.bytes}
        except LatentAssetsError as error:
            problems = True
            found[name] = {"error": str(error)}
    if as_json:
        _print_json(found)
    else:
        table = Table("model", "name", "digest", "files", "MB", box=None, pad_edge=False)
        for name, values in found.items():
            if "error" in values:
                table.add_row(name, Text(values["error"], style="red"))
            else:
                size = f"{values['bytes'] / 1e6:.1f}"
                table.add_row(name, values["name"], values["digest"], str(values["files"]), size)
        out.print(table)
    if problems:
        raise typer.Exit(5)


# -- profiles ----------------------------------------------------------------------------------------


@profile_app.command("show")
def profile_show(
    name: Annotated[str | None, typer.Argument(help="Name or path; default: the selected one.")] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a profile as it is resolved: defaults filled in, paths absolute."""
    chosen = load_profile(name or profile)
    if as_json:
        _print_json(chosen.model_dump(mode="json"))
        return
    for line in _toml_lines(chosen.model_dump(mode="json", exclude_none=True)):
        out.print(line, highlight=False, markup=False)


@profile_app.command("list")
def profile_list(as_json: JsonOption = False) -> None:
    """The profiles that come with the package."""
    names = shipped_profiles()
    if as_json:
        _print_json(names)
    else:
        out.print("\n".join(names), highlight=False)


def _toml_lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """A nested dict of TOML values as TOML text; JSON's scalars and arrays are TOML's."""
    plain = [f"{key} = {json.dumps(v, ensure_ascii=False)}" for key, v in values.items() if not isinstance(v, dict)]
    lines = ([f"[{prefix}]"] if prefix and plain else []) + plain
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += ["", *_toml_lines(value, f"{prefix}.{key}" if prefix else key)]
    return lines


# -- errors ------------------------------------------------------------------------------------------


def _explaining(run: Callable[[], Any]) -> Callable[[], None]:
    """Errors as one paragraph and an exit code; with --debug as they are."""

    @wraps(run)
    def main() -> None:
        try:
            run()
        except Exception as error:
            if os.environ.get("LATENT_ASSETS_DEBUG"):
                raise
            known = isinstance(error, LatentAssetsError)
            text = str(error) if known else f"unexpected {type(error).__name__}: {error} (more with --debug)"
            err.print("error:", style="bold red", end=" ")
            err.print(text, highlight=False, markup=False)
            sys.exit(error.exit_code if isinstance(error, LatentAssetsError) else 70)

    return main


main = _explaining(app)

if __name__ == "__main__":
    main()
