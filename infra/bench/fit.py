"""What a fit takes and how good its maps are: by size, with landmarks and with all rows; drift; settings of umap-learn.

    .venv/bin/python infra/bench/fit.py [--rows N] [--fit-rows N ...]  # synthetic embeddings, 768 and 256 wide
    .venv/bin/python infra/bench/fit.py --atlas ROOT [--times N]       # embeddings of a built atlas, N times enlarged
    .venv/bin/python infra/bench/fit.py --drift ROOT                   # a tenth more rows: displacement, noise floor
    .venv/bin/python infra/bench/fit.py --settings ROOT                # n_neighbors, min_dist, densmap, init

An atlas is enlarged by mixes: each further vector is a row drawn towards one of its 15 nearest, by less than half. A
line of the first two tables is a process of its own. "All" counts the fit of three maps and the placement of all other
rows, without compilation, which a machine does once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHARD_ROWS = 10_000
EMBEDDINGS = {"clip": "vector", "vae": "pooled"}


def synthetic_rows(rows: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clip vectors float16 [n, 768] and vae features float16 [n, 256], shard by shard.

    2,000 clusters of very different sizes (Zipf) in 40 groups; each a plane of 12 dimensions with noise around it.
    """
    rng = np.random.default_rng(seed)
    clusters, inner = 2_000, 12
    share = 1.0 / np.arange(1, clusters + 1)
    maps = {}
    for name, width in (("clip", 768), ("vae", 256)):
        groups = rng.normal(size=(40, width))
        centres = groups[rng.integers(0, 40, clusters)] + 0.7 * rng.normal(size=(clusters, width))
        maps[name] = (centres.astype(np.float32), rng.normal(size=(64, inner, width)).astype(np.float32))
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        made = []
        for centres, planes in maps.values():
            of = rng.choice(clusters, count, p=share / share.sum())
            inside = rng.normal(size=(count, inner)).astype(np.float32)
            values = centres[of] + 0.25 * np.einsum("ni,nij->nj", inside, planes[of % 64])
            values += 0.1 * rng.normal(size=values.shape).astype(np.float32)
            made.append(values)
        clip = made[0] / np.linalg.norm(made[0], axis=1, keepdims=True)
        yield clip.astype(np.float16), made[1].astype(np.float16)


def atlas_vectors(root: str) -> dict[str, np.ndarray]:
    """The fitted vectors of a built atlas, float16 [n, d] by embedding."""
    from latent_assets.projection.model import read_model
    from latent_assets.storage import Storage

    storage = Storage(root)
    fitted = [name for name in storage.folders("projection") if storage.exists(f"projection/{name}/model.safetensors")]
    return {name: np.array(values) for name, values in read_model(storage, fitted[-1]).vectors.items()}


