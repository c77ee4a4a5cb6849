"""Which of a release's pictures an image may be a copy of, and which pictures are no more different than copies are.

Vectors propose candidates, pixels decide (`correlation`). A border is taken off first: it hides what is in it from the
vectors. Copies as they are met, made here to measure how well they are found, are in `alterations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from latent_assets.generated.placement.correlation import Match, Picture

_COMPARED = 8  # candidates that are compared finely
_WHOLE = 0.95  # a part larger than this is the picture
# a border: of one colour to that many grey levels, but for this share of it; what is inside begins with a line of which
# at least this share is of another colour; and it is at least so much of the side
_LEVELS, _SPECKS, _LINE, _INSIDE = 12, 0.002, 0.5, 0.4


@dataclass(frozen=True)
class View:
    """An image, or what is left of it when a border was taken off: the part `inside` of its side."""

    image: Image.Image
    inside: float = 1.0


def views(image: Image.Image) -> Iterator[View]:
    """An RGB image as it is, and without its border when it has one."""
    yield View(image)
    if (box := _inside_of_border(np.asarray(image))) is not None:
        left, top, right, bottom = box
        yield View(image.crop(box), max((right - left) / image.width, (bottom - top) / image.height))


def best_copies(pictures: Mapping[float, Picture], candidates: Mapping[str, Picture]) -> list[tuple[str, Match]]:
    """The candidates (by id) whose pixels correlate best with a picture's, best first.

    pictures: the picture by the part of its side that is inside a border (`View.inside`).
    """
    ids = sorted(candidates)
    best: dict[str, Match] = {}
    for inside, picture in pictures.items():
        for at, match in picture.best_matches([candidates[row_id] for row_id in ids], _COMPARED):
            known = best.get(ids[at])
            if known is None or match.correlation > known.correlation:
                best[ids[at]] = _as_bordered(match, inside)
    return sorted(best.items(), key=lambda item: (-item[1].correlation, item[0]))


def _as_bordered(match: Match, inside: float) -> Match:
    """A match of what is in a border as one of the whole: the other picture is the part `inside` of it."""
    if inside == 1.0 or abs(match.alteration.scale) < _WHOLE:
        return match
    return replace(match, alteration=replace(match.alteration, scale=-inside))


def _inside_of_border(pixels: np.ndarray) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) in a border of one colour; None without one.

    A motif on a plain ground is not in a border: the box around it touches the ground nearly everywhere.
    """
    height, width = pixels.shape[:2]
    other = np.abs(pixels.astype(np.int16) - pixels[0, 0].astype(np.int16)).max(axis=2) > _LEVELS
    rows, columns = (np.flatnonzero(other.mean(axis=axis) > _LINE * _INSIDE) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    top, bottom, left, right = (int(edge) for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    if (top, left, bottom, right) == (0, 0, height, width):
        return None
    inside = other[top:bottom, left:right]
    lines = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    if min(inside.shape[0] / height, inside.shape[1] / width) < _INSIDE or min(x.mean() for x in lines) < _LINE:
        return None
    specks = int(other.sum()) - int(inside.sum())
    return None if specks > _SPECKS * height * width else (left, top, right, bottom)
