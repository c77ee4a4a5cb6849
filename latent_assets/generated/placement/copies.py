"""Whether a picture shows another one: their best correlation over mirroring, cut-outs, borders and small turns.

Vectors propose candidates, pixels decide. Works on small pictures, so that thumbnails are enough; needs no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

_COARSE, _FINE, _BASE = 32, 64, 128  # pixels
_SCALES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)
_TURNED_SCALES = (0.85, 0.7)  # a turned picture lost its corners: it is a part of the original
_TURNS = (-8.0, -4.0, 4.0, 8.0)  # degrees
_KEPT = 3  # alterations of which the fine correlation is taken


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
    """A picture that is compared with others; what a comparison needs of it is made once."""

    def __init__(self, image: Image.Image) -> None:
        """`image`: RGB, of any size and shape; it is compared as a square."""
        self._base = _shrunk(np.asarray(image), _BASE)
        self._made: dict[tuple[int, float, bool], tuple[np.ndarray, float]] = {}

    def pixels(self, size: int, turn: float = 0.0, mirrored: bool = False) -> np.ndarray:
        """float32 [size, size, 3]; of a turned picture the middle 85 %, which has no empty corners."""
        return self._version(size, turn, mirrored)[0]

    def _version(self, size: int, turn: float = 0.0, mirrored: bool = False) -> tuple[np.ndarray, float]:
        """The pixels, and their contrast."""
        key = (size, turn, mirrored)
        if key not in self._made:
            found = _shrunk(_turned(self._base, turn) if turn else self._base, size)
            pixels = np.ascontiguousarray(found[:, ::-1] if mirrored else found, np.float32)
            self._made[key] = pixels, _contrast(pixels)
        return self._made[key]

    @property
    def detail(self) -> float:
        """Mean difference of neighbouring pixels at 64 px, 0 to 255: next to nothing in a gradient, much in noise."""
        pixels = self.pixels(_FINE)
        return float((np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()) / 2)

    def best_match(self, other: Picture) -> Match:
        """Correlate under every alteration, coarsely, and under the best few of them finely.

        Colour counts: the three channels are one signal. Pictures without any contrast correlate with nothing.
        """
        coarse = [(self._correlation(other, tried, _COARSE), tried) for tried in _alterations()]
        best = sorted(coarse, key=lambda found: -found[0])[:_KEPT]
        fine = [Match(self._correlation(other, tried, _FINE), tried) for _, tried in best]
        return max(fine, key=lambda match: match.correlation)

    def _correlation(self, other: Picture, tried: Alteration, size: int) -> float:
        whole, part = (other, self) if tried.scale > 0 else (self, other)
        large, contrast = whole._version(size)
        small, its_contrast = part._version(max(4, round(size * abs(tried.scale))), tried.turn, tried.mirrored)
        if min(contrast, its_contrast) < 1.0:
            return 0.0
        found = float(cv2.matchTemplate(large, small, cv2.TM_CCOEFF_NORMED).max())
        return found if np.isfinite(found) else 0.0


def best_copy(picture: Picture, candidates: Mapping[str, Picture]) -> tuple[str, Match] | None:
    """The candidate (by id) whose pixels correlate best with a picture's; the first by id of equals, None without."""
    found = [(row_id, picture.best_match(other)) for row_id, other in sorted(candidates.items())]
    return max(found, key=lambda item: item[1].correlation, default=None)


def _contrast(pixels: np.ndarray) -> float:
    """Of the channel that varies most: two plain areas of one colour have nothing in common but that."""
    return float(pixels.std(axis=(0, 1)).max())


@lru_cache(maxsize=1)
def _alterations() -> tuple[Alteration, ...]:
    return tuple(_every())


def _every() -> Iterator[Alteration]:
    for mirrored in (False, True):
        for scale in (*_SCALES, *(-scale for scale in _SCALES[1:])):
            yield Alteration(mirrored, 0.0, scale)
        for turn in _TURNS:
            for scale in _TURNED_SCALES:
                yield Alteration(mirrored, turn, scale)


def _turned(pixels: np.ndarray, turn: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
    whole = cv2.warpAffine(pixels, rotation, (width, height), flags=cv2.INTER_LINEAR)
    top, left = round(height * 0.075), round(width * 0.075)
    return np.ascontiguousarray(whole[top : height - top, left : width - left])


def _shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA))
