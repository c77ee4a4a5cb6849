"""Placement of new images: what it costs and how right it is, by the size of the map.

    .venv/bin/python -m infra.bench.placement speed [--rows 635561] [--folder DIR]
    .venv/bin/python -m infra.bench.placement quality [--rows 4000] [--atlas ROOT] [--refits 20]

`speed` fills the maps of a release with synthetic images (clustered; 768 dimensions of `clip`, 256 of `vae`, and the
space of both), then opens them in a process of its own: seconds and memory to open, milliseconds for 1, 100, 1,000 and
10,000 images in all spaces, the index's recall, and whether another index would place an image elsewhere.

`quality` fits a map of synthetic images, or of an atlas that was built, places images that were held out by several
methods, umap-learn's own `transform` among them, and compares: how many of an image's 15 nearest lie among the 15
nearest on the map, and how far it is from where a fit that includes it puts it, as a share of the map's diameter.
Figures are printed as tables; times are of the cores that were free.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from infra.bench import placement_quality
from infra.bench.synthetic_vectors import CHUNK, WIDTHS, sources
from latent_assets.layout import model_name
from latent_assets.profile import Projection
from latent_assets.projection.features import make_recipes
from latent_assets.projection.inverted import InvertedIndex, exact_neighbors
from latent_assets.projection.model import (
    header_of,
    model_arrays,
    points_of,
    read_model,
    write_model,
)
from latent_assets.projection.placement import Placer
from latent_assets.spaces import spaces
from latent_assets.storage import Storage

PROJECTION = "b" * 32


def peak() -> float:
    """Largest resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def resident() -> tuple[float, float]:
    """Resident memory of this process now, GB: of its own, and of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(status[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile"))
    return own, mapped


# -- speed ---------------------------------------------------------------------------------------------


def fill(options: argparse.Namespace) -> None:
    """Write the maps of `rows` synthetic images. Places are those of the first principal axes: they cost nothing."""
    storage, rows = Storage(options.folder), options.rows
    vectors = {name: source.rows(0, rows) for name, source in sources().items()}
    recipes = make_recipes(
        tuple(spaces()[name] for name in ("clip", "vae", "joint")),
        {name: values[:50_000] for name, values in vectors.items()},
        0.5,
    )
    coords = {}
    for number, recipe in enumerate(recipes):
        axes = np.random.default_rng(number).normal(size=(sum(v.shape[1] for v in vectors.values()), 3))
        width = points_of(recipe, vectors).shape[1]
        parts = [points_of(recipe, vectors).rows(slice(at, at + CHUNK)) @ axes[:width] for at in range(0, rows, CHUNK)]
        coords[recipe.space] = np.concatenate(parts).astype(np.float32)
    ids = [f"{row * 0x9E3779B97F4A7C15 % 2**128:032x}" for row in range(rows)]
    settings = Projection()
    columns = {"clip": "vector", "vae": "pooled"}
    header = header_of(recipes, columns, WIDTHS, settings)
    report = {"version": "0" * 32, "held_out": [], "rows": rows}
    print(f"before the indexes: {peak():.1f} GB at most")
    begun, used = time.perf_counter(), time.process_time()
    write_model(storage, PROJECTION, model_arrays(ids, vectors, coords), header | {"report": report})
    print(
        f"indexes of three spaces and figures of placement: {time.process_time() - used:.0f} CPU seconds, "
        f"{time.perf_counter() - begun:.0f} s, {peak():.1f} GB at most"
    )


def use(options: argparse.Namespace) -> None:
    """Open the maps and place images on them."""
    begun = time.perf_counter()
    model = read_model(Storage(options.folder), PROJECTION)
    placers = model.placers
    opened = time.perf_counter() - begun
    own, mapped = resident()
    print(f"open {len(model.ids):,} rows: {opened:.2f} s, resident {own:.2f} GB and {mapped:.2f} GB of mapped files")
    start = -(-len(model.ids) // CHUNK) * CHUNK
    images = {name: source.rows(start, start + CHUNK) for name, source in sources().items()}
    features = {recipe.space: recipe.features(images) for recipe in model.recipes}

    def place(part: slice, coordinates: bool = False) -> float:
        begun = time.perf_counter()
        for recipe in model.recipes:
            made = recipe.features({name: values[part] for name, values in images.items()})
            (placers[recipe.space].coordinates if coordinates else placers[recipe.space].place)(made)
        return 1e3 * (time.perf_counter() - begun)

    print(f"first image: {place(slice(0, 1)):.0f} ms")
    times = np.array([place(slice(row, row + 1)) for row in range(1_000, 1_300)])
    print(f"1 image: {np.median(times):.1f} ms (p95 {np.percentile(times, 95):.1f})")
    for count in (100, 1_000, 10_000):
        print(f"{count:,} images: {place(slice(2_000, 2_000 + count)):.0f} ms")
    rate = 1e3 * 10_000 / place(slice(8_000, 18_000), coordinates=True)
    print(f"shards: {rate:.0f} rows a second, 11 million in {11e6 / rate / 3600:.1f} hours")
    own, mapped = resident()
    print(f"resident after all that: {own:.2f} GB and {mapped:.2f} GB of mapped files")
    for space, placer in placers.items():
        _compare_indexes(space, placer, features[space][:400])


def _compare_indexes(space: str, placer: Placer, features: np.ndarray) -> None:
    index = placer.index
    if not isinstance(index, InvertedIndex):
        print(f"{space}: {len(index):,} rows are compared one by one, without an index")
        return
    found = index.search(features, 15)
    true = exact_neighbors(placer.points, features, 15, index.metric)
    share = (true.indices[:, :, None] == found.indices[:, None, :]).any(axis=2).mean()
    file = index.file
    print(
        f"{space}: {len(file.squares)} lists, {file.probes} looked through, {file.compared} compared; recall at 15 "
        f"{share:.4f} over {len(features)} new images ({file.recall:.4f} when it was made)"
    )
    places = placer.coordinates(features)
    exact = placer.between(exact_neighbors(placer.points, features, found.indices.shape[1], index.metric))[0]
    other = Placer(
        placer.points, placer.coords, index.metric, found.indices.shape[1],
        InvertedIndex.build(placer.points, index.metric, seed=1), placer.typical,
    ).coordinates(features)  # fmt: skip
    diameter = 2 * np.percentile(np.linalg.norm(placer.coords - placer.coords.mean(axis=0), axis=1), 99)
    for name, compared in (("exact search", exact), ("an index of another seed", other)):
        moved = np.linalg.norm(places - compared, axis=1) / diameter
        print(
            f"  against {name}: {(moved > 0).mean():.2%} of images move, p95 {np.percentile(moved, 95):.1e}, "
            f"at most {moved.max():.1e} of the diameter"
        )


def speed(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="latent-assets-bench-") as temporary:
        folder = options.folder or temporary
        command = [sys.executable, "-m", "infra.bench.placement"]
        given = ["--folder", folder, "--rows", str(options.rows)]
        if not Storage(folder).exists(model_name(PROJECTION)):
            subprocess.run([*command, "fill", *given], check=True)
        subprocess.run([*command, "use", *given], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for name, part in (("speed", speed), ("fill", fill), ("use", use)):
        added = parts.add_parser(name)
        added.set_defaults(run=part)
        added.add_argument("--rows", type=int, default=635_561)
        added.add_argument("--folder", help="where the maps are kept; a temporary one without")
    placement_quality.add_arguments(parts.add_parser("quality"))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
