"""How often a near-copy of an image of an atlas is recognised, and how often a distinct one is taken for a copy.

    .venv/bin/python infra/bench/near_copies.py .latent-assets/demo --images 100
    .venv/bin/python infra/bench/near_copies.py --photographs /usr/share/backgrounds/mate/nature

Images of the atlas are cropped to 80 % and 60 % of their sides (anywhere), halved, saved as JPEG 50, mirrored, turned
by up to 5 degrees, and framed; then they are placed. `picture`: the very image is named first. `group`: it or one of
its near-duplicates is. `verdict`: "unusually close to one group". False alarms: held-out images whose near-duplicates
are taken out of the atlas's answer: they are distinct from what is left. How many of them have a near-duplicate in the
atlas is told beside it. Times are of a placement without decoding and encoding.

With `--photographs` it builds an atlas of the tiles of photographs in a folder (Debian's mate-backgrounds has eleven)
with the demo's models, in a temporary folder, and measures that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from latent_assets.atlas.resident import matrix
from latent_assets.generated.placement.alterations import ALTERATIONS
from latent_assets.generated.placement.calibration import LEVEL
from latent_assets.generated.placement.correlation import FINE, Picture
from latent_assets.generated.placement.groups import alike
from latent_assets.generated.placement.neighborhood import rows_of
from latent_assets.generated.placement.placed import COPY, Placed
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.images.decode.image import decode_image
from latent_assets.layout import IMAGES
from latent_assets.storage import Storage

_CONTRAST = 12.0  # grey levels


@dataclass
class Score:
    """What became of the near-copies of one kind."""

    picture: int = 0
    group: int = 0
    verdict: int = 0
    of: int = 0


def stored_images(storage: Storage, ids: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    """Images of an atlas as they are stored, in the order of their tars."""
    wanted = set(ids)
    for file in storage.files(IMAGES):
        if not file.name.endswith(".tar"):
            continue
        with storage.local(file.name) as path, tarfile.open(path) as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.stem in wanted and name.suffix not in (".txt", ".json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield name.stem, decode_image(content.read())


def named_first(placed: Placed) -> str:
    """The image that an answer names first: the possible copy, else the nearest of the space of all embeddings."""
    if placed.copy is not None:
        return placed.copy.id
    return list(placed.placements.values())[-1].neighbours[0].id


class Duplicates:
    """Which rows of a release are near-duplicates: within its radii, or as well correlated as copies are."""

    def __init__(self, placer: ImagePlacer) -> None:
        table = placer.table.search().select(["id", "thumbnail", *placer.model.features]).limit(None).to_arrow()
        self._row = {row_id: at for at, row_id in enumerate(table["id"].to_pylist())}
        self._vectors = {name: matrix(table[name]) for name in placer.model.features}
        self._files, self._usual = table["thumbnail"].to_pylist(), placer.calibration

    def __call__(self, first: str, second: str) -> bool:
        """Whether two rows (ids) are."""
        if first == second:
            return True
        one, other = (
            {name: values[self._row[row_id]][None] for name, values in self._vectors.items()}
            for row_id in (first, second)
        )
        if alike(one, other, self._usual.radii)[0, 0]:
            return True
        pictures = (decode_image(self._files[self._row[row_id]]) for row_id in (first, second))
        return Picture(next(pictures)).best_match(Picture(next(pictures), FINE)).correlation >= self._usual.alike


def near_copies(placer: ImagePlacer, storage: Storage, ids: Sequence[str], seed: int) -> dict[str, Score]:
    """Every alteration of the images `ids`, placed."""
    rng = np.random.default_rng(seed)
    one_group = Duplicates(placer)
    scores = {name: Score() for name in ALTERATIONS}
    for done, (row_id, image) in enumerate(stored_images(storage, ids), 1):
        altered = [alter(image, rng) for alter in ALTERATIONS.values()]
        for score, placed in zip(scores.values(), placer.place_all(altered), strict=True):
            first = named_first(placed)
            score.of += 1
            score.picture += first == row_id
            score.group += one_group(first, row_id)
            score.verdict += placed.verdict == COPY
        _show(f"{done} of {len(ids)} images")
    return scores


def false_alarms(placer: ImagePlacer) -> tuple[int, int]:
    """How many held-out images would be called copies of one that is no near-duplicate of them, and of how many."""
    usual, flagged = placer.calibration, 0
    rows = len(usual.detail)
    for row in range(rows):
        distances = {space: float(found.other[row]) for space, found in usual.distances.items()}
        chance = usual.chance(distances, float(usual.correlation[row]))
        flagged += chance is not None and chance <= LEVEL
    return flagged, rows


def with_duplicates(placer: ImagePlacer) -> int:
    """How many held-out images have a near-duplicate among the other rows of the release."""
    ids, usual = placer.model.report["held_out"], placer.calibration
    rows = rows_of(placer.table, ids, [*placer.model.features, "thumbnail"])
    vectors = {name: matrix(rows[name]) for name in placer.model.features}
    found = 0
    for row, (row_id, file) in enumerate(zip(ids, rows["thumbnail"].to_pylist(), strict=True)):
        query = {name: values[row] for name, values in vectors.items()}
        around = placer.surroundings(placer.neighborhoods, decode_image(file), query, without=row_id)
        near = any(bool(one.own.any()) for one in around.near.values())
        found += near or (bool(around.matches) and around.matches[0][1].correlation >= usual.alike)
    return found


def photograph_atlas(photographs: Path, folder: Path) -> str:
    """The root of an atlas of tiles of photographs, built below `folder`."""
    tiles = folder / "images"
    for file in sorted(photographs.iterdir()):
        if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            (tiles / file.stem).mkdir(parents=True)
            with Image.open(file) as opened:
                cut(opened.convert("RGB"), tiles / file.stem)
    profile = folder / "photographs.toml"
    text = (files("latent_assets") / "profiles" / "folder.toml").read_text(encoding="utf-8")
    root = folder / "root"
    profile.write_text(text.replace('name = "folder"', f'name = "photographs"\nroot = "{root}"'), encoding="utf-8")
    environment = {**os.environ, "LATENT_ASSETS_HOME": str(folder / "home")}
    environment.pop("DAGSTER_HOME", None)
    command = [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(profile)]
    subprocess.run(command, check=True, env=environment, cwd=folder, stdout=sys.stderr)
    return str(root)


def cut(photograph: Image.Image, folder: Path) -> None:
    """Tiles that do not overlap, large ones of the left half, smaller ones of the right half, those with something to
    see; at 256 pixels."""
    half = photograph.width // 2
    for side, begin, end in ((320, 0, half), (200, half, photograph.width)):
        for top in range(0, photograph.height - side + 1, side):
            for left in range(begin, end - side + 1, side):
                tile = photograph.crop((left, top, left + side, top + side))
                if np.asarray(tile.convert("L")).std() >= _CONTRAST:
                    tile.resize((256, 256), Image.Resampling.LANCZOS).save(folder / f"{side}-{top}-{left}.png")


def sampled(placer: ImagePlacer, count: int, seed: int) -> list[str]:
    """Rows of the release, drawn at random."""
    ids = sorted(placer.table.search().select(["id"]).limit(None).to_arrow()["id"].to_pylist())
    picked = np.random.default_rng(seed).choice(len(ids), min(count, len(ids)), replace=False)
    return [ids[row] for row in picked]


def seconds_of_a_placement(placer: ImagePlacer, images: Sequence[Any]) -> tuple[float, float]:
    """Median and 95th percentile of placing one image whose vectors are known."""
    vectors = placer.encode(images)
    taken = []
    for image, known in zip(images, vectors, strict=True):
        started = time.perf_counter()
        placer.place(image, known)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), float(np.quantile(taken, 0.95))


def _show(text: str) -> None:
    sys.stderr.write(f"\r{text}")
    sys.stderr.flush()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", help="the root of an atlas")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs to make an atlas of instead")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if (arguments.root is None) == (arguments.photographs is None):
        parser.error("give the root of an atlas, or --photographs FOLDER")
    with TemporaryDirectory() as folder:
        root = arguments.root or photograph_atlas(arguments.photographs, Path(folder))
        measure(Storage(root), arguments.images, arguments.seed)


def measure(storage: Storage, count: int, seed: int) -> None:
    """Measure an atlas and print a table."""
    placer = ImagePlacer.open(storage)
    ids = sampled(placer, count, seed)
    images = [image for _, image in stored_images(storage, ids[:20])]
    median, high = seconds_of_a_placement(placer, images)
    scores = near_copies(placer, storage, ids, seed)
    flagged, rows = false_alarms(placer)
    print(f"\n{'':16}{'picture':>9}{'group':>9}{'verdict':>9}   of")
    scores["all"] = Score(
        *(sum(getattr(s, part) for s in scores.values()) for part in ("picture", "group", "verdict", "of"))
    )
    for name, score in scores.items():
        shares = (score.picture / score.of, score.group / score.of, score.verdict / score.of)
        print(f"{name:16}" + "".join(f"{share:9.1%}" for share in shares) + f"   {score.of}")
    print(f"{placer.info.rows} rows; near-duplicates from a correlation of {placer.calibration.alike:.4f}")
    print(f"false alarms on {rows} distinct held-out images: {flagged / max(1, rows):.1%}")
    print(f"held-out images with a near-duplicate in the atlas: {with_duplicates(placer) / max(1, rows):.1%}")
    print(f"one placement, encoder apart: median {median * 1e3:.0f} ms, 95th percentile {high * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
