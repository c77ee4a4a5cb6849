"""Maps on whatever this machine has: fit, quality, warm start and placement, by cuML on a GPU, by umap-learn without.

    .venv/bin/python -m infra.bench.gpu_maps [--rows N]

Prints one JSON. On clustered synthetic embeddings, as `fit.py` makes them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from infra.bench.fit import EMBEDDINGS, profile, synthetic_rows, write


def measure(rows: int, fit_rows: int | None = None) -> dict[str, Any]:
    """Fit three maps of `rows` rows, then nine tenths of them and all as a later state, and place what was not fitted.

    Returns backend, device, versions, seconds, and per space quality, placed rows' quality, drift and noise floor.
    """
    import polars as pl

    from latent_assets.projection.fit import fit_map
    from latent_assets.projection.header import read_header
    from latent_assets.projection.model import load_model
    from latent_assets.projection.previous import COLUMN, PreviousMaps
    from latent_assets.projection.rows import read_shard_rows
    from latent_assets.projection.shard import project_shard
    from latent_assets.storage import Storage

    with tempfile.TemporaryDirectory(prefix="bench-maps-") as folder:
        shards = write(Path(folder), synthetic_rows(rows))
        storage = Storage(folder)
        chosen = profile(folder, backend="auto", **({"fit_rows": fit_rows} if fit_rows else {}))
        started = time.perf_counter()
        cold = fit_map(chosen, storage, shards, "0" * 32, dict(EMBEDDINGS))
        fitted = time.perf_counter()
        placed = sum(project_shard(chosen, storage, "0" * 32, shard).placed for shard in shards)
        ended = time.perf_counter()
        model = load_model(storage, "0" * 32)
        kept = np.random.default_rng(1).permutation(len(model.ids)) % 11 != 0
        frame = pl.DataFrame({"id": model.ids}).with_columns(
            pl.Series(f"{COLUMN}{space}", np.asarray(xyz), dtype=pl.Array(pl.Float32, 3))
            for space, xyz in model.coords.items()
        )
        previous = PreviousMaps("release-00001", frame.filter(pl.Series(kept)))
        again = time.perf_counter()
        warm = fit_map(chosen, storage, shards, "1" * 32, dict(EMBEDDINGS), previous)
        return {
            "rows": sum(len(read_shard_rows(storage, shard).ids) for shard in shards),
            "fitted": cold.rows,
            "backend": cold.backend,
            "device": cold.device,
            "versions": read_header(storage, "0" * 32)["versions"],
            "fit_s": round(fitted - started, 2),
            "placed": placed,
            "place_s": round(ended - fitted, 2),
            "warm_fit_s": round(time.perf_counter() - again, 2),
            "spaces": {name: _space(asdict(cold.spaces[name]), asdict(found)) for name, found in warm.spaces.items()},
        }


def _space(cold: dict[str, Any], warm: dict[str, Any]) -> dict[str, Any]:
    return {
        "layout_s": cold["seconds"],
        "quality": cold["quality"],
        "placed": cold["placed"],
        "warm": {name: warm[name] for name in ("quality", "placed", "drift", "floor")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--fit-rows", type=int)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.rows, chosen.fit_rows), indent=1))


if __name__ == "__main__":
    main()