def enlarged(vectors: dict[str, np.ndarray], times: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of an atlas and `times` - 1 mixes of each with a neighbour in the first embedding, shard by shard."""
    from latent_assets.projection.neighbors import self_neighbors, unit

    clip, vae = unit(vectors["clip"]), np.asarray(vectors["vae"], np.float32)
    near = self_neighbors(clip, 15, "cosine").indices
    rng = np.random.default_rng(0)
    parts = [(clip, vae)]
    for _ in range(times - 1):
        other = near[np.arange(len(near)), rng.integers(0, 15, len(near))]
        share = rng.uniform(0.05, 0.45, (len(near), 1)).astype(np.float32)
        mixed = unit((1 - share) * clip + share * clip[other])
        parts.append((mixed, (1 - share) * vae + share * vae[other]))
    whole = [np.concatenate(column).astype(np.float16) for column in zip(*parts, strict=True)]
    for start in range(0, len(whole[0]), SHARD_ROWS):
        yield whole[0][start : start + SHARD_ROWS], whole[1][start : start + SHARD_ROWS]


def write(root: Path, shards: Iterator[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    """Store embeddings as the encoder does; where they lie, shard by shard."""
    from latent_assets.embeddings.store import ShardEmbeddings, writing_embeddings
    from latent_assets.layout import embedding_name
    from latent_assets.storage import Storage

    storage, written, done = Storage(str(root)), [], 0
    for number, vectors in enumerate(shards):
        key = f"{number:05d}"
        ids = [f"{(done + i) * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(len(vectors[0]))]
        done += len(ids)
        files = {name: embedding_name(name[0] * 32, key) for name in EMBEDDINGS}
        for (name, column), values in zip(EMBEDDINGS.items(), vectors, strict=True):
            with writing_embeddings(storage, files[name], {column: values.shape[1]}, whole=None) as writer:
                writer.append(ids, {column: values})
        written.append(ShardEmbeddings(key, files, None))
    return written


def profile(root: Path | str, **projection: Any) -> Any:
    """A profile with both embeddings whose models are never read."""
    from latent_assets.profile import parse_profile

    models = {"clip": {"config": "/none", "weights": "/none"}, "vae": {"model": "/none", "size": 64}}
    values = {"name": "bench", "root": str(root), "source": {"path": "/none"}, "models": models}
    return parse_profile({**values, "projection": projection}, Path("bench.toml"), Path("/"))


def measure_fit(root: Path, fit_rows: int, projection: dict[str, Any]) -> dict[str, Any]:
    """Fit and place everything below `root`; figures of both."""
    from latent_assets.embeddings.store import ShardEmbeddings
    from latent_assets.projection.fit import fit_map
    from latent_assets.projection.shard import project_shard
    from latent_assets.storage import Storage

    storage = Storage(str(root))
    keys = sorted({Path(file.name).stem for file in storage.files("embeddings")})
    files = {name: f"embeddings/{name[0] * 32}" for name in EMBEDDINGS}
    shards = [ShardEmbeddings(k, {n: f"{folder}/{k}.arrow" for n, folder in files.items()}, None) for k in keys]
    chosen = profile(root, fit_rows=fit_rows, backend="umap-learn", **projection)
    fingerprint = f"{fit_rows:032x}"
    started = time.perf_counter()
    report = fit_map(chosen, storage, shards, fingerprint, dict(EMBEDDINGS))
    fitted = time.perf_counter()
    placed = sum(project_shard(chosen, storage, fingerprint, shard).placed for shard in shards)
    ended = time.perf_counter()
    return {
        "rows": report.total_rows,
        "fitted": report.rows,
        "fit_s": round(fitted - started, 1),
        "layout_s": {name: round(space.seconds, 1) for name, space in report.spaces.items()},
        "placed": placed,
        "place_s": round(ended - fitted, 1),
        "all_s": round(ended - started, 1),
        "cpu_s": round(time.process_time(), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "quality": {name: _figures(space.quality) for name, space in report.spaces.items()},
        "placed_quality": {name: _figures(space.placed) for name, space in report.spaces.items() if space.placed},
        "whole": whole_quality(storage, report, shards, fingerprint),
    }


def whole_quality(storage: Any, report: Any, shards: Sequence[Any], fingerprint: str) -> dict[str, Any]:
    """The quality of each map over drawn rows of the whole atlas, fitted or placed: what maps are compared by."""
    from latent_assets.projection.model import load_model
    from latent_assets.projection.quality import REFERENCE_ROWS, measure
    from latent_assets.projection.rows import draw, read_shard_rows
    from latent_assets.projection.shard import read_coords

    model = load_model(storage, fingerprint)
    sample = draw([read_shard_rows(storage, shard) for shard in shards], REFERENCE_ROWS, seed=7)
    vectors = {name: sample.read(storage, name, column) for name, column in EMBEDDINGS.items()}
    coords: dict[str, list[np.ndarray]] = {recipe.space: [] for recipe in model.recipes}
    for shard, at in zip(shards, sample.chosen, strict=True):
        frame = read_coords(storage, fingerprint, shard.shard)
        for space, parts in coords.items():
            parts.append(frame[f"xyz_{space}"].to_numpy().reshape(-1, 3)[at])
    return {
        recipe.space: _figures(measure(recipe.features(vectors), np.concatenate(coords[recipe.space]), recipe.metric))
        for recipe in model.recipes
    }


def _figures(quality: Any) -> dict[str, float]:
    names = ("trustworthiness", "continuity", "recall", "triplets", "far_outliers")
    return {name: round(float(value), 4) for name in names if (value := getattr(quality, name)) is not None}


def table(root: Path, sizes: Sequence[int], projection: dict[str, Any]) -> None:
    """One line for each number of fitted rows, each in a process of its own."""
    print(f"{'rows':>9} {'fitted':>9} {'fit s':>7} {'place s':>8} {'all s':>7} {'CPU s':>7} {'GB':>6}  layouts")
    for size in sizes:
        call = [sys.executable, __file__, "--line", str(root), str(size), json.dumps(projection)]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-2000:])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = f"{found['fit_s']:>7} {found['place_s']:>8} {found['all_s']:>7} {found['cpu_s']:>7}"
        print(f"{found['rows']:>9,} {found['fitted']:>9,} {seconds} {found['peak_gb']:>6}  layouts {found['layout_s']}")
        for which in ("whole", "quality", "placed_quality"):
            for space, figures in found[which].items():
                print(f"{'':>10}{which:<15} {space:<6} " + "  ".join(f"{name} {v:.4f}" for name, v in figures.items()))
        sys.stdout.flush()


def recipes_and_vectors(root: str) -> tuple[Any, dict[str, np.ndarray]]:
    from latent_assets.projection.features import make_recipes
    from latent_assets.spaces import spaces

    vectors = atlas_vectors(root)
    return make_recipes([spaces()[name] for name in ("clip", "vae", "joint")], vectors, 0.5), vectors


def drift(root: str, projection: dict[str, Any]) -> None:
    """Fit ten elevenths of an atlas, then all of it as a later state: displacement, churn, floor, quality."""
    from latent_assets.profile import Projection
    from latent_assets.projection.backend import UmapLearn
    from latent_assets.projection.mapping import make_map
    from latent_assets.projection.previous import Shared
    from latent_assets.projection.quality import measure

    settings = Projection(backend="umap-learn", **projection)
    recipes, vectors = recipes_and_vectors(root)
    for recipe in recipes:
        features = recipe.features(vectors)
        old = np.random.default_rng(1).permutation(len(features)) % 11 != 0
        first = make_map(UmapLearn(), features[old], recipe.metric, settings)
        places = np.full((len(features), 3), np.nan, np.float32)
        places[old] = first.coords
        shared = Shared("release-00001", old, places, first.coords)
        later = make_map(UmapLearn(), features, recipe.metric, settings, shared)
        cold = make_map(UmapLearn(), features, recipe.metric, settings)
        assert later.drift is not None and later.floor is not None
        states = (
            f"{which} median {found.median:.2%} p95 {found.p95:.2%} churn {found.churn:.1%}"
            for which, found in (("moved", later.drift), ("floor", later.floor))
        )
        print(f"{recipe.space:<6} {', '.join(states)}, {later.drift.median / later.floor.median:.2f} floors")
        for name, made in (("later", later), ("cold", cold)):
            figures = _figures(measure(features, made.coords, recipe.metric))
            print(f"       {name:<6} " + "  ".join(f"{measure} {value:.4f}" for measure, value in figures.items()))
        sys.stdout.flush()


def settings_table(root: str, most_rows: int) -> None:
    """umap-learn's settings, one changed at a time, on the maps of an atlas."""
    from latent_assets.profile import Projection
    from latent_assets.projection.backend import first_start, graph_of, schedule
    from latent_assets.projection.layout import optimise
    from latent_assets.projection.mapping import finish
    from latent_assets.projection.quality import measure

    recipes, vectors = recipes_and_vectors(root)
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors["clip"]))[:most_rows])
    vectors = {name: values[rows] for name, values in vectors.items()}
    for recipe in recipes:
        features = recipe.features(vectors)
        for neighbors in (10, 15, 30, 45):
            graph = graph_of(features, recipe.metric, Projection(n_neighbors=neighbors))
            for min_dist, init in ((0.0, "pca"), (0.1, "pca"), (0.25, "pca"), (0.5, "pca"), (0.1, "spectral")):
                chosen = Projection(n_neighbors=neighbors, min_dist=min_dist)
                start = first_start(features, 42) if init == "pca" else _spectral(features, graph)
                epochs, rate = schedule(chosen, len(features), warm=False)
                found = finish(optimise(graph, start, epochs, rate, 42, min_dist)).coords
                _print(recipe, f"n {neighbors} min_dist {min_dist} {init}", measure(features, found, recipe.metric))
        for neighbors in (15, 45):
            laid_out = _densmap(features, recipe.metric, neighbors)
            found = finish(laid_out).coords
            _print(recipe, f"n {neighbors} min_dist 0.1 densmap", measure(features, found, recipe.metric))


