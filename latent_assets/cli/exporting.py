"""The command that writes an atlas for others to read: `export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_assets.cli.console import out
from latent_assets.cli.options import ProfileOption, selected_profile
from latent_assets.errors import QueryError

if TYPE_CHECKING:
    from latent_assets.storage import Storage


class Format(StrEnum):
    """What is written."""

    site = "site"
    parquet = "parquet"
    embedding_atlas = "embedding-atlas"
    tensorboard = "tensorboard"
    tiles_3d = "3d-tiles"


def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; it must be empty, or not there.")],
    format: Annotated[
        Format,
        typer.Option(
            help="site: the viewer with its tiles, for any web server. parquet: every column of every row. "
            "embedding-atlas, tensorboard, 3d-tiles: what those tools read."
        ),
    ] = Format.site,
    release: Annotated[
        str | None,
        typer.Option(help="Which: release-00012 or its number (default: live; of a site, the newest with tiles)."),
    ] = None,
    space: Annotated[str | None, typer.Option(help="embedding-atlas, 3d-tiles: only this map (default: all).")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="tensorboard: so many images, evenly chosen (default: 10,000).")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Write a release for others to read: a static site, or the files of another tool.

    Every export says where each image came from, and under which terms the atlas was made.
    """
    if space is not None and format not in (Format.embedding_atlas, Format.tiles_3d):
        raise QueryError(f"--space is for embedding-atlas and 3d-tiles: {format.value} has all maps.")
    if limit is not None and format is not Format.tensorboard:
        raise QueryError(f"--limit is for tensorboard: {format.value} has all images.")
    storage = _storage(profile)
    if format is Format.site:
        _export_site(storage, folder, release)
        return
    from latent_assets.atlas.export.release import NOTES, open_release

    opened = open_release(storage, release)
    if format is Format.parquet:
        from latent_assets.atlas.export.tables import export_parquet

        made = export_parquet(opened, folder)
    elif format is Format.embedding_atlas:
        from latent_assets.atlas.export.tables import export_embedding_atlas

        made = export_embedding_atlas(opened, folder, space)
    elif format is Format.tensorboard:
        from latent_assets.atlas.export.tensorboard import ROWS, export_tensorboard

        made = export_tensorboard(opened, folder, limit or ROWS)
    else:
        from latent_assets.atlas.export.tiles3d import export_3d_tiles

        made = export_3d_tiles(opened, folder, space)
    size = f"{made.bytes / 1e6:,.1f} MB in {made.files:,} files"
    out.print(f"{made.rows:,} images of {made.release} as {format.value}: {made.folder} ({size})", highlight=False)
    out.print(f"How to read it: {made.folder / NOTES}", highlight=False)


def _storage(profile: str | None) -> Storage:
    from latent_assets.storage import Storage

    return Storage(selected_profile(profile).root)


def _export_site(storage: Storage, folder: Path, release: str | None) -> None:
    from latent_assets.atlas.tiles.site import export_site
    from latent_assets.web.building import viewer_folder

    named = release.removeprefix("release-").lstrip("0") if release is not None else None
    made = export_site(storage, folder, viewer_folder(), named)
    size = f"{made.bytes / 1e6:,.1f} MB in {made.files:,} files"
    out.print(f"Release {made.release} as a site: {made.folder} ({size})", highlight=False)
    out.print(f"Try: python -m http.server --bind 127.0.0.1 --directory {made.folder}", highlight=False)
