"""Commands about profiles: `profile show` and `profile list`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from latent_assets.cli.console import escaped, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption
from latent_assets.profile import load_profile, profile_toml, shipped_profiles

profile_app = typer.Typer(help="The profiles: what to build.", no_args_is_help=True)


@profile_app.command("show")
def profile_show(
    name: Annotated[str | None, typer.Argument(help="Name or path; default: the selected one.")] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a profile as it is resolved: defaults filled in, paths absolute."""
    chosen = load_profile(name or profile)
    if as_json:
        print_json(chosen.model_dump(mode="json"))
        return
    sys.stdout.write(escaped(profile_toml(chosen)))  # a console would change tabs and long lines


@profile_app.command("list")
def profile_list(as_json: JsonOption = False) -> None:
    """The profiles that come with the package."""
    names = shipped_profiles()
    if as_json:
        print_json(names)
    else:
        out.print("\n".join(names), highlight=False)
