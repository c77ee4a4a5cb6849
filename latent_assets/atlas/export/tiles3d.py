"""A release as 3D Tiles 1.1 (https://docs.ogc.org/cs/22-025r4/22-025r4.html): one tileset of points for every map.

    SPACE/tileset.json      an octree; a tile adds its points to those of its parents
    SPACE/0.glb, 1.glb ...  points, coloured by category, each with its id, caption, category and links

Map units are metres in the tileset, with the map's own axes (z up).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latent_assets.atlas.export.glb import points_glb
from latent_assets.atlas.export.release import Exported, OpenedRelease, finish, new_folder, origin
from latent_assets.atlas.tiles.octree import Cube, Octree, build_octree
from latent_assets.plots import category_colours
from latent_assets.progress import report

_FACTS = ("id", "caption", "category", "url", "source_url")
_CELLS = 32  # to an edge of a node: as far apart are the points of an inner one


def export_3d_tiles(release: OpenedRelease, folder: Path, space: str | None = None) -> Exported:
    """Tilesets of all maps, or of one.

    Facts are in memory once, vectors never. Raises QueryError for a space the release has not, StorageError when
    `folder` is in use.
    """
    spaces = release.chosen_spaces(space)
    new_folder(folder)
    facts = release.frame([name for name in _FACTS if name in release.facts])
    texts = facts.with_columns(pl.all().fill_null(""))
    colours = category_colours(facts["category"].to_list())
    chance = (facts["id"].hash(seed=0).to_numpy() >> np.uint64(11)).astype(np.float64) / 2.0**53 + 2.0**-54
    for name in spaces:
        _write_space(release, folder / name, name, texts, colours, chance)
    use = (
        "Serve the folder over HTTP and open `SPACE/tileset.json` in CesiumJS, 3DTilesRendererJS, deck.gl, Unreal or "
        f"Unity (Cesium plugins). Maps in it: {', '.join(spaces)}. Their units are shown as metres; points carry their "
        "texts and links as EXT_structural_metadata."
    )
    return finish(release, folder, release.rows, use)


def _write_space(
    release: OpenedRelease, folder: Path, space: str, texts: pl.DataFrame, colours: np.ndarray, chance: np.ndarray
) -> None:
    folder.mkdir()
    places = release.places(space)
    cube = Cube.around(places)
    tree = build_octree(cube.quantize(places), chance)
    info = release.info
    for number, node in enumerate(tree.nodes):
        rows = tree.order[node["first"] : node["first"] + node["points"]]
        if len(rows):
            facts = {name: texts[name].gather(rows).to_list() for name in texts.columns}
            glb = points_glb(_y_up(places[rows]), colours[rows], facts, info.attribution)
            (folder / f"{number}.glb").write_bytes(glb)
        report("export", number, len(tree.nodes), "tiles", note=space)
    document = {
        "asset": {"version": "1.1", "extras": {**origin(release), "space": space, "units": "map units"}},
        "geometricError": cube.edge,
        "root": _tile(tree, 0, cube),
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    (folder / "tileset.json").write_text(text + "\n", encoding="utf-8")


def _tile(tree: Octree, number: int, cube: Cube) -> dict[str, Any]:
    """A node and what is below it."""
    node = tree.nodes[number]
    edge = cube.edge / 2.0 ** int(node["level"])
    # a quantized place at the upper face of a cell is rounded to it
    half = edge / 2 + 2 * cube.edge / 65_535
    middle = [low + (int(cell) + 0.5) * edge for low, cell in zip(cube.origin, node["cell"], strict=True)]
    children = [_tile(tree, int(node["child"]) + i, cube) for i in range(int(node["mask"]).bit_count())]
    return {
        "boundingVolume": {"box": [*middle, half, 0, 0, 0, half, 0, 0, 0, half]},
        "geometricError": edge / _CELLS if children else 0,
        "refine": "ADD",
        **({"content": {"uri": f"{number}.glb"}} if node["points"] else {}),
        **({"children": children} if children else {}),
    }


def _y_up(places: np.ndarray) -> np.ndarray:
    """Places for glTF, whose y is up and becomes the z of the tileset: float32 [n, 3]."""
    return np.ascontiguousarray(np.stack([places[:, 0], places[:, 2], -places[:, 1]], axis=1), np.float32)
