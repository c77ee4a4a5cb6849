"""How a layout is turned, moved and scaled to be a map: by a fixed rule, or onto the map of the release before.

Only similarities: what is near stays near, nothing is sheared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAP_RADIUS = 10.0
RADIUS_SHARE = 0.95  # of the points within MAP_RADIUS: the rest do not decide how large everything else is drawn
_TRIMMED = 0.25  # share of the rows, those that moved most, that an alignment does not follow
_ROUNDS = 12


@dataclass(frozen=True)
class Frame:
    """A similarity: x becomes scale * (x - centre) @ rotation + offset.

    rotation: orthogonal 3 x 3, row by row; may mirror. centre: units of the layout; offset: map units.
    """

    rotation: tuple[tuple[float, ...], ...]
    scale: float
    centre: tuple[float, ...]
    offset: tuple[float, ...]

    def apply(self, coords: np.ndarray) -> np.ndarray:
        """`coords` float [n, 3] on the map, float32 [n, 3]."""
        moved = (np.asarray(coords, np.float64) - self.centre) @ np.array(self.rotation)
        return np.asarray(self.scale * moved + self.offset, dtype=np.float32)


def first_frame(coords: np.ndarray) -> Frame:
    """The frame of a map that has none before it: 95 % of the points within radius 10 of the middle.

    The axes are the principal ones of those 95 %, the widest first; each points to where its distribution has its
    longer tail (third moment), or, without any, to where its farthest point lies.
    """
    wide = np.asarray(coords, np.float64)
    if len(wide) == 0:
        return _frame(np.eye(3), 1.0, np.zeros(3), np.zeros(3))
    centre = _middle(wide)
    away = wide - centre
    distance = np.linalg.norm(away, axis=1)
    radius = float(np.quantile(distance, RADIUS_SHARE)) or float(distance.max())
    core = away[distance <= radius] if (distance <= radius).sum() > 3 else away
    _, axes = np.linalg.eigh(core.T @ core)
    rotation = axes[:, ::-1]
    along = core @ rotation
    moment = (along**3).sum(axis=0)
    farthest = along[np.abs(along).argmax(axis=0), np.arange(3)]
    clear = np.abs(moment) > 1e-6 * (np.abs(along) ** 3).sum(axis=0)
    rotation = rotation * np.where(np.where(clear, moment, farthest) < 0, -1.0, 1.0)
    return _frame(rotation, MAP_RADIUS / radius if radius > 0 else 1.0, centre, np.zeros(3))


def aligning_frame(coords: np.ndarray, onto: np.ndarray, groups: np.ndarray | None = None) -> Frame:
    """The frame that brings `coords` float [n, 3] closest to `onto` float [n, 3], the places of the same rows.

    Least squares (Umeyama, 1991) over the three quarters of the rows that fit best, found by repetition: rows that
    moved far do not turn the map. groups: int64 [n], 0 is the largest. Only how rows lie in their own group turns and
    scales then, and group 0 alone moves: where a group lies as a whole may be chance (`islands`). Raises ValueError for
    fewer than three rows.
    """
    if len(coords) < 3:
        raise ValueError(f"{len(coords)} shared rows: a map is aligned by three at least")
    source, target = np.asarray(coords, np.float64), np.asarray(onto, np.float64)
    of = np.zeros(len(source), np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    used = np.ones(len(source), dtype=bool)
    for _ in range(_ROUNDS):
        from_centres, to_centres = _centres(source, of, used), _centres(target, of, used)
        turn, scale = _least_squares((source - from_centres[of])[used], (target - to_centres[of])[used])
        rest = np.linalg.norm(scale * (source - from_centres[of]) @ turn - (target - to_centres[of]), axis=1)
        kept = rest <= np.quantile(rest, 1.0 - _TRIMMED)
        if kept.sum() < 3:
            break
        used = kept
    return _frame(turn, scale, from_centres[0], to_centres[0])


def _centres(coords: np.ndarray, of: np.ndarray, used: np.ndarray) -> np.ndarray:
    """The mean of the `used` rows of each group, float64 [g, 3]; of a group without any, of all its rows."""
    count = int(of.max()) + 1
    some = np.bincount(of[used], minlength=count) > 0
    weights = np.where(some[of], used, True).astype(np.float64)
    total = np.bincount(of, weights, minlength=count)
    return np.stack([np.bincount(of, weights * axis, minlength=count) / total for axis in coords.T], axis=1)


def _least_squares(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation, mirrored if that is nearer, and the scale that bring `source` onto `target`, both centred."""
    u, spectrum, vt = np.linalg.svd(source.T @ target)
    extent = float((source**2).sum())
    return u @ vt, float(spectrum.sum()) / extent if extent > 0 and spectrum.sum() > 0 else 1.0


def _middle(wide: np.ndarray) -> np.ndarray:
    """The mean of the 95 % that lie nearest to it, found by repetition; it turns as `wide` [n, 3] turns."""
    centre = wide.mean(axis=0)
    for _ in range(_ROUNDS):
        distance = np.linalg.norm(wide - centre, axis=1)
        centre = wide[distance <= np.quantile(distance, RADIUS_SHARE)].mean(axis=0)
    return np.asarray(centre)


def _frame(rotation: np.ndarray, scale: float, centre: np.ndarray, offset: np.ndarray) -> Frame:
    rows = tuple(tuple(float(value) for value in row) for row in rotation)
    return Frame(rows, float(scale), tuple(map(float, centre)), tuple(map(float, offset)))
