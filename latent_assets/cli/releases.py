"""Commands for the versions of an atlas: `releases list`, `show`, `diff`, `publish`, `rollback` and `prune`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, selected_profile
from latent_assets.errors import ProfileError, QueryError

if TYPE_CHECKING:
    from latent_assets.atlas.difference import ReleaseDifference
    from latent_assets.atlas.history import ReleaseSummary
    from latent_assets.pipeline.lineage import Lineage

releases_app = typer.Typer(help="The versions of an atlas: which there are, what differs, which one readers see.")

ReleaseArgument = Annotated[str, typer.Argument(metavar="RELEASE", help="`live`, release-00007, or 7.")]


def _lineage(profile: str | None) -> Lineage:
    from latent_assets.pipeline.lineage import Lineage

    return Lineage(selected_profile(profile))


@releases_app.command("list")
def list_releases(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """The releases that are there, the newest first."""
    from latent_assets.atlas.history import releases

    found = releases(_lineage(profile).storage.lance_uri)
    if as_json:
        print_json([_facts(release) for release in found])
        return
    table = Table("release", "", "made (UTC)", "by", "rows", "rows' hash", box=None, pad_edge=False)
    for release in found:
        info = release.info
        live = Text("live", style="green") if release.live else ""
        table.add_row(release.tag, live, info.created[:19], info.made_by, f"{info.rows:,}", info.content[:12])
    out.print(table)


def _facts(release: ReleaseSummary) -> dict[str, Any]:
    info = release.info
    return {
        "release": release.tag,
        "version": release.version,
        "live": release.live,
        "made": info.created,
        "made_by": info.made_by,
        "rows": info.rows,
        "content": info.content,
        "models": {name: model.digest for name, model in info.models.items()},
    }


@releases_app.command()
def show(release: ReleaseArgument = "live", profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """All that a release says of itself, and when the tag `live` moved to it or away."""
    from latent_assets.atlas.history import find_release, moves

    storage = _lineage(profile).storage
    found = find_release(storage.lance_uri, release)
    history = [move for move in moves(storage) if found.version in (move.version, move.before)]
    if as_json:
        print_json({**_facts(found), "info": asdict(found.info), "moves": [asdict(move) for move in history]})
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("release", f"{found.tag}{' (live)' if found.live else ''}, version {found.version}")
    for key, value in asdict(found.info).items():
        if key == "shards":
            table.add_row(key, f"{len(value):,}")
        elif key == "models":
            for name, model in value.items():
                table.add_row(f"model {name}", f"{model['name']} {model['digest']}")
        elif isinstance(value, dict):
            table.add_row(key, ", ".join(f"{name} {item}" for name, item in value.items()))
        else:
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value))
    for move in history:
        before = "nothing" if move.before is None else str(move.before)
        table.add_row(move.when[:19], f"{move.action}: {before} → {move.version}, by {move.who}")
    out.print(table)


@releases_app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="`live`, release-00007, or 7.")],
    after: Annotated[str, typer.Argument(metavar="B", help="`live`, release-00007, or 7.")] = "live",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What changed from release A to release B: rows, models, settings, quality, and how far rows moved."""
    from latent_assets.atlas.difference import difference
    from latent_assets.atlas.history import find_release

    uri = _lineage(profile).storage.lance_uri
    found = difference(uri, find_release(uri, before), find_release(uri, after))
    if as_json:
        print_json(asdict(found))
        return
    out.print(f"{found.before} → {found.after}", style="bold")
    same = {True: ", the same rows", False: "", None: ""}[found.same_rows]
    out.print(f"rows: {found.rows[0]:,} → {found.rows[1]:,} ({found.added:,} added, {found.removed:,} removed){same}")
    for sign, ids, count in (("+", found.added_ids, found.added), ("-", found.removed_ids, found.removed)):
        for row_id in ids:
            out.print(f"  {sign} {row_id}")
        if count > len(ids):
            out.print(f"  {sign} and {count - len(ids):,} more")
    for what, changes in (("model", found.models), ("package", found.packages), ("setting", found.settings)):
        for name, (old, new) in changes.items():
            out.print(f"{what} {name}: {old} → {new}")
    _print_maps(found)


