"""How fast and in how little memory metadata passes through the catalog.

    python infra/bench/catalog.py --rows 50000000         synthetic rows in laion2B-en-aesthetic's schema
    python infra/bench/catalog.py --rows 635561 --exact   the exact 6.5plus schema and row count, with its funnel

Each build runs in a process of its own; its peak memory is what the kernel says of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

PART_ROWS = 400_000
WORDS = re.findall(
    r"\w+",
    "a of the in with and portrait painting vintage photo red blue mountain lake sunset wedding dress house kitchen "
    "modern art print canvas poster flower cat dog horse car city street night light winter summer old black white",
)


def synthetic_part(start: int, rows: int, seed: int, exact: bool) -> pl.DataFrame:
    """Rows [start, start + rows) of a source: links and captions of realistic length, 5 % repeated links."""
    generator = np.random.default_rng(seed)
    number = np.arange(start, start + rows)
    repeated = generator.random(rows) < 0.05
    number = np.where(repeated, generator.integers(0, max(start + rows, 1), rows), number)
    words = pl.Series(WORDS)
    caption = pl.concat_str(
        [pl.Series(words.gather(generator.integers(0, len(WORDS), rows))) for _ in range(9)], separator=" "
    )
    frame = pl.DataFrame({"n": number}).select(
        pl.format(
            "https://cdn{}.images-{}.example.com/wp-content/uploads/2019/{}/picture-of-something-{}-1024x768.jpg",
            pl.col("n") * 7919 % 997, pl.col("n") * 104_729 % 99_991, pl.col("n") % 12 + 1, pl.col("n"),
        ).alias("URL"),
        caption.alias("TEXT"),
    )  # fmt: skip
    score = "AESTHETIC_SCORE" if exact else "aesthetic"
    size = pl.Float64 if exact else pl.Int32
    frame = frame.with_columns(
        pl.Series("WIDTH", generator.integers(120, 2400, rows)).cast(size),
        pl.Series("HEIGHT", generator.integers(120, 2400, rows)).cast(size),
        pl.Series("similarity", generator.normal(0.31, 0.03, rows)),
        pl.Series("punsafe", generator.beta(0.3, 3, rows).astype(np.float32)),
        pl.Series("pwatermark", generator.beta(0.6, 2, rows).astype(np.float32)),
        pl.Series(score, (6.5 + generator.exponential(0.12, rows)).astype(np.float32)),
        pl.Series("hash", generator.integers(-(2**63), 2**63 - 1, rows)),
    )
    if exact:
        frame = frame.with_columns(pl.Series("__index_level_0__", np.arange(start, start + rows)))
    holes = pl.Series(generator.random(rows) < 0.01)
    return frame.with_columns(pl.when(holes).then(None).otherwise("TEXT").alias("TEXT"))


def write_source(folder: Path, rows: int, exact: bool) -> None:
    """Parts of 400,000 rows, as laion2B-en-aesthetic has them; one file for the 6.5plus schema."""
    folder.mkdir(parents=True, exist_ok=True)
    if exact:
        parts = [synthetic_part(s, min(PART_ROWS, rows - s), s, True) for s in range(0, rows, PART_ROWS)]
        pl.concat(parts).write_parquet(folder / "part-00000.parquet", compression="snappy")
        return
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        part = synthetic_part(start, min(PART_ROWS, rows - start), number, False)
        part.write_parquet(folder / f"part-{number:05d}.parquet", compression="snappy")


def build(folder: Path, rows_per_shard: int, filtered: bool) -> None:
    """Build the catalog in this process and print the report as JSON."""
    from latent_assets.catalog.build import build_catalog
    from latent_assets.profile import ClipModel, Filters, Models, Profile, Projection, Shards, Source
    from latent_assets.storage import Storage

    limits = {"min_aesthetic": 6.5, "max_punsafe": 0.5, "max_pwatermark": 0.8, "min_width": 256, "min_height": 256}
    profile = Profile(
        name="bench",
        root=str(folder / "root"),
        source=Source(path=str(folder / "source")),
        filters=Filters(**(limits if filtered else {})),  # type: ignore[arg-type]
        shards=Shards(rows=rows_per_shard),
        models=Models(clip=ClipModel(config="-", weights="-")),
        projection=Projection(spaces=("clip",)),
    )
    cpu = time.process_time()
    report = build_catalog(profile, Storage(profile.root))
    print(
        json.dumps(
            {
                "rows read": report.rows_read,
                "rows kept": report.rows_kept,
                "shards": len(report.shards),
                "written": len(report.added) + len(report.changed),
                "seconds": round(report.seconds, 1),
                "rows/s": round(report.rows_read / report.seconds),
                "cpu seconds": round(time.process_time() - cpu, 1),
                "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "catalog MB": report.bytes >> 20,
                "funnel": dict(report.funnel),
            }
        )
    )


def run(folder: Path, arguments: argparse.Namespace, what: str) -> None:
    """One build in a process of its own."""
    command = [sys.executable, __file__, "--build", str(folder), "--shard-rows", str(arguments.shard_rows)]
    command += ["--filtered"] if arguments.filtered or arguments.exact else []
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    figures = json.loads(done.stdout)
    print(f"\n{what}")
    for name, value in figures.items():
        print(f"  {name:12} {value:,}" if isinstance(value, int | float) else f"  {name:12} {value}")


def main() -> None:
    """Write the source, build twice (all new, nothing new), say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--exact", action="store_true", help="improved_aesthetics_6.5plus: schema, one file, filters")
    parser.add_argument("--filtered", action="store_true", help="apply the filters of the LAION profiles")
    parser.add_argument("--shard-rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.build, arguments.shard_rows, arguments.filtered)
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-catalog-", dir=arguments.folder))
    try:
        started = time.monotonic()
        write_source(folder / "source", arguments.rows, arguments.exact)
        size = sum(path.stat().st_size for path in (folder / "source").iterdir())
        print(f"source: {arguments.rows:,} rows, {size >> 20:,} MB, written in {time.monotonic() - started:.0f} s")
        run(folder, arguments, "first build")
        run(folder, arguments, "second build, nothing new")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
