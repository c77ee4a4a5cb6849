"""The command `place`: where images fall on the maps of the release, and what is near."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_assets.cli.asking import asked
from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption
from latent_assets.errors import QueryError

if TYPE_CHECKING:
    from latent_assets.client import Atlas
    from latent_assets.generated.placement.placed import Placed, Placement, Share
    from latent_assets.service.remote import RemoteAtlas

_LONGEST_CAPTION = 80
_SHARES = 4


def place(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images: PNG, JPEG, WebP, AVIF, ...")],
    count: Annotated[int, typer.Option("--count", "-k", min=0, max=12, help="How many neighbours to show.")] = 3,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where images fall on the maps, what is near, and how usual that is. Nothing is kept of them."""
    found, refused = asked(profile, lambda atlas: _placed(atlas, files))
    if as_json:
        print_json([{"file": str(file), **placed.to_dict()} for file, placed in found])
    else:
        for file, placed in found:
            _print_placed(file, placed, count)
    for why in refused:
        err.print(why, style="red")
    if refused:
        raise typer.Exit(QueryError.exit_code)


def _placed(atlas: Atlas | RemoteAtlas, files: Iterable[Path]) -> tuple[list[tuple[Path, Placed]], list[str]]:
    """Where each file falls, and why some do not."""
    found, refused = [], []
    for file in files:
        try:
            found.append((file, atlas.place(file)))
        except QueryError as error:
            refused.append(str(error))
    return found, refused


def _print_placed(file: Path, placed: Placed, count: int) -> None:
    out.print(f"{file}  {placed.width} x {placed.height}, on release {placed.release}", style="bold")
    out.print(placed.sentence)
    for space, found in placed.placements.items():
        _print_space(space, found, count)
    for share in _telling(placed.behind):
        out.print(
            f"  behind them: {share.field} {share.value}, {share.count} of {share.of}: {share.lift:.1f} times its "
            f"share in the atlas ({share.low:.1f} to {share.high:.1f})"
        )
    if placed.agreement is not None:
        out.print(f"  {placed.agreement:.0%} of the neighbouring groups are the same by every embedding")


def _print_space(space: str, found: Placement, count: int) -> None:
    where = ", ".join(f"{value:.2f}" for value in found.position)
    known = f", nearer than {100 - found.percentile:.0f} % of real images" if found.percentile is not None else ""
    out.print(f"  {space}: at ({where}) \u00b1 {found.uncertainty:.2f}{known}; {found.verdict}")
    for item in found.neighbours[:count]:
        caption = (item.caption or "(no caption)").replace("\n", " ")
        shown = caption if len(caption) <= _LONGEST_CAPTION else f"{caption[:_LONGEST_CAPTION]}\u2026"
        size = f"  (one of {item.group_size} near-duplicates)" if item.group_size > 1 else ""
        category = f"  [{item.category}]" if item.category else ""
        out.print(f"    {item.similarity:.3f}  {shown}{category}{size}")
        out.print(f"           {item.id}  {item.source_url or item.url}", style="dim")


def _telling(behind: Iterable[Share]) -> list[Share]:
    """What is surely commoner, or rarer, than in the atlas."""
    return [share for share in behind if share.unusual][:_SHARES]
