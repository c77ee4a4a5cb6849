"""Registered correlation of pictures: how well one fits into another, mirrored, turned, cut out or with a border.

Works on small pictures, so that thumbnails are enough; needs no weights. Many are compared coarsely at once, the few
that fit best finely. What a correlation means is said in `copies`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

_COARSE, FINE, _BASE = 16, 64, 128  # pixels
_SCALES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)
_TURNED_SCALES = (0.85, 0.7)  # a turned picture lost its corners: it is a part of the original
_TURNS = (-8.0, -4.0, 4.0, 8.0)  # degrees
_OF_ONE = 2  # alterations of one picture that are looked at finely
_REGISTERED = 3  # best ones that are registered to a fraction of a pixel
_BLUR = 1.0  # pixels, standard deviation: what one resampling keeps of edges and another does not is not compared
_ROUNDS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)
_STRETCH = (0.75, 1.3)  # a registration that stretches a picture further has lost its way


@dataclass(frozen=True)
class Alteration:
    """How a picture could have been made from another: mirrored, turned by `turn` degrees, then the part `scale` of it.

    `scale` below 0: the other way round, the other picture is the part -scale of this one (a border was added).
    """

    mirrored: bool
    turn: float
    scale: float


@dataclass(frozen=True)
class Match:
    """The best correlation of two pictures, -1 to 1, and the alteration under which it is found."""

    correlation: float
    alteration: Alteration


class Picture:
    """A picture that is compared with others, as a square."""

    def __init__(self, image: Image.Image, side: int = _BASE) -> None:
        """`image`: RGB, of any size and shape. side: pixels that are kept; `FINE` is enough of what others are compared
        with."""
        self._base = _shrunk(np.asarray(image), side)
        self._turned: dict[float, np.ndarray] = {0.0: self._base}

    @cached_property
    def coarse(self) -> np.ndarray:
        """float32 [16, 16, 3]."""
        return _shrunk(self._base, _COARSE).astype(np.float32)

    @property
    def detail(self) -> float:
        """Mean difference of neighbouring pixels at 64 px, 0 to 255: next to nothing in a gradient, much in noise."""
        pixels = _shrunk(self._base, FINE).astype(np.float32)
        return float((np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()) / 2)

    def pixels(self, size: int, turn: float = 0.0, mirrored: bool = False) -> np.ndarray:
        """float32 [size, size, 3]; of a turned picture the middle 85 %, which has no empty corners."""
        if turn not in self._turned:
            self._turned[turn] = _turned(self._base, turn)
        found = _shrunk(self._turned[turn], size)
        return np.ascontiguousarray(found[:, ::-1] if mirrored else found, np.float32)

    def best_matches(self, others: Sequence[Picture], count: int) -> list[tuple[int, Match]]:
        """The `count` of `others` (by position) that fit best, best first, and how well.

        Colour counts: the three channels are one signal. Pictures without any contrast correlate with nothing.
        """
        if not others:
            return []
        found: dict[int, Match] = {}
        for at, tried in self._shortlist(others, count):
            match = Match(_placed(self, others[at], tried)[0], tried)
            if at not in found or match.correlation > found[at].correlation:
                found[at] = match
        best = sorted(found.items(), key=lambda item: -item[1].correlation)
        for place, (at, match) in enumerate(best[:_REGISTERED]):
            best[place] = at, _registered(self, others[at], match)
        return sorted(best, key=lambda item: -item[1].correlation)

    def best_match(self, other: Picture) -> Match:
        """How well one other picture fits."""
        return self.best_matches([other], 1)[0][1]

    def _shortlist(self, others: Sequence[Picture], count: int) -> list[tuple[int, Alteration]]:
        """The alterations of the `count` pictures that fit best coarsely."""
        alterations, correlations = _coarse_correlations(self, np.stack([other.coarse for other in others]))
        best = np.argsort(-correlations.max(axis=1), kind="stable")[:count]
        return [
            (int(at), alterations[number])
            for at in best
            for number in np.argsort(-correlations[at], kind="stable")[:_OF_ONE]
        ]


# -- coarsely, many at once --------------------------------------------------------------------------------


def _coarse_correlations(picture: Picture, others: np.ndarray) -> tuple[list[Alteration], np.ndarray]:
    """Normalised correlations [n, alterations], the best over all shifts, with pictures float32 [n, 16, 16, 3]."""
    alterations: list[Alteration] = []
    columns: list[np.ndarray] = []
    for size, tried in _parts().items():
        parts = np.stack([picture.pixels(size, one.turn, one.mirrored) for one in tried])
        columns.append(_best_over_shifts(others, parts))
        alterations += tried
    both = np.stack([picture.pixels(_COARSE, 0.0, mirrored) for mirrored in (False, True)])
    for scale in _SCALES[1:]:
        shrink = _area_weights(max(4, round(_COARSE * scale)))
        smaller = np.einsum("ai,nijc,bj->nabc", shrink, others, shrink, optimize=True)
        columns.append(_best_over_shifts(both, smaller).T)
        # what is mirrored here is the whole, which comes to the same
        alterations += [Alteration(mirrored, 0.0, -scale) for mirrored in (False, True)]
    return alterations, np.concatenate(columns, axis=1)


def _best_over_shifts(wholes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The best normalised correlation [n, k] of parts float32 [k, t, t, 3] anywhere in wholes float32 [n, s, s, 3]."""
    count, size = len(wholes), parts.shape[1]
    windows = sliding_window_view(wholes, (size, size), axis=(1, 2))  # [n, p, p, 3, t, t]
    flat = np.ascontiguousarray(windows).reshape(-1, 3, size * size)
    centred = flat - flat.mean(axis=2, keepdims=True)
    centred = centred.reshape(len(flat), -1)
    templates = parts.transpose(0, 3, 1, 2).reshape(len(parts), 3, -1)
    templates = (templates - templates.mean(axis=2, keepdims=True)).reshape(len(parts), -1)
    norms, lengths = (np.sqrt(np.einsum("ij,ij->i", rows, rows)) for rows in (centred, templates))
    least = float(size)  # a contrast of about one grey level
    products = centred @ templates.T / (np.maximum(norms, least)[:, None] * np.maximum(lengths, least))
    found: np.ndarray = products.reshape(count, -1, len(parts)).max(axis=1)
    return found


