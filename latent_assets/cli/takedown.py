"""The command that takes images out of everything: `takedown`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, selected_profile
from latent_assets.errors import QueryError

if TYPE_CHECKING:
    from latent_assets.catalog.removals import Removals
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.takedown import Match, TakedownRecord

_OWN_SHOWN = 10


def takedown(
    url: Annotated[list[str] | None, typer.Option(help="Link of an image; the path, for a folder.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="All images of a domain, and of those below it.")] = None,
    sha256: Annotated[list[str] | None, typer.Option(help="SHA-256 of an image's bytes as fetched.")] = None,
    row_id: Annotated[list[str] | None, typer.Option("--id", help="Id of a row.")] = None,
    file: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="A list of links, domains, ids, LAION hashes or SHA-256.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why: kept in the record.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End a takedown that was interrupted.")] = False,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take images out of everything: files, releases, indexes, logs. No build brings them back."""
    from latent_assets.catalog.removals import read_removals, removals_of, together
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.defs.instance import open_instance
    from latent_assets.defs.takedown import resume as end_begun
    from latent_assets.defs.takedown import take_down
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.pipeline.takedown import match, refuse_unfinished

    chosen = selected_profile(profile)
    lineage = Lineage(chosen)
    named = {"url": url or [], "domain": domain or [], "sha256": sha256 or [], "id": row_id or [], "file": file or []}
    if resume:
        if any(named.values()):
            raise QueryError("--resume ends what was begun: name nothing with it.")
        with open_instance(chosen) as instance, BuildDisplay(err):
            ended = end_begun(lineage, instance)
        if as_json:
            print_json([asdict(each.outcome.record) for each in ended])
        elif not ended:
            out.print("No takedown was interrupted.")
        for each in [] if as_json else ended:
            _print_record(each.outcome.record)
        return
    if not any(named.values()):
        raise QueryError("Say what to take down: --url, --domain, --sha256, --id or --file LIST.")
    if not dry_run and not (reason or "").strip():
        raise QueryError("Say why, with --reason: it is kept in the record of the takedown.")
    removals = together(
        read_removals(named["file"], images=True),
        removals_of(named["url"], named["domain"], named["id"], named["sha256"]),
    )
    if not dry_run:
        refuse_unfinished(lineage.storage)
    with BuildDisplay(err):
        found = match(lineage, removals)
    if dry_run:
        _print_match(lineage, found, as_json)
        return
    with open_instance(chosen) as instance, BuildDisplay(err):
        done = take_down(lineage, instance, found, str(reason), _counts(removals))
    if as_json:
        print_json({**asdict(done.outcome.record), "runs": list(done.runs), "own": list(found.own)})
        return
    _print_record(done.outcome.record)
    _print_own(found)


def _counts(removals: Removals) -> dict[str, int]:
    return {
        "url": len(removals.urls),
        "domain": len(removals.domains),
        "hash": len(removals.hashes),
        "id": len(removals.ids),
        "sha256": len(removals.images),
    }


def _print_match(lineage: Lineage, found: Match, as_json: bool) -> None:
    from latent_assets.atlas.table import LIVE, table_exists, tags

    uri = lineage.storage.lance_uri
    names = sorted(set(tags(uri)) - {LIVE}) if table_exists(uri) else []
    if as_json:
        print_json(
            {
                "rows": found.rows,
                "copies": found.copies,
                "shards": list(found.shards),
                "found": dict(found.found),
                "releases": names,
                "own": list(found.own),
                "bucket_versions": lineage.storage.keeps_versions(),
            }
        )
        return
    copies = f", {found.copies:,} of them not named but with the same bytes" if found.copies else ""
    out.print(f"{found.rows:,} rows would be taken down{copies}.")
    for where, count in found.found.items():
        out.print(f"  {where}: {count:,}")
    out.print(f"  shards: {', '.join(found.shards) or 'none'}")
    out.print(f"  releases that would go, after one without them is published: {', '.join(names) or 'none'}")
    _print_own(found)
    _print_versions(lineage.storage.keeps_versions())


def _print_record(record: TakedownRecord) -> None:
    out.print(f"{record.rows:,} rows are taken down ({record.seconds:.1f} s).", style="bold")
    table = Table(show_header=False, box=None, pad_edge=False)
    for where, count in record.removed.items():
        table.add_row(where, f"{count:,}")
    out.print(table)
    published = f"release-{record.release:05d} is live, without them" if record.release else "no release was live"
    out.print(f"{published}; {len(record.versions)} earlier releases are gone.")
    for note in record.notes:
        out.print(note)
    if record.rebuilt:
        out.print(f"`latent-assets build` makes again: {', '.join(record.rebuilt)}.")
    _print_versions(record.bucket_versions)
    out.print(f"The record is takedowns/{record.key}.json below the root; it names images by hashes only.")


def _print_own(found: Match) -> None:
    if found.own:
        out.print(f"The source's own copies are yours and stay ({len(found.own):,}); no build takes them in again:")
        for place in found.own[:_OWN_SHOWN]:
            out.print(f"  {place}")


def _print_versions(kept: bool | None) -> None:
    if kept:
        err.print(
            "The bucket keeps older versions of objects: delete those, too, they still hold the images.", style="red"
        )
    elif kept is None:
        err.print("Whether the bucket keeps older versions of objects could not be found out: look.", style="yellow")
