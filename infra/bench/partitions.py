"""What a shard costs apart from its work: an atlas of many tiny shards, stage by stage, through Dagster.

    python infra/bench/partitions.py [--shards 2000] [--images 2] [--stages laion_metadata,shard_catalog,image_shards]

Prints seconds and milliseconds a shard for the first build, for a build with nothing to do, for a run of the UI over
shards that are current, and for `status`. Images come from a server on loopback; models are small and random.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2_000)
    parser.add_argument("--images", type=int, default=2, help="images of a shard")
    parser.add_argument("--stages", default="", help="stages to build, in order; all without")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="latent-assets-bench-") as folder:
        os.environ |= {"LATENT_ASSETS_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    from latent_assets.defs.build import Builder
    from latent_assets.defs.instance import open_instance
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets_tests.conftest import drawing, profile_over, serving_gallery
    from latent_assets_tests.small_models import write_clip, write_vae

    models: dict[str, dict[str, Any]] = {"clip": write_clip(folder / "clip"), "vae": write_vae(folder / "vae")}
    rows = options.shards * options.images
    with serving_gallery(folder / "gallery") as gallery:
        pictures = [drawing(seed) for seed in range(60)]
        gallery.files = {f"{number:06}.png": pictures[number % 60] for number in range(rows)}
        gallery.write(sorted(gallery.files))
        profile = profile_over(gallery, models, folder, shards={"rows": options.images, "per_run": 100})
        wanted = set(filter(None, options.stages.split(",")))
        with open_instance(profile) as instance:
            for title in ("first build", "nothing to do"):
                print(f"\n{title}: {options.shards} shards of {options.images} images")
                begun = time.perf_counter()
                for result in Builder(Lineage(profile), instance).build():
                    each = 1e3 * result.seconds / options.shards
                    failed = f", {len(result.failed)} failed" if result.failed else ""
                    print(f"  {result.stage:<20} {result.seconds:8.1f} s {each:8.1f} ms a shard{failed}")
                    if wanted and result.stage == options.stages.split(",")[-1]:
                        break
                print(f"  {'all':<20} {time.perf_counter() - begun:8.1f} s")
            builder = Builder(Lineage(profile), instance)
            print("\nruns over shards that are current, as the UI starts them")
            for stage in (
                name for name in ("shard_catalog", "image_shards", "clip_embeddings") if not wanted or name in wanted
            ):
                keys = builder.lineage.shards()[:100]
                begun = time.perf_counter()
                builder._run([stage], keys)
                print(f"  {stage:<20} {1e3 * (time.perf_counter() - begun) / len(keys):8.1f} ms a shard")
            begun = time.perf_counter()
            Lineage(profile).status()
            print(f"\nstatus of everything: {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
