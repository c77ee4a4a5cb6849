"""Times the demo as a person meets it: first build, second build, definitions, search. Prints a table.

    .venv/bin/python infra/bench/demo.py

Everything runs in processes of its own, in a temporary home. Peak memory is the largest single process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUILD = [sys.executable, "-m", "latent_assets.cli", "build", "--profile", "demo", "--json"]
SEARCH = [sys.executable, "-m", "latent_assets.cli", "search", "hot drink", "--json"]
LOAD = """
import time, dagster
start = time.perf_counter()
from latent_assets.definitions import build_defs
build_defs().resolve_implicit_global_asset_job_def()
print(time.perf_counter() - start)
"""


def run(command: list[str], home: str) -> tuple[float, str]:
    """Seconds and standard output of a command; its errors end the benchmark."""
    environment = {**os.environ, "LATENT_ASSETS_HOME": home}
    environment.pop("DAGSTER_HOME", None)
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    """Run everything once (searches and loads five times) and print the figures."""
    with tempfile.TemporaryDirectory(prefix="latent-assets-bench-") as home:
        first, text = run(BUILD, home)
        made = sum(json.loads(text)["done"].values())
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        second, text = run(BUILD, home)
        again = sum(json.loads(text)["done"].values())
        searches = [run(SEARCH, home)[0] for _ in range(5)]
        loads = [float(run([sys.executable, "-c", LOAD], home)[1]) for _ in range(5)]
        folder = f"{home}/demo/manifests"
        rates = {stage: _rate(folder, stage) for stage in ("image_shards", "clip_embeddings")}
    print(f"first build               {first:8.1f} s   ({made} artefacts)")
    print(f"second build              {second:8.1f} s   ({again} artefacts)")
    print(f"peak memory               {peak:8.0f} MiB (largest process)")
    print(f"fetch                     {rates['image_shards']:8.0f} images/s (median of the shards)")
    print(f"encode, CLIP and VAE      {rates['clip_embeddings']:8.0f} images/s (median of the shards)")
    print(f"search, process included  {statistics.median(searches):8.2f} s   (median of 5)")
    print(f"definitions after dagster {statistics.median(loads):8.3f} s   (median of 5)")


def _rate(folder: str, stage: str) -> float:
    rates = []
    for path in sorted(Path(folder, stage).glob("*.json")):
        rates.append(float(json.loads(path.read_text(encoding="utf-8"))["details"]["rate"]))
    return statistics.median(rates)


if __name__ == "__main__":
    main()
