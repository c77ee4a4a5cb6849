"""Checks of an embedding file: the values that must hold before anything is made from it."""

from __future__ import annotations

import numpy as np

from latent_assets.embeddings.store import column_batches, read_ids
from latent_assets.storage import Storage

_UNIT = 2e-3  # float16 rounding of a unit vector's length


def embedding_problems(storage: Storage, name: str, stage: str, rows: int) -> tuple[dict[str, str], dict[str, float]]:
    """What is wrong with an embedding file (`rows`, `values`: what was found; {} when all is well), and statistics.

    Expects `rows` distinct ids, finite values, and unit length (CLIP) or latents that are not all zero (VAE).
    """
    ids = read_ids(storage, name)
    problems: dict[str, str] = {}
    if len(ids) != rows or len(set(ids)) != len(ids):
        problems["rows"] = f"{name} has {len(ids)} rows, {len(set(ids))} of them distinct; expected {rows} rows"
    column = "vector" if stage == "clip_embeddings" else "latent"
    norms, infinite = np.zeros(0, np.float32), []
    total, square, count = 0.0, 0.0, 0
    smallest, largest = np.inf, -np.inf
    for batch in column_batches(storage, name, column):
        values = batch.astype(np.float32)
        finite = np.isfinite(values).all(axis=1)
        infinite += [ids[len(norms) + int(row)] for row in np.flatnonzero(~finite)]
        norms = np.append(norms, np.linalg.norm(values, axis=1))
        good = values[finite]
        total, square, count = total + float(good.sum()), square + float((good**2).sum()), count + good.size
        smallest, largest = min(smallest, good.min(initial=np.inf)), max(largest, good.max(initial=-np.inf))
    if infinite:
        problems["values"] = (
            f"{name} has values that are not finite in {len(infinite)} rows, the first is {infinite[0]}"
        )
    if not count:
        return problems, {}
    if stage == "clip_embeddings":
        wrong = int((~(np.abs(norms - 1) <= _UNIT)).sum())
        if wrong:
            problems.setdefault("values", f"{name} has values off the unit sphere in {wrong} rows")
    elif not norms.all():
        problems.setdefault("values", f"{name} has values that are all zero in {int((norms == 0).sum())} rows")
    mean = total / count
    statistics = {
        "mean norm": float(norms.mean()),
        "mean": mean,
        "standard deviation": max(0.0, square / count - mean * mean) ** 0.5,
        "smallest": float(smallest),
        "largest": float(largest),
    }
    return problems, {key: round(value, 5) for key, value in statistics.items() if np.isfinite(value)}
