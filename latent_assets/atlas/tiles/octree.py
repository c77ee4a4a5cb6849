"""An octree over points in a cube by additive sampling: a point belongs to one node, a node shows what is below it.

Arrays in, arrays out; files are written in `write`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

SAMPLE = 4_096  # points that an inner node keeps
LEAF = 8_192  # a node with as few keeps all
DEPTH = 16  # bits of a quantized coordinate: deeper there is nothing to part
_CELL_BITS = 5  # cells of a node in which points are counted: 2^5 to an edge

NODE = np.dtype(
    [
        ("first", "<u4"),
        ("points", "<u4"),
        ("below", "<u4"),
        ("child", "<u4"),
        ("mask", "u1"),
        ("level", "u1"),
        ("cell", "<u2", (3,)),
    ]
)
POINT = np.dtype([("place", "<u2", (3,)), ("category", "<u2"), ("row", "<u4")])


@dataclass(frozen=True)
class Cube:
    """Where the quantized coordinates of a space lie: a point is at origin + edge * value / 65535, map units."""

    origin: tuple[float, float, float]
    edge: float

    @classmethod
    def around(cls, places: np.ndarray) -> Cube:
        """The cube with the middle of `places`, float [n, 3], in its middle; of edge 1 when they have no extent."""
        if not len(places):
            return cls((-0.5, -0.5, -0.5), 1.0)
        low, high = places.min(axis=0).astype(np.float64), places.max(axis=0).astype(np.float64)
        edge = float((high - low).max()) or 1.0
        x, y, z = ((low + high - edge) / 2).tolist()
        return cls((x, y, z), edge)

    def quantize(self, places: np.ndarray) -> np.ndarray:
        """`places`, float [n, 3] in map units, as uint16 [n, 3]."""
        scaled = (places - np.array(self.origin)) * (65_535 / self.edge)
        quantized: np.ndarray = np.clip(np.rint(scaled), 0, 65_535).astype(np.uint16)
        return quantized

    def places(self, quantized: np.ndarray) -> np.ndarray:
        """What `quantize` made, back in map units: float64 [n, 3]."""
        places: np.ndarray = np.array(self.origin) + quantized * (self.edge / 65_535)
        return places


@dataclass(frozen=True)
class Octree:
    """nodes: NODE [m], level by level; order: int64 [n], the points in the order of their nodes; sorted: int64 [n], in
    Morton order."""

    nodes: np.ndarray
    order: np.ndarray
    sorted: np.ndarray


def morton(quantized: np.ndarray) -> np.ndarray:
    """Morton codes of uint16 [n, 3]: uint64 [n], bit 3i + a is bit i of axis a."""
    code = np.zeros(len(quantized), np.uint64)
    for axis in range(3):
        code |= _spread(quantized[:, axis]) << np.uint64(axis)
    return code


def _spread(values: np.ndarray) -> np.ndarray:
    """Bits of uint16 three apart."""
    wide = values.astype(np.uint64)
    for shift, mask in ((16, 0x0000FF0000FF), (8, 0x00F00F00F00F), (4, 0x0C30C30C30C3), (2, 0x249249249249)):
        wide = (wide | (wide << np.uint64(shift))) & np.uint64(mask)
    return wide


def _gathered(cells: np.ndarray) -> np.ndarray:
    """Coordinates of Morton codes: uint16 [m, 3]."""
    found = np.zeros((len(cells), 3), np.uint16)
    for axis in range(3):
        for bit in range(DEPTH):
            found[:, axis] |= ((cells >> np.uint64(3 * bit + axis)) & np.uint64(1)).astype(np.uint16) << bit
    return found


def build_octree(quantized: np.ndarray, chance: np.ndarray) -> Octree:
    """Part points into nodes.

    quantized: uint16 [n, 3]. chance: float64 [n] in (0, 1], a hash of each point; the larger, the higher up it stands.
    No points give a root without points.
    """
    code = morton(quantized)
    order = np.argsort(code, kind="stable")
    rest, code = order, code[order]
    draw = -np.log(chance)
    levels: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    for level in range(DEPTH + 1):
        if not len(rest) and level:
            break
        cell = code >> np.uint64(3 * (DEPTH - level))
        starts = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1]))) if len(cell) else np.array([0])
        counts = np.diff(np.append(starts, len(rest)))
        keys = draw[rest] * np.sqrt(_crowd(code, level))
        nodes = np.zeros(len(starts), NODE)
        nodes["level"], nodes["below"] = level, counts
        nodes["cell"] = _gathered(cell[starts]) if len(cell) else 0
        stays = np.zeros(len(rest), bool)
        for number, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
            mine = keys[start : start + count]
            if count > LEAF and level < DEPTH:
                chosen = np.argpartition(mine, SAMPLE)[:SAMPLE]
                chosen = chosen[np.argsort(mine[chosen], kind="stable")]
            else:
                chosen = np.argsort(mine, kind="stable")
            stays[start + chosen] = True
            kept.append(rest[start + chosen])
            nodes["points"][number] = len(chosen)
        levels.append(nodes)
        rest, code = rest[~stays], code[~stays]
    return Octree(_linked(levels), np.concatenate(kept), order)


def _crowd(code: np.ndarray, level: int) -> np.ndarray:
    """For each of the sorted codes, how many share its cell of a node at `level`."""
    if not len(code):
        return np.zeros(0)
    shift = np.uint64(max(0, 3 * (DEPTH - level - _CELL_BITS)))
    cell = code >> shift
    edges = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
    counts = np.diff(np.append(edges, len(cell)))
    return np.repeat(counts, counts)


def _linked(levels: list[np.ndarray]) -> np.ndarray:
    """The nodes of all levels, each with its first point and its children."""
    bases = np.cumsum([0, *(len(nodes) for nodes in levels)])
    for depth, (parents, children) in enumerate(itertools.pairwise(levels)):
        found = _code(children["cell"] >> 1)
        own = _code(parents["cell"])
        at = np.searchsorted(own, found)
        octant = _code(children["cell"] & 1).astype(np.uint8)
        np.bitwise_or.at(parents["mask"], at, np.uint8(1) << octant)
        first = np.concatenate(([True], at[1:] != at[:-1]))
        parents["child"][at[first]] = bases[depth + 1] + np.flatnonzero(first)
    nodes = np.concatenate(levels)
    nodes["first"] = np.concatenate(([0], np.cumsum(nodes["points"].astype(np.int64))[:-1]))
    return nodes


def _code(cells: np.ndarray) -> np.ndarray:
    return morton(cells.astype(np.uint16))