def _print(recipe: Any, name: str, quality: Any) -> None:
    figures = _figures(quality) | {"trustworthiness_50": quality.trustworthiness_50}
    print(
        f"{recipe.space:<6} {name:<28} " + "  ".join(f"{key} {value:.4f}" for key, value in figures.items()), flush=True
    )


def _spectral(features: np.ndarray, graph: Any) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from umap.spectral import spectral_layout

    joined = coo_matrix((graph.weights, (graph.head, graph.tail)), (graph.rows, graph.rows)).tocsr()
    found = spectral_layout(features, joined, 3, np.random.RandomState(42))
    noise = np.random.default_rng(42).normal(size=found.shape)
    return np.asarray(10 * (found - found.min(axis=0)) / np.ptp(found, axis=0) + 1e-4 * noise, dtype=np.float32)


def _densmap(features: np.ndarray, metric: str, neighbors: int) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = umap.UMAP(n_components=3, n_neighbors=neighbors, metric=metric, densmap=True, random_state=42)
        return np.asarray(model.fit_transform(features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--fit-rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--atlas", metavar="ROOT")
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--drift", metavar="ROOT")
    parser.add_argument("--settings", metavar="ROOT")
    parser.add_argument("--most-rows", type=int, default=4_000, help="of an atlas, for --settings")
    parser.add_argument("--projection", type=json.loads, default={}, help="keys of [projection], as JSON")
    parser.add_argument("--line", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.line:
        root, size, projection = chosen.line
        print(json.dumps(measure_fit(Path(root), int(size), json.loads(projection))))
    elif chosen.drift:
        drift(chosen.drift, chosen.projection)
    elif chosen.settings:
        settings_table(chosen.settings, chosen.most_rows)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-fit-") as folder:
            rows = enlarged(atlas_vectors(chosen.atlas), chosen.times) if chosen.atlas else synthetic_rows(chosen.rows)
            write(Path(folder), rows)
            table(Path(folder), chosen.fit_rows, chosen.projection)


if __name__ == "__main__":
    main()
