"""How many of the true nearest rows a search finds: measured on a version of the table, against exact search.

Half of the questions are rows, which are not counted among their own neighbours; half lie between two rows, as the
vector of a text lies between what it might mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from latent_assets.atlas.table import nearest

if TYPE_CHECKING:
    from lancedb.table import LanceTable

K = 10
QUESTIONS = 64
LEAST_RECALL = 0.95  # of a release that readers see
_BATCH_ROWS = 8_192
_SLACK = 1e-4  # of a distance: copies of a picture may answer for each other, and kernels round differently


@dataclass(frozen=True)
class Probe:
    """Questions of one embedding: vectors float32 [q, d]; own: int64 [q], how many answers are the question itself.

    farthest: float64 [q], the distance (as Lance gives it) of the last answer that counts, which is the K-th but `own`.
    """

    metric: str
    vectors: np.ndarray
    own: np.ndarray
    farthest: np.ndarray


def make_probes(table: LanceTable, metrics: Mapping[str, str], seed: int = 0) -> dict[str, Probe]:
    """Questions of every embedding with their true answers; vectors are read once, in batches.

    metrics: "cosine" or "euclidean" by the name of the embedding. {} for a table without rows.
    """
    rows = table.count_rows()
    if not rows or not metrics:
        return {}
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(QUESTIONS, rows), replace=False))
    taken = table.take_offsets(chosen.tolist()).select(list(metrics)).to_arrow()
    asked = {name: _between(_matrix(taken[name].combine_chunks()), rng) for name in metrics}
    own = np.zeros(len(chosen), np.int64)
    own[: len(chosen) - len(chosen) // 2] = 1
    best = {name: np.full((len(chosen), K + 1), np.inf) for name in metrics}
    for batch in table.search().select(list(metrics)).limit(None).to_batches(_BATCH_ROWS):
        for name, metric in metrics.items():
            found = distances(asked[name], _matrix(batch.column(name)), metric)
            best[name] = np.partition(np.concatenate([best[name], found], axis=1), K, axis=1)[:, : K + 1]
    probes = {}
    for name, metric in metrics.items():
        last = np.minimum(K - 1 + own, rows - 1)
        farthest = np.sort(best[name], axis=1)[np.arange(len(chosen)), last]
        probes[name] = Probe(metric, asked[name], own, farthest)
    return probes


def recall(table: LanceTable, embedding: str, probe: Probe, lists: int) -> float:
    """The share of the true K nearest that a search through `lists` lists finds: 0 to 1."""
    found = wanted = 0
    for vector, own, farthest in zip(probe.vectors, probe.own.tolist(), probe.farthest.tolist(), strict=True):
        search = nearest(table, embedding, probe.metric, vector, K + own, lists)
        answers = search.select(["_distance"]).to_arrow()["_distance"].to_numpy()
        found += int((answers <= farthest + _SLACK * max(1.0, abs(farthest))).sum()) - own
        wanted += min(K, table.count_rows() - own)
    return max(0.0, found / wanted) if wanted else 1.0


def distances(questions: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances as Lance gives them, float64 [q, n]: 1 - cosine, or the square of the L2 distance.

    questions: float32 [q, d]. rows: float32 [n, d].
    """
    products: np.ndarray = (questions @ rows.T).astype(np.float64)
    lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    of_questions = np.einsum("ij,ij->i", questions, questions, dtype=np.float64)
    if metric == "cosine":
        products /= np.maximum(np.sqrt(lengths)[None, :] * np.sqrt(of_questions)[:, None], 1e-30)
        return np.asarray(1.0 - products)
    return np.asarray(np.maximum(of_questions[:, None] + lengths[None, :] - 2.0 * products, 0.0))


def _between(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first half as it is, of the others the middle of each and another row."""
    half = len(rows) - len(rows) // 2
    middles = (rows[half:] + rows[rng.permutation(len(rows))[: len(rows) - half]]) / 2
    return np.ascontiguousarray(np.concatenate([rows[:half], middles]), np.float32)


def _matrix(column: pa.Array) -> np.ndarray:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    # what is not finite is for the checks to find
    rows = flat.reshape(-1, column.type.list_size).astype(np.float32, copy=False)
    return np.asarray(np.nan_to_num(rows, posinf=0.0, neginf=0.0))


def choose_lists(table: LanceTable, embedding: str, probe: Probe, candidates: Sequence[int]) -> tuple[int, float]:
    """The fewest lists whose recall is comfortably above LEAST_RECALL, else the best; and that recall."""
    best = (candidates[0], -1.0)
    for lists in candidates:
        found = recall(table, embedding, probe, lists)
        if found > best[1]:
            best = (lists, found)
        if found >= (1.0 + LEAST_RECALL) / 2:
            break
    return best
