"""The one kernel that final distances come from: compiled, in float64, always in the same order of additions.

Whatever proposes candidates (a matrix product, an inverted file), a pair of vectors has the same distance alone, in a
batch, on any number of threads and in any process. Nothing is searched here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from latent_assets.processes import usable_cores

F = TypeVar("F", bound=Callable[..., Any])

_HALF_TO_SINGLE = np.float32(2.0**112)  # difference of the exponents' biases of float16 and float32
_CHUNK_VALUES = 4 * 1024 * 1024  # float32 values worked on at once: 16 MiB
_LEAST_ROWS_OF_A_THREAD = 16


def compiled(function: F) -> F:
    """Compile a function for its arguments' types at the first call, kept on disk; it runs beside other threads."""
    return cast("F", njit(cache=True, nogil=True)(function))


@compiled
def _squared_length(x: Any) -> float:
    """Sum of squares of `x` float32 [d] in float64: eight interleaved sums, joined in pairs."""
    d = x.shape[0]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = d - d % 8
    for j in range(0, whole, 8):
        e0, e1, e2, e3 = np.float64(x[j]), np.float64(x[j + 1]), np.float64(x[j + 2]), np.float64(x[j + 3])
        e4, e5, e6, e7 = np.float64(x[j + 4]), np.float64(x[j + 5]), np.float64(x[j + 6]), np.float64(x[j + 7])
        s0 += e0 * e0
        s1 += e1 * e1
        s2 += e2 * e2
        s3 += e3 * e3
        s4 += e4 * e4
        s5 += e5 * e5
        s6 += e6 * e6
        s7 += e7 * e7
    for j in range(whole, d):
        s0 += np.float64(x[j]) * np.float64(x[j])
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@compiled
def _squared_distance(x: Any, y: Any) -> float:
    """Sum of squares of `x` - `y`, both float32 [d], in float64 and in the order of `_squared_length`."""
    d = x.shape[0]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = d - d % 8
    for j in range(0, whole, 8):
        e0, e1 = np.float64(x[j]) - np.float64(y[j]), np.float64(x[j + 1]) - np.float64(y[j + 1])
        e2, e3 = np.float64(x[j + 2]) - np.float64(y[j + 2]), np.float64(x[j + 3]) - np.float64(y[j + 3])
        e4, e5 = np.float64(x[j + 4]) - np.float64(y[j + 4]), np.float64(x[j + 5]) - np.float64(y[j + 5])
        e6, e7 = np.float64(x[j + 6]) - np.float64(y[j + 6]), np.float64(x[j + 7]) - np.float64(y[j + 7])
        s0 += e0 * e0
        s1 += e1 * e1
        s2 += e2 * e2
        s3 += e3 * e3
        s4 += e4 * e4
        s5 += e5 * e5
        s6 += e6 * e6
        s7 += e7 * e7
    for j in range(whole, d):
        e0 = np.float64(x[j]) - np.float64(y[j])
        s0 += e0 * e0
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@compiled
def _single(value: Any) -> Any:
    """A finite half-precision number, given by its bits uint16, as float32."""
    bits = np.uint32(value)
    magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32) * _HALF_TO_SINGLE
    return -magnitude if bits & np.uint32(0x8000) else magnitude


@compiled
def _to_unit(x: Any) -> None:
    """Bring `x` float32 [d] to length 1 in place; a zero vector stays zero."""
    length = np.sqrt(_squared_length(x))
    if length > 0:
        for j in range(x.shape[0]):
            x[j] = np.float32(np.float64(x[j]) / length)


@compiled
def _to_unit_rows(values: Any) -> None:
    for i in range(values.shape[0]):
        _to_unit(values[i])


