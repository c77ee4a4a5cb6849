"""Reading tiles back, to prove what they hold: every row once in every space, every thumbnail its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latent_assets.atlas.tiles.octree import LEAF, NODE, POINT, Cube
from latent_assets.atlas.tiles.sprites import read_pack
from latent_assets.atlas.tiles.write import FORMAT
from latent_assets.errors import DataError, StorageError
from latent_assets.layout import tile_name
from latent_assets.storage import Storage

_NONE = 65_535


@dataclass(frozen=True)
class Space:
    """Octree of a space: nodes (NODE [m]), points (POINT [n]) and the cube they lie in."""

    nodes: np.ndarray
    points: np.ndarray
    cube: Cube

    def places(self) -> np.ndarray:
        """Place of every row, float64 [n, 3] in map units."""
        found = np.full((len(self.points), 3), np.nan)
        found[self.points["row"]] = self.cube.places(self.points["place"])
        return found


@dataclass(frozen=True)
class Tiles:
    """A set of tiles, opened for reading. ids: uint8 [n, 16]. `about` is its tiles.json."""

    storage: Storage
    release: str
    about: Mapping[str, Any]
    ids: np.ndarray

    @classmethod
    def open(cls, storage: Storage, release: str) -> Tiles:
        """Raises StorageError when there is no such set, DataError when it is of another format or cut off."""
        about = storage.read_json(tile_name(release, "tiles.json"))
        if about.get("format") != FORMAT:
            raise DataError(f"The tiles of {release} have the format {about.get('format')}: build them again.")
        data = storage.read_bytes(tile_name(release, "ids.bin"))
        if len(data) != 16 * about["rows"]:
            raise DataError(
                f"{tile_name(release, 'ids.bin')} has {len(data)} bytes for {about['rows']} rows: build again."
            )
        return cls(storage, release, about, np.frombuffer(data, np.uint8).reshape(-1, 16))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def spaces(self) -> Sequence[str]:
        return list(self.about["spaces"])

    def space(self, name: str) -> Space:
        """Raises DataError when the files are no whole number of records."""
        found = self.about["spaces"][name]
        parts = []
        for file, kind in (("nodes", NODE), ("points", POINT)):
            data = self.storage.read_bytes(tile_name(self.release, f"{name}/{file}.bin"))
            if len(data) % kind.itemsize:
                raise DataError(f"{tile_name(self.release, f'{name}/{file}.bin')} is cut off: build the tiles again.")
            parts.append(np.frombuffer(data, kind))
        x, y, z = found["origin"]
        return Space(parts[0], parts[1], Cube((x, y, z), found["edge"]))

    def column(self, name: str) -> list[Any]:
        """Values of every row, None where there is none; numbers are as near as 1/65534 of their range."""
        column = next(each for each in self.about["columns"] if each["name"] == name)
        codes = np.frombuffer(self.storage.read_bytes(tile_name(self.release, f"columns/{name}.bin")), "<u2")
        if column["kind"] == "number":
            span = column["high"] - column["low"]
            return [None if code == _NONE else column["low"] + span * code / (_NONE - 1) for code in codes.tolist()]
        values = self.storage.read_json(tile_name(self.release, f"columns/{name}.json"))  # of codes, or of clusters
        return [values[code - 1][0] if code else None for code in codes.tolist()]

    def labels(self, space: str) -> list[dict[str, Any]]:
        """What is written over a map; see FORMAT.md."""
        found: list[dict[str, Any]] = self.storage.read_json(tile_name(self.release, f"{space}/labels.json"))
        return found

    def sprites(self) -> list[bytes | None]:
        """Thumbnail of every row, None for rows without. Raises DataError for one that is another image's."""
        found: list[bytes | None] = []
        for shard in self.about["shards"]:
            entries = read_pack(self.storage, shard["sprites"])
            if len(entries) != shard["rows"] or shard["first"] != len(found):
                raise DataError(f"Shard {shard['shard']} has {shard['rows']} rows, its thumbnails {len(entries)}.")
            for row, entry in enumerate(entries, len(found)):
                if entry is not None and entry[0] != self.ids[row].tobytes():
                    raise DataError(f"The thumbnail of row {row} is of the image {entry[0].hex()}: build again.")
                found.append(entry[1] if entry else None)
        if len(found) != len(self):
            raise DataError(f"{len(found)} rows in shards of {len(self)}: build the tiles again.")
        return found


def problem_of_points(tiles: Tiles) -> str:
    """What is wrong with the octrees; "" when every row is in every space once and every node where it says."""
    try:
        for name in tiles.spaces:
            if problem := _problem_of_space(tiles.space(name), len(tiles)):
                return f"{name}: {problem}"
    except (StorageError, DataError) as error:
        return str(error)
    return ""


def _problem_of_space(space: Space, rows: int) -> str:
    nodes, points = space.nodes, space.points
    if len(points) != rows:
        return f"{len(points)} points for {rows} rows"
    counts = np.bincount(points["row"], minlength=rows) if rows else np.zeros(0)
    if len(counts) != rows or (counts != 1).any():
        return f"{int((counts != 1).sum())} rows are not there exactly once"
    counted = nodes["points"].astype(np.int64)
    if (nodes["first"] != np.concatenate(([0], np.cumsum(counted)[:-1]))).any() or counted.sum() != rows:
        return "nodes do not part the points"
    owner = np.repeat(np.arange(len(nodes)), counted)
    shift = (16 - nodes["level"].astype(np.int64))[owner, None]
    if ((points["place"].astype(np.int64) >> shift) != nodes["cell"][owner]).any():
        return "points lie outside their nodes"
    return _problem_of_nodes(nodes)


def _problem_of_nodes(nodes: np.ndarray) -> str:
    below = nodes["points"].astype(np.int64)
    reached = np.zeros(len(nodes), np.int64)
    for at in range(len(nodes) - 1, -1, -1):
        node = nodes[at]
        octants = [octant for octant in range(8) if node["mask"] >> octant & 1]
        children = list(range(int(node["child"]), int(node["child"]) + len(octants)))
        if children and children[-1] >= len(nodes):
            return f"node {at} has children that are not there"
        for child, octant in zip(children, octants, strict=True):
            wanted = node["cell"].astype(np.int64) * 2 + [octant & 1, octant >> 1 & 1, octant >> 2]
            if (nodes[child]["cell"] != wanted).any() or nodes[child]["level"] != node["level"] + 1:
                return f"node {child} is not the child that node {at} says"
            reached[child] += 1
            below[at] += below[child]
        if not children and node["points"] > LEAF and node["level"] < 16:
            return f"node {at} was not parted"
    if (reached[1:] != 1).any() or reached[0]:
        return "nodes that cannot be reached from the root"
    return "" if (below == nodes["below"]).all() else "nodes count wrongly what is below them"


def problem_of_sprites(tiles: Tiles) -> str:
    """What is wrong with the thumbnails; "" when each is the image's of its row."""
    try:
        tiles.sprites()
    except (StorageError, DataError) as error:
        return str(error)
    return ""
