"""What the path of an image costs: drawing alone against drawing with the path, and how soon the first point is known.

    .venv/bin/python infra/bench/generate.py [--profile demo] [--rounds N] [--steps N]

The atlas of the profile has to be built. Both kinds take turns, so that whatever else the machine does meets both; the
finished image is placed in neither. CPU seconds are of this process: they tell more on a busy machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from latent_assets.generated.diffusion.generate import ImageGenerator
from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.profile import load_profile
from latent_assets.storage import Storage


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a piece of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Draw in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int)
    chosen = parser.parse_args()
    profile = load_profile(chosen.profile)
    generator = ImageGenerator.open(profile, ImagePlacer.open(Storage(profile.root)))
    firsts: list[float] = []

    def with_path(request: GenerationRequest) -> None:
        began = time.perf_counter()
        seen: list[float] = []
        generator.draw(request, lambda point: seen.append(time.perf_counter() - began))
        firsts.append(seen[0])

    plain, path, whole = [], [], []
    for seed in range(chosen.rounds + 2):
        request = GenerationRequest.of(diffusion_model(profile), "a red apple", seed=seed, steps=chosen.steps)
        found = [
            timed(lambda request=request: generator.drawing.draw(request)),  # type: ignore[misc]
            timed(lambda request=request: with_path(request)),  # type: ignore[misc]
            timed(lambda request=request: generator.generate(request)),  # type: ignore[misc]
        ]
        if seed >= 2:  # the first ones load and compile
            for kind, seconds in zip((plain, path, whole), found, strict=True):
                kind.append(seconds)
    for number, name in enumerate(("wall", "CPU")):
        medians = [statistics.median(kind[number] for kind in kinds) for kinds in (plain, path, whole)]
        added = sorted(w[number] / p[number] - 1.0 for p, w in zip(plain, path, strict=True))
        print(
            f"{name:4} plain {medians[0]:.3f} s, with path {medians[1]:.3f} s (+{medians[1] / medians[0] - 1.0:.0%}; "
            f"of single pairs +{added[len(added) // 10]:.0%} to +{added[-1 - len(added) // 10]:.0%}), "
            f"with path, files and place {medians[2]:.3f} s"
        )
    print(f"first point after {statistics.median(firsts[2:]):.3f} s (median)")


if __name__ == "__main__":
    main()
