"""From a folder of photographs to a published table: images a second, stage by stage, and hours for 100,000.

    .venv/bin/python infra/bench/photographs.py FOLDER [--images 10000] [--dtype auto]

FOLDER keeps everything: the wallpapers of a Debian package (`apt-get download`, 47 MB), the crops made of them, and the
atlas. CLIP is ViT-B-32 with random weights, whose speed is that of trained ones; their vectors mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

_PACKAGE = "mate-backgrounds"
_SMALLEST = 600  # pixels of a wallpaper's shorter side


def wallpapers(folder: Path) -> list[Path]:
    """The photographs of the package below `folder`; downloaded and unpacked once, never installed."""
    unpacked = folder / "package"
    if not unpacked.is_dir():
        subprocess.run(["apt-get", "download", _PACKAGE], cwd=folder, check=True)
        package = next(folder.glob(f"{_PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True)
    files = [path for path in sorted(unpacked.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return [path for path in files if path.is_file() and not path.is_symlink() and _shorter(path) >= _SMALLEST]


def _shorter(path: Path) -> int:
    with Image.open(path) as image:
        return min(image.size)


def crop(files: list[Path], folder: Path, count: int) -> None:
    """`count` JPEGs of 512 to 1,024 pixels below `folder`, at places and scales that a seed decides."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(1))
    each = -(-count // len(files))
    for number, path in enumerate(files):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for part in range(each):
            row = number * each + part
            size, place = rng.uniform(0.25, 0.9) * min(image.size), rng.random(2)
            left, top = (place * (np.array(image.size) - size)).tolist()
            side = int(rng.integers(512, 1025))
            target = folder / f"{row % 100:02}" / f"{row:06}.jpg"
            if row < count and not target.is_file():
                target.parent.mkdir(exist_ok=True)
                box = (left, top, left + size, top + size)
                image.resize((side, side * 3 // 4), Image.Resampling.BILINEAR, box).save(target, quality=88)


def random_weights(folder: Path) -> Path:
    """ViT-B-32 with random weights, in the format in which they are published."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    file = folder / "vit-b-32.safetensors"
    if not file.is_file():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32")
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return file


_PROFILE = """name = "photographs"
title = "Crops of wallpapers"
[source]
kind = "folder"
path = "crops"
[filters]
require_caption = false
[shards]
rows = 1_000
[fetch]
robots = false
format = "jpeg"
size = 512
[models.clip]
name = "ViT-B-32"
pretrained = "{weights}"
dtype = "{dtype}"
[projection]
spaces = ["clip"]
"""


def main() -> None:
    """Make the crops, build the atlas with the command that users have, and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    crop(wallpapers(folder), folder / "crops", arguments.images)
    profile = folder / "photographs.toml"
    profile.write_text(_PROFILE.format(weights=random_weights(folder), dtype=arguments.dtype), encoding="utf-8")
    environment = {**os.environ, "LATENT_ASSETS_HOME": str(folder / "home")}
    environment.pop("DAGSTER_HOME", None)
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(profile), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds, after = time.perf_counter() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    report = json.loads(done.stdout)["report"]
    stages = sorted((folder / "home/photographs/manifests").glob("*/*.json"))
    spent: dict[str, float] = {}
    for file in stages:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if "seconds" in manifest:
            spent[manifest["stage"]] = round(spent.get(manifest["stage"], 0.0) + manifest["seconds"], 1)
    rate = report["in_atlas"] / seconds
    print(
        json.dumps(
            {
                "images": report["in_atlas"],
                "seconds": round(seconds, 1),
                "cpu seconds": round(busy, 1),
                "images a second": round(rate, 2),
                "images a second of two cores that are free": round(2 * report["in_atlas"] / busy, 2),
                "hours for 100,000": round(100_000 / rate / 3600, 2),
                "hours for 100,000 on two cores that are free": round(100_000 * busy / report["in_atlas"] / 7200, 2),
                "seconds by stage": spent,
                "cores": os.cpu_count(),
                "load": os.getloadavg()[0],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
