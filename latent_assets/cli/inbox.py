"""Commands for generated images: `inbox`, `inbox take` and `inbox restore`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, announce_home, selected_profile

if TYPE_CHECKING:
    from latent_assets.profile import Profile

inbox_app = typer.Typer(help="Generated images: what waits to be placed, and what could not be taken.")


@inbox_app.callback(invoke_without_command=True)
def inbox(context: typer.Context, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """What waits in the inbox, what is placed on the release `live`, and what was put aside, with reasons."""
    if context.invoked_subcommand:
        return
    from latent_assets.generated.inbox import quarantined
    from latent_assets.generated.projecting import pending
    from latent_assets.generated.table import GeneratedTable
    from latent_assets.layout import INBOX
    from latent_assets.storage import Storage

    chosen = selected_profile(profile)
    storage = Storage(chosen.root)
    found, aside = pending(chosen, storage), quarantined(storage)
    placements = GeneratedTable(storage.lance_uri).placements()
    placed = sum(found.live in on for on in placements.values())
    waiting = len(found.batch) + len(found.accepted) + len(found.unplaced)
    if as_json:
        print_json(
            {
                "inbox": storage.uri(INBOX),
                "release": found.live,
                "placed": placed,
                "waiting": waiting,
                "put_aside": [asdict(item) for item in aside],
            }
        )
        return
    out.print(f"Inbox: {storage.uri(INBOX)}", highlight=False, markup=False)
    on = f" on release {found.live}" if found.live else "; there is no release to place them on: `latent-assets build`"
    out.print(f"{placed:,} placed, {waiting:,} waiting{on}", highlight=False)
    for item in aside:
        out.print(
            f"put aside: {item.key[:12]}  {item.name}: {item.reason} ({item.detail})", highlight=False, markup=False
        )


@inbox_app.command()
def take(profile: ProfileOption = None) -> None:
    """Take what is in the inbox and place it, now. While `latent-assets ui` runs this happens by itself."""
    take_inbox(selected_profile(profile))


def take_inbox(profile: Profile, quiet: bool = False) -> None:
    """Take and place what is in the inbox of a profile, through its Dagster instance; `quiet` without its line."""
    from latent_assets.defs.build import Builder
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.defs.instance import open_instance
    from latent_assets.errors import NotBuiltError
    from latent_assets.generated.projecting import live_release
    from latent_assets.pipeline.lineage import Lineage

    lineage = Lineage(profile)
    announce_home([profile])
    if live_release(lineage.storage) is None:
        raise NotBuiltError("There is no release to place images on yet. Run `latent-assets build`.")
    with open_instance(profile) as instance, BuildDisplay(err) as display:
        result = Builder(lineage, instance).place_generated(display.begin)
        if not quiet or result.failed:
            display.end(result)
    for why in result.failed.values():
        err.print(why, style="red", highlight=False, markup=False)
        raise typer.Exit(1)


@inbox_app.command()
def restore(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys as `latent-assets inbox` shows them.")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Put files that were put aside back into the inbox: all, or those of the keys."""
    from latent_assets.generated.inbox import restore as put_back
    from latent_assets.storage import Storage

    back = put_back(Storage(selected_profile(profile).root), keys or [])
    for item in back:
        out.print(f"back in the inbox: {item.name}", highlight=False, markup=False)
    if not back:
        out.print("Nothing was put aside.")