def _print_maps(found: ReleaseDifference) -> None:
    if not (found.quality or found.drift):
        return
    table = Table("space", "measure", "before", "after", box=None, pad_edge=False)
    for which, quality in (("", found.quality), (", placed rows", found.placed_quality)):
        for space, measures in quality.items():
            for measure, (old, new) in measures.items():
                table.add_row(space, f"{measure.replace('_', ' ')}{which}", _number(old), _number(new))
    out.print(table)
    for space, drift in found.drift.items():
        out.print(
            f"{space}: {drift.moved:.1%} of the rows of both moved; median {drift.median:.2%}, 95 % within "
            f"{drift.p95:.2%}, at most {drift.most:.2%} of the map's diameter"
            + ("" if drift.churn is None else f"; {drift.churn:.1%} of their 15 nearest are others")
        )
        if (floor := found.floor.get(space)) is not None:
            other = "" if floor.churn is None else f"; {floor.churn:.1%} of their 15 nearest are others"
            out.print(f"  by chance alone: median {floor.median:.2%}, 95 % within {floor.p95:.2%}{other}")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


@releases_app.command()
def publish(
    version: Annotated[int, typer.Argument(help="Number of a staged version that no reader sees yet.")],
    profile: ProfileOption = None,
) -> None:
    """Check a version that was staged and not published, and publish it when nothing is wrong with it."""
    from latent_assets.atlas.checks import check
    from latent_assets.atlas.release import publish as publish_staged
    from latent_assets.atlas.release import staged_version

    lineage = _lineage(profile)
    with lineage.claims.holding("atlas_table/all"):
        staged = staged_version(lineage.storage, version)
        checks = check(lineage.profile, lineage.storage, staged, empty=staged.release.rows == 0)
        for found in checks:
            err.print(f"{'passed' if found.passed else 'FAILED'}  {found.name}: {found.found}")
        release = publish_staged(lineage.storage, staged, checks)
    out.print(f"{release.tag} is live: {release.info.rows:,} rows.")


@releases_app.command()
def rollback(
    release: Annotated[
        str | None, typer.Argument(metavar="[RELEASE]", help="Where to go; without, the release before.")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Let readers see an earlier release again (or a later one): one step, nothing is written but the tag."""
    from latent_assets.atlas.history import find_release, release_before
    from latent_assets.atlas.release import rollback as move_back

    lineage = _lineage(profile)
    uri = lineage.storage.lance_uri
    with lineage.claims.holding("atlas_table/all"):
        found = release_before(uri) if release is None else find_release(uri, release)
        if found.live:
            raise QueryError(f"{found.tag} is what readers see already.")
        move_back(lineage.storage, found.version)
    out.print(f"{found.tag} is live: {found.info.rows:,} rows, made {found.info.created[:19]} UTC.")
    out.print(
        "The next build publishes anew only when something is due; `latent-assets status` says what.", style="dim"
    )


@releases_app.command()
def prune(
    keep: Annotated[int | None, typer.Option(min=1, help="Newest releases to keep (default: table.keep).")] = None,
    days: Annotated[
        float | None, typer.Option(help="Keep what was live less than so many days ago (default: table.keep_days).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop old releases, and everything that only they need; what somebody may still be reading stays."""
    from latent_assets.pipeline.retention import prune_atlas

    lineage = _lineage(profile)
    table = lineage.profile.table
    if days is not None and days < 0:
        raise ProfileError("--days: give 0 or more.")
    age = timedelta(days=table.keep_days if days is None else days)
    pruned = prune_atlas(lineage, table.keep if keep is None else keep, age, dry_run)
    if as_json:
        print_json(asdict(pruned))
        return
    would = "would be " if dry_run else ""
    out.print(
        f"{len(pruned.releases)} releases {would}dropped{': ' + ', '.join(pruned.releases) if pruned.releases else ''}."
    )
    for folder in pruned.folders:
        out.print(f"{would}removed: {folder}")
    if not dry_run:
        out.print(f"{pruned.bytes / 1e6:,.1f} MB freed.")
