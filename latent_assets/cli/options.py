"""Options that several commands share, and the profile they select."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from latent_assets.cli.console import err
from latent_assets.profile import (
    DEFAULT_PROFILE,
    HOME_VARIABLE,
    PROFILE_VARIABLE,
    Profile,
    checkout,
    home,
    load_profile,
    shipped_profiles,
)

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", help=f"Name or path of a profile (default: ${PROFILE_VARIABLE}, else demo)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CountOption = Annotated[int, typer.Option("--count", "-k", min=1, max=1000, help="How many results.")]


def selected_profile(profile: str | None) -> Profile:
    """The chosen profile; also for the processes started from here. Raises ProfileError."""
    chosen = load_profile(profile)
    if profile:
        os.environ[PROFILE_VARIABLE] = profile_reference(profile)
    return chosen


def announce_home(profiles: Sequence[Profile]) -> None:
    """Say where atlases are kept before the first is written, when nobody chose the place and no checkout gives it."""
    folder = home()
    if os.environ.get(HOME_VARIABLE) or checkout() or folder.exists():
        return
    held = [profile.name for profile in profiles if Path(profile.root).is_relative_to(folder)]
    if held or not os.environ.get("DAGSTER_HOME"):
        what = "The atlas and its Dagster instance are" if held else "The atlas's Dagster instance is"
        remedy = f"To keep them elsewhere stop now, and set ${HOME_VARIABLE}, or `root` in the profile."
        err.print(f"{what} kept in {folder}. {remedy}")


def profile_reference(profile: str | None) -> str:
    """A profile's name, or its path made absolute: it means the same in a process that starts elsewhere."""
    chosen = profile or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    return chosen if chosen in shipped_profiles() else str(Path(chosen).expanduser().resolve())
