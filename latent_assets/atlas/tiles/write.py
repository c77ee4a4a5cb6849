"""Writing the tiles of a release, and keeping the list of sets that are there. Bytes are described in FORMAT.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latent_assets import spaces as registered
from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.labels.store import SpaceLabels
from latent_assets.atlas.tiles.clusters import label_entries, write_clusters
from latent_assets.atlas.tiles.octree import POINT, Cube, Octree, build_octree
from latent_assets.atlas.tiles.rows import Codes, TileRows
from latent_assets.atlas.tiles.sprites import pack_key, write_pack
from latent_assets.layout import SPRITES, TILES, TILES_INDEX, sprites_name, tile_name
from latent_assets.progress import report
from latent_assets.storage import Storage

FORMAT = 1
ALL_WITH_SPRITES = 1_000_000  # rows; above that only those of the upper levels have a thumbnail
MOST_CODES = 65_534
_MOST_LABELS = 48
_PROBED, _BESIDE = 20_000, 12  # points whose distance to the nearest is measured, among how many on either side
_LABEL_CELLS = 12  # to an edge, in which the densest place of a category is looked for
_NONE = 65_535

Thumbnails = Callable[[int, int], Iterable[bytes]]


@dataclass(frozen=True)
class Written:
    """files: storage names of the set. written, reused: files of thumbnails. nodes: by space. bytes: of the points."""

    files: Sequence[str]
    written: int
    reused: int
    nodes: Mapping[str, int]
    sprites: int


@dataclass
class _Set:
    """A set that is being written."""

    storage: Storage
    release: str
    files: list[str] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> None:
        full = tile_name(self.release, name)
        self.storage.write_bytes(full, data)
        self.files.append(full)


def write_tiles(
    storage: Storage,
    release: str,
    info: ReleaseInfo,
    rows: TileRows,
    thumbnails: Thumbnails,
    versions: Mapping[str, str],
    labels: Mapping[str, SpaceLabels] | None = None,
) -> Written:
    """Write the set of a release; it is listed with `list_releases` afterwards.

    thumbnails: (first row, rows) -> their files in order. versions: by shard the data version of its thumbnails; packs
    that are there for the same version and rows are used again. labels: of the release's maps, by space.
    """
    made, named = _Set(storage, release), labels or {}
    chance = _chance(rows.ids)
    category = np.where(rows.codes["category"].codes > MOST_CODES, 0, rows.codes["category"].codes).astype(np.uint16)
    spaces: dict[str, Any] = {}
    nodes: dict[str, int] = {}
    chosen = np.full(len(rows), len(rows) <= ALL_WITH_SPRITES)
    for number, (space, places) in enumerate(rows.places.items()):
        report("atlas_tiles", number * len(rows), len(rows) * len(rows.places), note=f"space {space}")
        cube = Cube.around(places)
        quantized = cube.quantize(places)
        tree = build_octree(quantized, chance)
        made.write(f"{space}/nodes.bin", tree.nodes.tobytes())
        made.write(f"{space}/points.bin", _points(quantized, category, tree))
        made.write(f"{space}/labels.json", _json(_labels(rows, space, named.get(space), cube)))
        nodes[space] = len(tree.nodes)
        spaces[space] = _space(info, space, cube, tree, rows, places)
        if len(rows) > ALL_WITH_SPRITES:
            chosen[_upper(tree, ALL_WITH_SPRITES // len(rows.places))] = True
    made.write("ids.bin", rows.ids.tobytes())
    shards, packed, reused = _sprites(storage, rows, chosen, thumbnails, versions)
    about = {
        "format": FORMAT,
        "release": release,
        "title": info.title,
        "attribution": info.attribution,
        "created": info.created,
        "rows": len(rows),
        "spaces": spaces,
        "categories": [name for name, _ in rows.codes["category"].values[:MOST_CODES]],
        "columns": [*_numbers(made, rows), *_codes(made, rows), *write_clusters(made.write, rows.clusters, named)],
        "shards": shards,
    }
    made.write("tiles.json", _json(about))
    packs = sorted({sprites_name(shard["sprites"]) for shard in shards})
    return Written([*made.files, *packs], packed, reused, nodes, int(chosen.sum()))


def list_releases(storage: Storage, keep: Sequence[str]) -> int:
    """Write the list of sets: those of `keep` that are there. Others, and thumbnails only they had, are removed.

    Returns how many sets were removed.
    """
    present = [name for name in storage.folders(TILES) if storage.exists(tile_name(name, "tiles.json"))]
    wanted = [name for name in keep if name in present]
    about = {name: storage.read_json(tile_name(name, "tiles.json")) for name in wanted}
    listed = [{"release": name, "rows": about[name]["rows"], "created": about[name]["created"]} for name in wanted]
    storage.write_bytes(TILES_INDEX, _json({"format": FORMAT, "releases": listed}))
    gone = [name for name in present if name not in wanted]
    for name in gone:
        storage.delete(f"{TILES}/{name}")
    used = {sprites_name(shard["sprites"]) for one in about.values() for shard in one["shards"]}
    for name in storage.list(SPRITES, ".bin"):
        if f"{SPRITES}/{name}" not in used:
            storage.delete(f"{SPRITES}/{name}")
    return len(gone)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n").encode()


def _chance(ids: np.ndarray) -> np.ndarray:
    """A number in (0, 1] of each id, mixed (splitmix64), as ids need not be evenly spread: float64 [n]."""
    mixed = np.ascontiguousarray(ids[:, :8]).view("<u8").ravel() ^ np.ascontiguousarray(ids[:, 8:]).view("<u8").ravel()
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    chance: np.ndarray = ((mixed >> np.uint64(11)).astype(np.float64) + 1) / 2.0**53
    return chance


def _points(quantized: np.ndarray, category: np.ndarray, tree: Octree) -> bytes:
    points = np.empty(len(tree.order), POINT)
    points["place"] = quantized[tree.order]
    points["category"] = category[tree.order]
    points["row"] = tree.order
    return points.tobytes()


def _upper(tree: Octree, most: int) -> np.ndarray:
    """Rows of the upper levels, as many levels as have at most `most` points."""
    level = tree.nodes["level"]
    ends = np.cumsum(np.bincount(level, tree.nodes["points"]).astype(np.int64))
    fits = ends[ends <= most]
    return tree.order[: int(fits[-1]) if len(fits) else 0]


def _space(
    info: ReleaseInfo, space: str, cube: Cube, tree: Octree, rows: TileRows, places: np.ndarray
) -> dict[str, Any]:
    row = registered.spaces().get(space)
    quality = {
        name: value for name, value in info.quality.get(space, {}).items() if isinstance(value, int | float | str)
    }
    return {
        "origin": cube.origin,
        "edge": cube.edge,
        **_extent(places, tree),
        "nodes": len(tree.nodes),
        "depth": int(tree.nodes["level"].max()),
        "shows": row.shows if row else "",
        "quality": {name: value for name, value in quality.items() if value == value},
    }


def _extent(places: np.ndarray, tree: Octree) -> dict[str, Any]:
    """What a camera begins with: the middle of the points, how far most of them reach, how far apart neighbours are."""
    if not len(places):
        return {"middle": [0.0, 0.0, 0.0], "reach": 1.0, "spacing": 1.0}
    some = places[np.unique(np.linspace(0, len(places) - 1, _PROBED).astype(np.int64))].astype(np.float64)
    low, high = np.quantile(some, [0.03, 0.97], axis=0)
    middle = (low + high) / 2
    reach = float(np.quantile(np.linalg.norm(some - middle, axis=1), 0.95)) or 1.0
    return {"middle": middle.tolist(), "reach": reach, "spacing": _spacing(places, tree) or reach / 2}


def _spacing(places: np.ndarray, tree: Octree) -> float:
    """Median distance of a point to the nearest other, in map units; looked for among its next in Morton order."""
    order = tree.sorted
    probed = np.unique(np.linspace(0, len(order) - 1, _PROBED).astype(np.int64))
    nearest = np.full(len(probed), np.inf)
    for step in (*range(-_BESIDE, 0), *range(1, _BESIDE + 1)):
        other = probed + step
        inside = (other >= 0) & (other < len(order))
        apart = places[order[probed[inside]]].astype(np.float64) - places[order[other[inside]]]
        nearest[inside] = np.minimum(nearest[inside], np.linalg.norm(apart, axis=1))
    found = nearest[np.isfinite(nearest)]
    return float(np.median(found)) if len(found) else 0.0


def _labels(rows: TileRows, space: str, labels: SpaceLabels | None, cube: Cube) -> list[dict[str, Any]]:
    """The labels of a map; where it has no clusters, the densest place of each of the largest categories."""
    found = label_entries(labels) if labels is not None else []
    return found or _categories(rows.codes["category"], cube, rows.places[space])


def _categories(category: Codes, cube: Cube, places: np.ndarray) -> list[dict[str, Any]]:
    cells = ((places - np.array(cube.origin)) * (_LABEL_CELLS / cube.edge)).astype(np.int64).clip(0, _LABEL_CELLS - 1)
    cell = (cells[:, 0] * _LABEL_CELLS + cells[:, 1]) * _LABEL_CELLS + cells[:, 2]
    labels = []
    for code, (text, count) in enumerate(category.values[:_MOST_LABELS], 1):
        mine = np.flatnonzero(category.codes == code)
        densest = np.bincount(cell[mine]).argmax()
        middle = np.median(places[mine[cell[mine] == densest]], axis=0)
        position = [float(value) for value in middle]
        labels.append({"text": text, "level": 1, "position": position, "radius": 0.0, "rows": count})
    return labels


def _numbers(made: _Set, rows: TileRows) -> list[dict[str, Any]]:
    """Write the columns of numbers that have any value and more than one."""
    columns = []
    for name, values in rows.numbers.items():
        known = np.isfinite(values)
        if not known.any():
            continue
        low, high = float(values[known].min()), float(values[known].max())
        if low == high:
            continue
        scaled = np.full(len(values), _NONE, "<u2")
        scaled[known] = np.rint((values[known] - low) / (high - low) * (_NONE - 1))
        made.write(f"columns/{name}.bin", scaled.tobytes())
        columns.append({"name": name, "kind": "number", "low": low, "high": high})
    return columns


def _codes(made: _Set, rows: TileRows) -> list[dict[str, Any]]:
    """Write the columns of codes that have any value."""
    columns = []
    for name, column in rows.codes.items():
        if not column.values:
            continue
        codes = np.where(column.codes > MOST_CODES, 0, column.codes).astype("<u2")
        made.write(f"columns/{name}.bin", codes.tobytes())
        made.write(f"columns/{name}.json", _json(column.values[:MOST_CODES]))
        columns.append({"name": name, "kind": "code", "values": min(len(column.values), MOST_CODES)})
    return columns


def _sprites(
    storage: Storage, rows: TileRows, chosen: np.ndarray, thumbnails: Thumbnails, versions: Mapping[str, str]
) -> tuple[list[dict[str, Any]], int, int]:
    """Shards with their packs of thumbnails, how many packs were written and how many were there."""
    shards: list[dict[str, Any]] = []
    first = written = 0
    for shard, count in rows.shards:
        ids, mine = rows.ids[first : first + count], chosen[first : first + count]
        key = pack_key(versions[shard], ids, mine)
        report("atlas_tiles", first, len(rows), note=f"thumbnails of shard {shard}")
        if not storage.exists(sprites_name(key)):
            write_pack(storage, key, ids, mine, thumbnails(first, count))
            written += 1
        shards.append({"shard": shard, "first": first, "rows": count, "sprites": key})
        first += count
    return shards, written, len(shards) - written
