"""What a release costs to publish from nothing, and how soon it answers: vectors, words, filters, rows; and how well.

    .venv/bin/python -m infra.bench.queries [--rows N] [--dims N] [--shards N] [--thumbnail-bytes N] [--s3]

Synthetic shards, as the stages before leave them, are written first and not counted: vectors of `indexes.Clustered`
(`clip` of --dims values, `vae` of 256), captions of eight words of 5,000, thumbnails of random bytes. Every question is
another one. "cold" is the first answer of a client that was just opened. With --s3 everything lies on a real S3 server
on this machine; the questions are the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import lance  # noqa: F401  loading it is no part of publishing
import numpy as np

from infra.bench.atlas import VAE_DIMS, Shards, profile
from infra.bench.indexes import Clustered
from latent_assets.atlas.checks import check
from latent_assets.atlas.recall import make_probes, recall
from latent_assets.atlas.release import prune, publish, stage
from latent_assets.atlas.table import LIVE, open_table
from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets.storage import Storage

QUESTIONS = 200
INPUTS = "inputs.json"
FILTER = "aesthetic >= 7 AND contains(caption, 'word77')"


class ClusteredShards(Shards):
    """Shards whose vectors lie in groups, as those of pictures do."""

    def __init__(self, storage: Storage, rows: int, dims: int, shards: int, thumbnail_bytes: int) -> None:
        super().__init__(storage, rows, dims, shards, thumbnail_bytes)
        self._sources = {"clip": Clustered(dims), "vae": Clustered(VAE_DIMS, seed=1)}

    def _values(self, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: source.rows(rows, rng) for name, source in self._sources.items()}


def inputs(given: argparse.Namespace) -> dict[str, int]:
    """What decides the inputs."""
    return {name: getattr(given, name) for name in ("rows", "dims", "shards", "thumbnail_bytes")}


def memory() -> float:
    """Peak of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def timed(label: str, ask: Callable[[int], object], times: int = QUESTIONS) -> None:
    """Print how long `ask` takes, each time with another number."""
    taken = []
    for number in range(times + 10):
        started = time.perf_counter()
        ask(number)
        taken.append((time.perf_counter() - started) * 1e3)
    warm = sorted(taken[10:])
    print(
        f"{label:44}{taken[0]:>9.1f}{statistics.median(warm):>9.1f}{warm[int(len(warm) * 0.95)]:>9.1f}"
        f"{warm[int(len(warm) * 0.99)]:>9.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--thumbnail-bytes", type=int, default=3_000)
    parser.add_argument("--s3", action="store_true", help="on an S3 server (it takes about 1 GB)")
    parser.add_argument("--folder", type=Path, help="work here, and keep the inputs for the next time")
    parser.add_argument("--inputs", action="store_true", help="with --folder: make the inputs, and nothing else")
    parser.add_argument("--root", type=Path, default=None, help="default: a temporary folder")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(given.folder / "lance", ignore_errors=True)
        run(given, given.folder, Storage(str(given.folder.absolute())))
        return
    folder = Path(tempfile.mkdtemp(prefix="latent-assets-bench-", dir=given.root))
    try:
        with ExitStack() as stack:
            root = str(folder)
            if given.s3:
                from latent_assets_tests.s3_server import BUCKET, s3_server

                os.environ.update(stack.enter_context(s3_server(folder)))
                root = f"s3://{BUCKET}/bench"
            run(given, folder, Storage(root))
    finally:
        shutil.rmtree(folder)