@lru_cache(maxsize=1)
def _parts() -> dict[int, list[Alteration]]:
    """Alterations that make a picture a part of another, by the side of the part in coarse pixels."""
    found: dict[int, list[Alteration]] = {}
    for one in _every_part():
        found.setdefault(max(4, round(_COARSE * one.scale)), []).append(one)
    return found


def _every_part() -> Iterator[Alteration]:
    for mirrored in (False, True):
        for scale in _SCALES:
            yield Alteration(mirrored, 0.0, scale)
        for turn in _TURNS:
            for scale in _TURNED_SCALES:
                yield Alteration(mirrored, turn, scale)


@lru_cache(maxsize=16)
def _area_weights(size: int) -> np.ndarray:
    """float32 [size, 16]: what each coarse pixel gives to each of fewer pixels."""
    edges = np.linspace(0, _COARSE, size + 1)
    pixels = np.arange(_COARSE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    found: np.ndarray = (np.maximum(overlap, 0.0) * size / _COARSE).astype(np.float32)
    return found


# -- finely ------------------------------------------------------------------------------------------------


def _whole_and_part(picture: Picture, other: Picture, tried: Alteration) -> tuple[np.ndarray, np.ndarray] | None:
    """Both at the scale of an alteration, float32; None where one has no contrast."""
    size = max(8, round(FINE * abs(tried.scale)))
    if tried.scale > 0:
        whole, part = other.pixels(FINE), picture.pixels(size, tried.turn, tried.mirrored)
    else:
        whole, part = picture.pixels(FINE, 0.0, tried.mirrored), other.pixels(size)
    if min(_contrast(whole), _contrast(part)) < 1.0:
        return None
    return cv2.GaussianBlur(whole, (0, 0), _BLUR), cv2.GaussianBlur(part, (0, 0), _BLUR)


def _placed(picture: Picture, other: Picture, tried: Alteration) -> tuple[float, tuple[int, int]]:
    """The best correlation over shifts by whole pixels, and the shift."""
    both = _whole_and_part(picture, other, tried)
    if both is None:
        return 0.0, (0, 0)
    _, found, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(*both, cv2.TM_CCOEFF_NORMED))
    return (float(found) if np.isfinite(found) else 0.0), (int(x), int(y))


def _registered(picture: Picture, other: Picture, match: Match) -> Match:
    """The match after an affine registration that begins at the best shift (ECC: Evangelidis and Psarakis, PAMI 2008):
    what was cut or turned by anything between the scales and turns that are tried fits as well."""
    tried = match.alteration
    both = _whole_and_part(picture, other, tried)
    if both is None:
        return match
    whole, part = both
    _, (x, y) = _placed(picture, other, tried)
    shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
    template, picked = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (part, whole))
    mask = np.full(picked.shape, 255, np.uint8)
    try:
        _, shift = cv2.findTransformECC(template, picked, shift, cv2.MOTION_AFFINE, _ROUNDS, mask, 3)
    except cv2.error:  # it did not converge
        return match
    stretch = np.linalg.svd(shift[:, :2], compute_uv=False)
    if not _STRETCH[0] <= stretch.min() <= stretch.max() <= _STRETCH[1]:
        return match
    size = (part.shape[1], part.shape[0])
    fitted = cv2.warpAffine(
        whole, shift, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    left, right = (pixels - pixels.mean(axis=(0, 1)) for pixels in (fitted, part))
    length = float(np.sqrt((left * left).sum() * (right * right).sum()))
    correlation = float((left * right).sum()) / length if length else 0.0
    if correlation <= match.correlation:
        return match
    side = min(1.0, size[0] * float(np.sqrt(stretch.prod())) / FINE)
    angle = np.degrees(np.arctan2(shift[1, 0] - shift[0, 1], shift[0, 0] + shift[1, 1]))  # clockwise
    backwards = tried.mirrored == (tried.scale > 0)
    turn = round(tried.turn + (float(angle) if backwards else -float(angle)), 1) + 0.0
    return Match(correlation, Alteration(tried.mirrored, turn, side if tried.scale > 0 else -side))


def _contrast(pixels: np.ndarray) -> float:
    """Of the channel that varies most: two plain areas of one colour have nothing in common but that."""
    return float(cv2.meanStdDev(pixels)[1].max())


def _turned(pixels: np.ndarray, turn: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
    whole = cv2.warpAffine(pixels, rotation, (width, height), flags=cv2.INTER_LINEAR)
    top, left = round(height * 0.075), round(width * 0.075)
    return np.ascontiguousarray(whole[top : height - top, left : width - left])


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    if pixels.shape[:2] == (size, size):
        return pixels
    enlarged = max(pixels.shape[:2]) < size
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA))