@compiled
def _add_squares(values: Any, to_unit: bool, scale: Any, queries: Any, row: Any, column: Any, out: Any) -> None:
    """Add to `out` the squared distances of one part; `values` float32, or float16 by its bits uint16."""
    x = np.empty(values.shape[1], np.float32)
    half = values.itemsize == 2
    for i in range(row.shape[0]):
        source = values[column[i]]
        if half:
            for j in range(x.shape[0]):
                x[j] = _single(source[j])
        else:
            for j in range(x.shape[0]):
                x[j] = source[j]
        if to_unit:
            _to_unit(x)
        for j in range(x.shape[0]):
            x[j] = x[j] * scale
        out[i] += _squared_distance(queries[row[i]], x)


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` [n, d] scaled to length 1, float32; a zero vector stays zero. A row's bits are its own affair."""
    wide = np.array(vectors, dtype=np.float32, order="C")
    _to_unit_rows(wide)
    return wide


@dataclass(frozen=True)
class Part:
    """Columns of points: `values` float16 or float32 [n, d]; rows get length 1 when `unit`, then times `scale`."""

    values: np.ndarray
    unit: bool = False
    scale: float = 1.0

    def rows(self, at: np.ndarray | slice) -> np.ndarray:
        """Features float32 [m, d] of the rows `at`."""
        values = self.values[at]
        return (unit(values) if self.unit else np.asarray(values, np.float32)) * np.float32(self.scale)


class Points:
    """Vectors to be searched, as one or several parts side by side; they may lie in a file that is mapped into memory.

    What is read of them is what is asked for: no float32 copy of all rows is made.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self.shape = (len(self._parts[0].values), sum(part.values.shape[1] for part in self._parts))

    @classmethod
    def of(cls, points: np.ndarray | Points) -> Points:
        """An array [n, d] as points; float16 and float32 are taken as they are."""
        if isinstance(points, Points):
            return points
        kept = points.dtype in (np.float16, np.float32) and points.flags.c_contiguous
        return cls([Part(points if kept else np.ascontiguousarray(points, np.float32))])

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, at: np.ndarray | slice) -> np.ndarray:
        """Features float32 [m, d] of the rows `at`."""
        parts = [part.rows(at) for part in self._parts]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def typical_square(self) -> float:
        """Mean squared distance (L2) of two points drawn at random: twice the total variance; 1 when all are equal."""
        count, width = self.shape
        step = max(1, _CHUNK_VALUES // max(1, width))
        chunks = [slice(start, start + step) for start in range(0, count, step)]
        if not chunks:
            return 1.0
        mean = np.sum([self.rows(chunk).sum(axis=0, dtype=np.float64) for chunk in chunks], axis=0) / count
        squares = (np.square(self.rows(chunk) - mean).sum(dtype=np.float64) for chunk in chunks)
        square = 2.0 * float(sum(squares)) / count
        return square if square > 1e-12 else 1.0

    def squared_distances(self, queries: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """float64 [p]: squared L2 distance between `queries` float32 [m, d] at `row` and points at `column`, int64 [p].

        The same pair gives the same bits, whatever else is asked.
        """
        out = np.zeros(len(row), np.float64)
        start = 0
        for part in self._parts:
            width = part.values.shape[1]
            asked = np.ascontiguousarray(queries[:, start : start + width])
            values = part.values.view(np.uint16) if part.values.dtype == np.float16 else part.values
            _add_squares(values, part.unit, np.float32(part.scale), asked, row, column, out)
            start += width
        return out


def in_threads(work: Callable[[slice], None], rows: int) -> None:
    """Call `work` on slices that cover `rows` rows, side by side on the usable cores; few rows stay in this thread."""
    parts = min(usable_cores(), rows // _LEAST_ROWS_OF_A_THREAD)
    if parts <= 1:
        work(slice(0, rows))
        return
    # several slices a thread: rows differ in cost
    cuts = np.linspace(0, rows, 4 * parts + 1).astype(int).tolist()
    with ThreadPoolExecutor(parts, thread_name_prefix="search") as threads:
        for done in [threads.submit(work, slice(a, b)) for a, b in pairwise(cuts)]:
            done.result()
