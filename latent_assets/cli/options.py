"""Options that several commands share, and the profile they select."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from latent_assets.profile import PROFILE_VARIABLE, Profile, load_profile, shipped_profiles

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
        path = Path(profile).expanduser()
        os.environ[PROFILE_VARIABLE] = profile if profile in shipped_profiles() else str(path.resolve())
    return chosen
