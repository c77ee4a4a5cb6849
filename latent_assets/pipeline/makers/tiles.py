"""The atlas group: static files of a release that the viewer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions


@dataclass(frozen=True)
class TileDetails:
    """release: version of the table that is shown. nodes: by space. packs, reused: files of thumbnails that were
    written and that were there. sprites: rows with a thumbnail. removed: sets of releases that are gone."""

    release: str = ""
    nodes: dict[str, int] = field(default_factory=dict)
    packs: int = 0
    reused: int = 0
    sprites: int = 0
    removed: int = 0


def make_tiles(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Write the set of the release that was published last."""
    from latent_assets.atlas.labels.store import read_labels
    from latent_assets.atlas.table import release_tag, tags
    from latent_assets.atlas.tiles.rows import read_thumbnails_of, read_tile_rows
    from latent_assets.atlas.tiles.write import list_releases, write_tiles
    from latent_assets.layout import TILES

    storage, wanted = lineage.storage, recipes["atlas_tiles"].fingerprint
    table = lineage.details(lineage.manifest("atlas_table"))
    if options.force or options.mend:
        storage.delete(TILES)
    info, rows = read_tile_rows(storage.lance_uri, table.version)
    versions = {shard: manifest.version for shard, manifest in lineage.manifests.all("thumbnails").items()}
    written = write_tiles(
        storage,
        str(table.version),
        info,
        rows,
        lambda first, count: read_thumbnails_of(storage.lance_uri, table.version, first, count),
        versions,
        read_labels(storage, info.labels) if info.labels else {},
    )
    kept = [version for tag, version in tags(storage.lance_uri).items() if tag == release_tag(version)]
    removed = list_releases(storage, [str(version) for version in sorted(kept, reverse=True)])
    details = TileDetails(
        str(table.version), dict(written.nodes), written.written, written.reused, written.sprites, removed
    )
    return {"atlas_tiles": Output(wanted, len(rows), written.files, details)}


def judge_tiles(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the octrees have every row once and thumbnails are those of their rows."""
    from latent_assets.atlas.tiles.read import Tiles, problem_of_points, problem_of_sprites
    from latent_assets.errors import LatentAssetsError

    details: TileDetails = lineage.details(manifest)
    try:
        tiles = Tiles.open(lineage.storage, details.release)
    except (LatentAssetsError, ValueError) as error:
        return [Finding("every_row_once", False, str(error)), Finding("sprites_of_this_release", False, str(error))]
    points = problem_of_points(tiles)
    if not points and len(tiles) != manifest.rows:
        points = f"{len(tiles)} rows, {manifest.rows} were written"
    sprites = problem_of_sprites(tiles)
    return [
        Finding("every_row_once", not points, points, {"rows": len(tiles), "spaces": len(tiles.spaces)}),
        Finding("sprites_of_this_release", not sprites, sprites, {"thumbnails": details.sprites}),
    ]


def describe_tiles(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the set."""
    details: TileDetails = lineage.details(manifest)
    return {
        "release": details.release,
        "nodes": ", ".join(f"{space} {count:,}" for space, count in details.nodes.items()),
        "thumbnails": details.sprites,
        "files of thumbnails": f"{details.packs} written, {details.reused} as they were",
        "bytes": sum(manifest.files.values()),
    }
