"""Islands of a layout: groups of points with a gap around them. UMAP says little about how far off they belong.

Once nothing holds two groups together they repel each other for as long as the optimisation runs. Islands are moved as
they are, never bent. What the map as a whole is turned and scaled by is in `frame`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_HALVINGS = 12
_LEAST_SHARED = 5  # rows of an island that say where it was
_SAMPLED = 2_000  # points of an island that gaps are measured from


@dataclass(frozen=True)
class Shift:
    """A move of an island: its rows, the vector, its gap to the others before and after where it was pulled in."""

    rows: int
    vector: tuple[float, float, float]
    gap_before: float | None = None
    gap_after: float | None = None

    def scaled(self, factor: float) -> Shift:
        """The same move in units of which `factor` make one of these."""

        def times(value: float | None) -> float | None:
            return None if value is None else value * factor

        return Shift(self.rows, _triple(np.array(self.vector) * factor), times(self.gap_before), times(self.gap_after))


def find_islands(coords: np.ndarray, gap: float) -> np.ndarray:
    """The island of each point of `coords` [n, 3], int64 [n]; 0 is the largest, and so on.

    Points in the same or adjacent cubes of edge `gap` are on one island: between two there are `gap` to twice the
    cube's diagonal of nothing.
    """
    if len(coords) == 0:
        return np.zeros(0, np.int64)
    cells = np.floor((coords - coords.min(axis=0)) / gap).astype(np.int64)
    occupied, cell_of = np.unique(cells, axis=0, return_inverse=True)
    pairs = cKDTree(occupied).query_pairs(1.8, output_type="ndarray")  # up to the diagonal neighbour at 1.73
    shape = (len(occupied), len(occupied))
    joined = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape)
    _, of_cell = connected_components(joined, directed=False)
    labels = of_cell[cell_of.reshape(-1)]
    sizes = np.bincount(labels)
    # equal sizes keep the order of their first cells, which depends on nothing but the coordinates
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.asarray(rank[labels])


def pull_in(
    coords: np.ndarray,
    islands: np.ndarray,
    nearest: float,
    keep: np.ndarray | None = None,
    farthest: float = np.inf,
) -> tuple[np.ndarray, list[Shift]]:
    """Move far islands towards the middle, each as it is: moved coordinates, and what was moved.

    Nearest first, each island slides along its way to the middle until its gap to all that stand already, g, is
    nearest * (1 + log(g / nearest)): order and direction stay, emptiness does not. Islands with a gap below `nearest`
    stay. keep: bool by island, those that stay unless their gap to the others that stay is above `farthest`; the
    largest always does.
    """
    moved = np.array(coords, dtype=np.float64)
    count = int(islands.max(initial=-1)) + 1
    if count < 2:
        return moved, []
    order = np.argsort(islands, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(islands))[:-1])
    middle = np.median(moved[members[0]], axis=0)
    standing = [0, *(i for i in range(1, count) if keep is not None and keep[i])]
    placed = [_Placed(moved[members[i]]) for i in standing]
    near = [
        at == 0 or _gap(moved[members[i]], [*placed[:at], *placed[at + 1 :]], farthest) < farthest
        for at, i in enumerate(standing)
    ]
    standing = [i for i, stays in zip(standing, near, strict=True) if stays]
    placed = [island for island, stays in zip(placed, near, strict=True) if stays]
    shifts = []
    rest = [i for i in range(1, count) if i not in set(standing)]
    distance = {i: float(np.linalg.norm(moved[members[i]].mean(axis=0) - middle)) for i in rest}
    for i in sorted(rest, key=lambda i: (distance[i], i)):
        points = moved[members[i]]
        probes = points[:: max(1, len(points) // _SAMPLED)]
        before = _gap(probes, placed, np.inf)
        wanted = nearest * (1.0 + np.log(before / nearest)) if before > nearest else before
        vector = np.zeros(3)
        if wanted < before:
            way = middle - points.mean(axis=0)
            low, high = 0.0, 1.0
            for _ in range(_HALVINGS):
                share = (low + high) / 2.0
                if _gap(probes + share * way, placed, wanted) >= wanted:
                    low = share
                else:
                    high = share
            vector = low * way
            moved[members[i]] = points + vector
            shifts.append(Shift(len(points), _triple(vector), before, _gap(probes + vector, placed, np.inf)))
        placed.append(_Placed(points + vector))
    return moved, shifts


def anchor(
    coords: np.ndarray, islands: np.ndarray, known: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, list[Shift], np.ndarray]:
    """Put islands back to where they were: moved coordinates, the moves, and bool by island, those that were put back.

    places float [n, 3]: where the rows `known` bool [n] were before. An island that mostly consists of them is moved by
    the median of what its rows moved, as it is: where it lies as a whole is chance, and it keeps to what it was.
    """
    moved = np.array(coords, dtype=np.float64)
    count = int(islands.max(initial=-1)) + 1
    put_back, shifts = np.zeros(count, dtype=bool), []
    order = np.argsort(islands, kind="stable")
    for i, rows in enumerate(np.split(order, np.cumsum(np.bincount(islands, minlength=count))[:-1])):
        shared = rows[known[rows]]
        if len(shared) < max(_LEAST_SHARED, len(rows) / 2):
            continue
        vector = np.median(places[shared] - moved[shared], axis=0)
        moved[rows] += vector
        put_back[i] = True
        shifts.append(Shift(len(rows), _triple(vector)))
    return moved, shifts, put_back


class _Placed:
    """An island where it stands: its points, and a ball around them."""

    def __init__(self, points: np.ndarray) -> None:
        self.tree = cKDTree(points)
        self.centre = points.mean(axis=0)
        self.radius = float(np.linalg.norm(points - self.centre, axis=1).max())


def _gap(points: np.ndarray, placed: list[_Placed], enough: float) -> float:
    """The least distance from `points` to any island; where it is at least `enough`, it may be told as `enough`."""
    centre = points.mean(axis=0)
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    least = enough
    bounds = [float(np.linalg.norm(island.centre - centre)) - island.radius - radius for island in placed]
    for at in np.argsort(bounds, kind="stable"):
        if bounds[at] >= least:
            break
        found, _ = placed[at].tree.query(points, distance_upper_bound=least)
        least = min(least, float(found.min()))
    return least


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 4) for value in vector)
    return x, y, z
