"""Whether a picture shows another one: their best correlation over mirroring, cut-outs, borders and small turns.

Vectors propose candidates, pixels decide. Works on small pictures, so that thumbnails are enough; needs no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

_COARSE, _FINE = 32, 64  # pixels
_SCALES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)
_TURNS = (0.0, -4.0, 4.0, -8.0, 8.0)  # degrees
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


def best_match(picture: Image.Image, other: Image.Image) -> Match:
    """Correlate two RGB pictures of any size under every alteration, coarsely, and the best few of them finely.

    Colour counts: the three channels are one signal. Pictures without any contrast correlate with nothing.
    """
    coarse = [(_correlation(picture, other, tried, _COARSE), tried) for tried in _alterations()]
    best = sorted(coarse, key=lambda found: -found[0])[:_KEPT]
    fine = [Match(_correlation(picture, other, tried, _FINE), tried) for _, tried in best]
    return max(fine, key=lambda match: match.correlation)


def _alterations() -> Iterator[Alteration]:
    for mirrored in (False, True):
        for turn in _TURNS:
            # a turned picture lost its corners: it is a part of the original
            scales: Sequence[float] = (*_SCALES, *(-scale for scale in _SCALES[1:])) if not turn else (0.85, 0.7)
            for scale in scales:
                yield Alteration(mirrored, turn, scale)


def _correlation(picture: Image.Image, other: Image.Image, tried: Alteration, size: int) -> float:
    whole, part = (_pixels(other, size), picture) if tried.scale > 0 else (_pixels(picture, size), other)
    small = _pixels(part, max(4, round(size * abs(tried.scale))), tried.turn)
    if tried.mirrored:
        small = np.ascontiguousarray(small[:, ::-1])
    if min(float(whole.std()), float(small.std())) < 1.0:
        return 0.0
    found = float(cv2.matchTemplate(whole, small, cv2.TM_CCOEFF_NORMED).max())
    return found if np.isfinite(found) else 0.0


def _pixels(picture: Image.Image, size: int, turn: float = 0.0) -> np.ndarray:
    """float32 [size, size, 3]; of a turned picture the middle 85 %, which has no empty corners."""
    pixels = np.asarray(picture, np.float32)
    if turn:
        height, width = pixels.shape[:2]
        rotation = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1.0)
        pixels = cv2.warpAffine(pixels, rotation, (width, height), flags=cv2.INTER_LINEAR)
        top, left = round(height * 0.075), round(width * 0.075)
        pixels = pixels[top : height - top, left : width - left]
    shrunk = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shrunk)
