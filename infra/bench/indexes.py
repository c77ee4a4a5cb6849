"""Which vector index answers soonest for what it costs to build: kinds, partitions, probes and refining compared.

    .venv/bin/python -m infra.bench.indexes [--rows N ...] [--dims N] [--kinds KIND:PARTITIONS ...] [--root FOLDER]

Vectors are those of `Clustered`: 500 groups of unequal size, each within 32 directions of its own, rounded to 16 bits
as the pipeline keeps them. Queries are rows that are moved a little. The exact search is measured first, which tells
from how many rows an index wins. CPU seconds are those of all threads of this process.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

BATCH = 8_192
QUERIES, K = 100, 10
KINDS: dict[str, dict[str, Any]] = {
    "flat": {"index_type": "IVF_FLAT"},
    "sq": {"index_type": "IVF_SQ"},
    "rq1": {"index_type": "IVF_RQ", "num_bits": 1},
    "rq2": {"index_type": "IVF_RQ", "num_bits": 2},
    "rq4": {"index_type": "IVF_RQ", "num_bits": 4},
    "pq": {"index_type": "IVF_PQ", "num_sub_vectors": 96},
    "hnsw_sq": {"index_type": "IVF_HNSW_SQ"},
}


class Clustered:
    """Unit vectors in 500 groups: float32 [n, dims] with values of 16 bits, the same for the same seed."""

    def __init__(self, dims: int, seed: int = 0, groups: int = 500, rank: int = 32) -> None:
        rng = np.random.default_rng(seed)
        common = rng.standard_normal(dims).astype(np.float32)  # what all have: the cone of CLIP's vectors
        self._centres = rng.standard_normal((groups, dims)).astype(np.float32) + common
        self._centres /= np.linalg.norm(self._centres, axis=1, keepdims=True)
        spread = (1.0 / np.sqrt(1.0 + np.arange(rank))).astype(np.float32)
        self._axes = rng.standard_normal((groups, rank, dims)).astype(np.float32) / np.sqrt(dims)
        self._axes *= 0.35 * spread[None, :, None]
        weights = 1.0 / (1.0 + np.arange(groups)) ** 0.5
        self._weights, self._dims = weights / weights.sum(), dims

    def rows(self, count: int, rng: np.random.Generator) -> np.ndarray:
        found = np.empty((count, self._dims), np.float32)
        group = rng.choice(len(self._weights), count, p=self._weights)
        order = np.argsort(group, kind="stable")
        for one in np.unique(group):
            at = order[np.searchsorted(group[order], one) : np.searchsorted(group[order], one, "right")]
            inside = rng.standard_normal((len(at), self._axes.shape[1]), np.float32)
            found[at] = self._centres[one] + inside @ self._axes[one]
        found += rng.standard_normal(found.shape, np.float32) * np.float32(0.15 / np.sqrt(self._dims))
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found.astype(np.float16).astype(np.float32)


def write(path: Path, rows: int, dims: int, fragments: int = 64) -> np.ndarray:
    """Write a table of `rows` vectors in 64 fragments; returns the queries [QUERIES, dims]."""
    source, rng = Clustered(dims), np.random.default_rng(1)
    queries = []
    for part, cut in enumerate(np.array_split(np.arange(rows), fragments)):
        vectors = source.rows(len(cut), rng)
        if part < QUERIES // 2:
            queries.append(vectors[:2])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dims)
        table = pa.table({"row": pa.array(cut), "vector": column})
        lance.write_dataset(table, str(path), mode="append" if part else "create")
    asked = np.concatenate(queries)[:QUERIES]
    asked = asked + rng.standard_normal(asked.shape).astype(np.float32) * np.float32(0.1 / np.sqrt(dims))
    return asked


def exact(path: Path, queries: np.ndarray) -> np.ndarray:
    """The true K nearest by cosine: int64 [queries, K]."""
    best, found = np.full((len(queries), K), -np.inf, np.float32), np.full((len(queries), K), -1, np.int64)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for batch in lance.dataset(str(path)).to_batches(columns=["row", "vector"], batch_size=BATCH):
        vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = np.concatenate([best, unit @ vectors.T], axis=1)
        ids = np.concatenate([found, np.tile(batch["row"].to_numpy(), (len(queries), 1))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        best, found = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return found


def ask(table: lance.LanceDataset, queries: np.ndarray, truth: np.ndarray, **how: Any) -> tuple[float, float, float]:
    """Milliseconds (median, 95th percentile) and recall of K."""
    taken, right = [], 0
    for turn in range(2):  # the first warms
        taken = []
        for query, wanted in zip(queries, truth, strict=True):
            started = time.perf_counter()
            nearest = {"column": "vector", "q": query, "k": K, "metric": "cosine", **how}
            rows = table.to_table(columns=["row", "_distance"], nearest=nearest)["row"].to_numpy()
            taken.append((time.perf_counter() - started) * 1e3)
            right += turn and len(np.intersect1d(rows, wanted))
    ordered = sorted(taken)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], right / truth.size


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "_indices").rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--kinds", nargs="*", default=["sq:0", "rq4:0", "rq1:0"], help="KIND:PARTITIONS, 0: Lance's")
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 5, 10])
    parser.add_argument("--root", type=Path, default=None, help="default: a temporary folder")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="latent-assets-bench-", dir=given.root))
    try:
        for rows in given.rows:
            measure(folder / f"{rows}.lance", rows, given)
    finally:
        shutil.rmtree(folder)


def measure(path: Path, rows: int, given: argparse.Namespace) -> None:
    queries = write(path, rows, given.dims)
    truth = exact(path, queries)
    median, p95, recall = ask(lance.dataset(str(path)), queries[:20], truth[:20])
    print(f"{rows:,} x {given.dims}, exact: median {median:.1f} ms, p95 {p95:.1f}, recall {recall:.3f}", flush=True)
    for kind in given.kinds:
        name, _, partitions = kind.partition(":")
        wall, cpu = time.perf_counter(), time.process_time()
        how = dict(KINDS[name]) | ({"num_partitions": int(partitions)} if int(partitions or 0) else {})
        table = lance.dataset(str(path)).create_index("vector", metric="cosine", replace=True, **how)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        table.cleanup_old_versions(older_than=0, delete_unverified=True)
        count = table.stats.index_stats("vector_idx")["indices"][0]["num_partitions"]
        print(f"{name}, {count} partitions: {cpu:.1f} CPU s, {wall:.1f} s, {size_of(path) / rows:,.0f} bytes a row")
        for refine in given.refine:
            for probes in given.probes:
                how = {"nprobes": probes}
                how |= {"refine_factor": refine} if refine else {}
                median, p95, recall = ask(table, queries, truth, **how)
                print(
                    f"    {probes:>3} probes, refine {refine:>2}: median {median:5.1f} ms, p95 {p95:5.1f}, "
                    f"recall {recall:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
