"""Options that several commands share, and the profile they select."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from latent_assets.profile import DEFAULT_PROFILE, PROFILE_VARIABLE, Profile, load_profile, shipped_profiles

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


def profile_reference(profile: str | None) -> str:
    """A profile's name, or its path made absolute: it means the same in a process that starts elsewhere."""
    chosen = profile or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    return chosen if chosen in shipped_profiles() else str(Path(chosen).expanduser().resolve())
