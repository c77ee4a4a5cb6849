"""What labels cost to make, and how good the clusters are.

    .venv/bin/python infra/bench/labels.py make [--rows N] [--root FOLDER]
    .venv/bin/python infra/bench/labels.py compare --atlas FOLDER [--truth category]

`make`: synthetic maps of three spaces with captions of ten words, shards of 10,000; seconds of the first make and of
the next, which keeps the ids, peak memory, how many of the planted clusters are found (adjusted mutual information of
the clustered rows). `compare`: PLSCAN on the coordinates of a built atlas against EVoC on its vectors, where evoc is
installed: clusters and clustered rows of each layer, adjusted mutual information with a column, seconds.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.atlas.labels.build import make_labels
from latent_assets.atlas.labels.store import ancestors, read_clusters, read_labels
from latent_assets.atlas.schema import CLUSTER, PLACE
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.client import Atlas
from latent_assets.layout import catalog_name, coords_name
from latent_assets.storage import Storage

SPACES = ("clip", "vae", "joint")
SHARD = 10_000
COARSE, PARTS = 15, 24  # planted clusters, and parts of each
FITTED = 50_000
LOOSE = 0.1  # share of the rows that are in no planted cluster
MODEL, FIRST, SECOND = "f" * 32, "a" * 32, "b" * 32


def planted(rows: int, seed: int = 3) -> np.ndarray:
    """The part that each row belongs to, -1 for none; parts of unequal size."""
    draw = np.random.default_rng(seed)
    weights = draw.pareto(1.5, COARSE * PARTS) + 0.2
    part = draw.choice(COARSE * PARTS, rows, p=weights / weights.sum())
    return np.where(draw.random(rows) < LOOSE, -1, part)


def write_atlas(storage: Storage, rows: int) -> np.ndarray:
    """Catalog and coordinates of a synthetic atlas; the part of each row."""
    draw = np.random.default_rng(4)
    part = planted(rows)
    vocabulary = np.array([f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("ran", "lek", "mos", "vid")])
    own = draw.integers(0, len(vocabulary), (COARSE * PARTS, 4))
    fitted = draw.random(rows) < FITTED / rows
    places = {}
    for space in SPACES:
        middle = draw.normal(0, 12, (COARSE, 1, 3)) + draw.normal(0, 1.6, (COARSE, PARTS, 3))
        spread = draw.gamma(2.0, 0.12, COARSE * PARTS)
        found = middle.reshape(-1, 3)[part] + spread[part][:, None] * draw.standard_normal((rows, 3))
        places[space] = np.where(part[:, None] < 0, draw.uniform(-25, 25, (rows, 3)), found).astype(np.float32)
    for number, first in enumerate(range(0, rows, SHARD)):
        cut = slice(first, min(first + SHARD, rows))
        ids = [f"{each:032x}" for each in range(cut.start, cut.stop)]
        columns = {f"{PLACE}{s}": pl.Series(xyz[cut], dtype=pl.Array(pl.Float32, 3)) for s, xyz in places.items()}
        frame = pl.DataFrame({"id": ids, **columns, "fitted": fitted[cut]})
        storage.write_parquet(coords_name(MODEL, f"{number:05d}"), frame)
        random = vocabulary[draw.integers(0, len(vocabulary), (len(ids), 7))]
        told = vocabulary[own[part[cut]]][np.arange(len(ids))[:, None], draw.integers(0, 4, (len(ids), 3))]
        captions = [" ".join(words) for words in np.concatenate([told, random], axis=1)]
        facts = pl.DataFrame({"id": ids, "url": ids, "caption": captions, "url_count": 1})
        missing = [pl.lit(None, kind).alias(name) for name, kind in CATALOG_SCHEMA.items() if name not in facts.columns]
        catalog = facts.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in CATALOG_SCHEMA.items())
        storage.write_parquet(catalog_name(f"{number:05d}"), catalog)
    return part


def peak() -> float:
    """Gigabytes of memory at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make(arguments: argparse.Namespace) -> None:
    """Make labels of a synthetic atlas twice."""
    from sklearn.metrics import adjusted_mutual_info_score

    storage = Storage(str(arguments.root or "") or tempfile.mkdtemp(prefix="labels-"))
    part = write_atlas(storage, arguments.rows)
    shards = [f"{number:05d}" for number in range(-(-arguments.rows // SHARD))]
    print(f"{arguments.rows:,} rows, {len(shards)} shards; {peak():.1f} GB before", flush=True)
    for made, before in ((FIRST, None), (SECOND, FIRST)):
        started, cpu = time.perf_counter(), time.process_time()
        report = make_labels(storage, made, MODEL, shards, SPACES, before)
        print(f"made: {time.perf_counter() - started:.1f} s ({time.process_time() - cpu:.1f} CPU s), clusters "
              f"{report.clusters}, found in {report.seconds} s, kept {report.kept}, in no cluster "
              f"{report.unclustered}; peak {peak():.1f} GB", flush=True)  # fmt: skip
    rows = pl.concat([read_clusters(storage, SECOND, shard) for shard in shards])
    for space, labels in read_labels(storage, SECOND).items():
        lines = ancestors(labels.labels)
        for level, truth in ((1, part // PARTS), (3, part)):
            of = [next((each for each in reversed(lines[one][:level]) if each), "") if one else ""
                  for one in rows[f"{CLUSTER}{space}"]]  # fmt: skip
            number = np.unique(of, return_inverse=True)[1]
            known = (np.array(of) != "") & (part >= 0)
            score = adjusted_mutual_info_score(truth[known][:: max(1, known.sum() // 50_000)],
                                               number[known][:: max(1, known.sum() // 50_000)])  # fmt: skip
            print(
                f"{space}, up to level {level}: mutual information {score:.3f}, {(np.array(of) != '').mean():.0%} of "
                f"the rows; of those that belong nowhere {(np.array(of)[part < 0] == '').mean():.0%} are in none"
            )
        print(f"{space}: {'; '.join(label.name for label in labels.labels[:6])}")


def compare(arguments: argparse.Namespace) -> None:
    """PLSCAN on coordinates against EVoC on vectors, over a built atlas."""
    from fast_hdbscan import PLSCAN

    atlas = Atlas.open(arguments.atlas)
    frame = atlas.to_polars([arguments.truth, *atlas.info.dims, *(f"{PLACE}{space}" for space in atlas.info.spaces)])
    truth = np.unique(frame[arguments.truth].fill_null("").to_numpy(), return_inverse=True)[1]
    smallest = max(8, len(frame) // 1_000)
    for space in atlas.info.spaces:
        places = np.ascontiguousarray(frame[f"{PLACE}{space}"].to_numpy(), np.float64)
        started = time.perf_counter()
        found = PLSCAN(min_samples=5, base_min_cluster_size=smallest, reproducible=True, max_layers=12).fit(places)
        tell(f"PLSCAN, map {space}", found.cluster_layers_, truth, time.perf_counter() - started)
    if find_spec("evoc") is None:
        print("EVoC is not installed: pip install evoc")
        return
    evoc = import_module("evoc").EVoC
    for name in atlas.info.dims:
        vectors = np.ascontiguousarray(frame[name].to_numpy(), np.float32)
        started = time.perf_counter()
        layers = evoc(random_state=1, base_min_cluster_size=smallest).fit(vectors).cluster_layers_
        tell(f"EVoC, vectors {name}", layers, truth, time.perf_counter() - started)


def tell(name: str, layers: list[np.ndarray], truth: np.ndarray, seconds: float) -> None:
    """A line for each layer: clusters, clustered rows, mutual information with the truth on those and on all rows."""
    from sklearn.metrics import adjusted_mutual_info_score

    for layer in layers:
        inside = layer >= 0
        print(f"{name}: {layer.max() + 1} clusters, {inside.mean():.0%} of the rows, mutual information "
              f"{adjusted_mutual_info_score(truth[inside], layer[inside]):.3f}, over all rows "
              f"{adjusted_mutual_info_score(truth, layer):.3f}, {seconds:.1f} s", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("--rows", type=int, default=635_561)
    making.add_argument("--root", type=Path)
    making.set_defaults(work=make)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--atlas", required=True)
    comparing.add_argument("--truth", default="category")
    comparing.set_defaults(work=compare)
    arguments = parser.parse_args()
    pa.set_cpu_count(2)
    arguments.work(arguments)


if __name__ == "__main__":
    main()