def run(given: argparse.Namespace, folder: Path, storage: Storage) -> None:
    settings = profile(folder)
    shards = ClusteredShards(storage, given.rows, given.dims, given.shards, given.thumbnail_bytes)
    made_before = storage.exists(INPUTS) and storage.read_json(INPUTS) == inputs(given)
    for shard in shards.counts:
        for what in ("caption", "vectors", "places"):
            if made_before:
                shards.changes[shard, what] = 0
            else:
                shards.write(shard, what)
    storage.write_json(INPUTS, inputs(given))
    if given.inputs:
        return
    print(
        f"{given.rows:,} rows x {given.dims} and {VAE_DIMS} in {given.shards} shards, {memory():.1f} GB\n", flush=True
    )

    started, cpu = time.perf_counter(), time.process_time()
    made = stage(settings, storage, [shards.content(shard) for shard in shards.counts], shards.release)
    staged = time.perf_counter() - started
    print(
        f"staged, indexed, measured: {staged:.1f} s, {time.process_time() - cpu:.1f} CPU s, {memory():.1f} GB",
        flush=True,
    )
    checks = [one for one in check(settings, storage, made) if one.name != "thumbnails"]  # which are random bytes
    for one in checks:
        if one.name in ("search_recall", "indexes") or not one.passed:
            print(f"    {one.name}: {one.found} ({'passed' if one.passed else 'FAILED'})")
    publish(storage, made, checks)
    print(
        f"checked and published: {time.perf_counter() - started:.1f} s in all, {time.process_time() - cpu:.1f} CPU s, "
        f"{memory():.1f} GB\n"
    )
    table = open_table(storage.lance_uri, LIVE)
    for index in sorted(table.list_indices(), key=lambda one: one.name):
        print(f"{index.name:16}{index.index_type:10}{(index.size_bytes or 0) / given.rows:>8.0f} bytes a row")
    info = Atlas.open(storage.root).info
    probes = make_probes(table, info.metrics, seed=9)
    for name, probe in probes.items():
        print(
            f"recall at 10, {name}: {recall(table, name, probe, info.probes(name)):.4f}, searched as "
            f"{info.search.get(name, 'exactly')}"
        )
    questions(Atlas.open(storage.root), shards)
    again(settings, storage, shards)


def again(settings: Profile, storage: Storage, shards: ClusteredShards) -> None:
    """A refit, published, and the release before dropped."""
    for shard in shards.counts:
        shards.write(shard, "places")
    started, cpu = time.perf_counter(), time.process_time()
    made = stage(settings, storage, [shards.content(shard) for shard in shards.counts], shards.release)
    print(
        f"\nafter a refit: {time.perf_counter() - started:.1f} s, {time.process_time() - cpu:.1f} CPU s, "
        f"{made.written:,} bytes of data written, {memory():.1f} GB"
    )
    publish(storage, made, [one for one in check(settings, storage, made) if one.name != "thumbnails"])
    started = time.perf_counter()
    freed = prune(storage, keep=1, younger_than=timedelta(0))
    print(f"pruned: {time.perf_counter() - started:.2f} s, {freed:,} bytes freed, {memory():.1f} GB")


def questions(atlas: Atlas, shards: ClusteredShards) -> None:
    rng = np.random.default_rng(5)
    asked = {name: source.rows(QUESTIONS + 10, rng) for name, source in shards._sources.items()}
    names = list(shards.counts)
    ids = [shards.ids(names[number % len(names)])[number // len(names)] for number in range(QUESTIONS + 10)]
    words = [f"word{a} word{b}" for a, b in rng.integers(0, 5_000, (QUESTIONS + 10, 2))]
    print(f"\n{'milliseconds':44}{'cold':>9}{'median':>9}{'p95':>9}{'p99':>9}")
    timed("row(id)", lambda n: atlas.row(ids[n]))
    timed("10 nearest, clip", lambda n: atlas.search_vector(asked["clip"][n]))
    timed("10 nearest, vae", lambda n: atlas.search_vector(asked["vae"][n], space="vae"))
    timed("100 nearest, clip", lambda n: atlas.search_vector(asked["clip"][n], 100))
    timed("neighbors(id), clip", lambda n: atlas.neighbors(ids[n]))
    timed("two words of captions", lambda n: atlas.search_text(words[n], mode="words"))
    timed("10 nearest, aesthetic and caption contains", lambda n: atlas.search_vector(asked["clip"][n], where=FILTER))
    rare = "contains(caption, 'word77 ') AND category IS NULL"
    timed("10 nearest, caption contains", lambda n: atlas.search_vector(asked["clip"][n], where=rare))
    timed("words, aesthetic >= 7", lambda n: atlas.search_text(words[n], mode="words", where="aesthetic >= 7"))


if __name__ == "__main__":
    main()
