"""Compiled search of an inverted file's codes: which points may be near a query. Distances are `distances`' business.

Every query is worked on alone, in one thread, with additions in one order (and codes compared in integers), so that
its candidates depend on nothing but the index and itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latent_assets.projection.distances import compiled

QUERY_LEVELS = 4095  # of a query's code: 13 bits times 8 bits times 1,024 dimensions fit into 31


@compiled
def _rotate(query: Any, mean: Any, rotation: Any, out: Any) -> None:
    """`out` float32 [p] = (`query` - `mean`) @ `rotation` [d, p]."""
    out[:] = np.float32(0.0)
    for i in range(query.shape[0]):
        value = query[i] - mean[i]
        for j in range(out.shape[0]):
            out[j] += value * rotation[i, j]


@compiled
def _rank_lists(rotated: Any, centroids: Any, squares: Any, out: Any) -> None:
    """`out` float32 [c]: squared distance to each centroid (`centroids` is [q, c]), less the query's own square."""
    for c in range(out.shape[0]):
        out[c] = squares[c]
    for i in range(centroids.shape[0]):
        value = np.float32(-2.0) * rotated[i]
        for c in range(out.shape[0]):
            out[c] += value * centroids[i, c]


@compiled
def _sift_down(keys: Any, values: Any, at: int, count: int) -> None:
    """Restore the order of a heap with the largest key on top, from `at` downwards; equal keys go by value."""
    key, value = keys[at], values[at]
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        right = child + 1
        if right < count and (
            keys[right] > keys[child] or (keys[right] == keys[child] and values[right] > values[child])
        ):
            child = right
        if keys[child] < key or (keys[child] == key and values[child] < value):
            break
        keys[at], values[at] = keys[child], values[child]
        at = child
    keys[at], values[at] = key, value


@compiled
def _keep_smallest(keys: Any, values: Any, count: int, key: Any, value: Any) -> int:
    """Offer a pair to a heap of the smallest pairs; `count` are in it. Returns how many are in it now."""
    if count < keys.shape[0]:
        at = count
        while at > 0:
            parent = (at - 1) // 2
            if keys[parent] > key or (keys[parent] == key and values[parent] > value):
                break
            keys[at], values[at] = keys[parent], values[parent]
            at = parent
        keys[at], values[at] = key, value
        return count + 1
    if key < keys[0] or (key == keys[0] and value < values[0]):
        keys[0], values[0] = key, value
        _sift_down(keys, values, 0, count)
    return count


@compiled
def _dot(code: Any, query: Any) -> Any:
    """Integer product of codes int8 [p] and int16 [p]; the same in any order of additions."""
    total = np.int32(0)
    for j in range(query.shape[0]):
        total = np.int32(total + np.int32(np.int32(code[j]) * np.int32(query[j])))
    return total


@compiled
def find_candidates(
    queries: Any,
    exclude: Any,
    mean: Any,
    rotation: Any,
    steps: Any,
    centroids: Any,
    squares: Any,
    starts: Any,
    order: Any,
    codes: Any,
    bias: Any,
    probes: int,
    out: Any,
) -> None:
    """The points that are nearest by their codes: `out` int64 [m, r], ascending, for `queries` float32 [m, d].

    `exclude` int64 [m] is a point to leave out, or -1. `probes` lists are searched, more where they hold less than r
    points. The other arrays are those of `inverted.InvertedIndex`. There must be r points to be found.
    """
    lists, dims, wanted = squares.shape[0], codes.shape[1], out.shape[1]
    rotated, coded = np.empty(dims, np.float32), np.empty(dims, np.int16)
    far = np.empty(lists, np.float32)
    nearest, nearest_at = np.empty(min(probes, lists), np.float32), np.empty(min(probes, lists), np.int64)
    estimate, found = np.empty(wanted, np.float32), np.empty(wanted, np.int64)
    for row in range(queries.shape[0]):
        _rotate(queries[row], mean, rotation, rotated)
        _rank_lists(rotated, centroids, squares, far)
        largest = np.float32(0.0)
        for j in range(dims):
            rotated[j] = rotated[j] * steps[j]
            largest = max(largest, abs(rotated[j]))
        step = largest / np.float32(QUERY_LEVELS) if largest > 0 else np.float32(1.0)
        for j in range(dims):
            coded[j] = np.int16(np.rint(rotated[j] / step))
        count = 0
        for c in range(lists):
            count = _keep_smallest(nearest, nearest_at, count, far[c], c)
        held = 0
        for i in range(count):
            held += starts[nearest_at[i] + 1] - starts[nearest_at[i]]
        chosen = np.sort(nearest_at[:count])
        if held < wanted + 1:  # one may be left out
            ranked, held, count = np.argsort(far, kind="mergesort"), 0, 0
            while count < lists and (count < probes or held < wanted + 1):
                held += starts[ranked[count] + 1] - starts[ranked[count]]
                count += 1
            chosen = np.sort(ranked[:count])
        factor, kept = np.float32(-2.0) * step, 0
        for i in range(chosen.shape[0]):
            for at in range(starts[chosen[i]], starts[chosen[i] + 1]):
                point = np.int64(order[at])
                near = bias[at] + factor * np.float32(_dot(codes[at], coded))
                if point != exclude[row] and (kept < wanted or near <= estimate[0]):
                    kept = _keep_smallest(estimate, found, kept, near, point)
        out[row] = np.sort(found)
