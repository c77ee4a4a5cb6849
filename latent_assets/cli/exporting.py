"""The command that writes an atlas for others to read: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_assets.cli.console import out
from latent_assets.cli.options import ProfileOption, selected_profile


def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; it must be empty, or not there.")],
    release: Annotated[
        str | None, typer.Option(help="Version of the release (default: the newest with tiles).")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Write the viewer with a release's tiles as a static site: map, labels and images, for any web server."""
    from latent_assets.atlas.tiles.site import export_site
    from latent_assets.storage import Storage
    from latent_assets.web.building import viewer_folder

    made = export_site(Storage(selected_profile(profile).root), folder, viewer_folder(), release)
    size = f"{made.bytes / 1e6:,.1f} MB in {made.files:,} files"
    out.print(f"Release {made.release} as a site: {made.folder} ({size})", highlight=False)
    out.print(f"Try: python -m http.server --bind 127.0.0.1 --directory {made.folder}", highlight=False)
