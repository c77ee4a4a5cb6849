"""The inbox through the default daemon: from a file dropped to its row, and many files dropped at once.

    python infra/bench/inbox.py .latent-assets/demo [--singles 20] [--files 10000] [--corrupt 50]

Works on a copy of the atlas, in a temporary home, beside a `latent-assets ui` of its own. Single files are dropped one
after the other, each when the one before is in the table; a first one, while the daemon starts, does not count. Then
`--files` are dropped at once, `--corrupt` of them cut short. Told are the
seconds until the last is in the table or in quarantine, the runs, the most memory of any one process, and what is lost
or there twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
import psutil
from PIL import Image

from latent_assets.generated import inbox
from latent_assets.generated.table import GeneratedTable
from latent_assets.storage import Storage

_LOOKS = 0.2  # seconds
_PATIENCE = 3_600.0


def picture(seed: int) -> Image.Image:
    """An image of 256 x 256 pixels that `seed` decides: a smooth ground, a form on it."""
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    x, y, width, height = (int(value) for value in rng.integers(20, 120, 4))
    ground.paste(tuple(int(value) for value in rng.integers(0, 256, 3)), (x, y, x + width, y + height))
    return ground


@dataclass
class Watched:
    """An atlas whose inbox a daemon watches."""

    storage: Storage
    home: Path
    process: psutil.Process
    most: int = field(default=0)  # bytes of memory of one process

    @property
    def runs(self) -> list[dg.DagsterRun]:
        """Those of the inbox, the newest first."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return list(instance.get_runs(dg.RunsFilter(job_name="demo__place_generated")))

    def placed(self) -> Counter[str]:
        """How often each image is in the table, by its hash."""
        table = GeneratedTable(self.storage.lance_uri).open()
        found = [] if table is None else table.search().select(["id"]).limit(None).to_arrow()["id"].to_pylist()
        return Counter(found)

    def drop(self, name: str, image: Image.Image, cut: bool = False) -> None:
        """Put a file into the inbox, whole at once."""
        aside = Path(self.storage.uri("dropping.png"))
        image.save(aside)
        if cut:
            aside.write_bytes(aside.read_bytes()[:200])
        aside.rename(Path(self.storage.uri(inbox.INBOX)) / name)

    def until(self, done: Callable[[], bool]) -> float:
        """Seconds until something is so."""
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > _PATIENCE:
                raise TimeoutError("nothing more happens")
            with suppress(psutil.Error):
                sizes = [child.memory_info().rss for child in self.process.children(recursive=True)]
                self.most = max([self.most, *sizes])
            time.sleep(_LOOKS)
        return time.monotonic() - began


@contextmanager
def watched(root: Path, folder: Path) -> Iterator[Watched]:
    """A copy of a demo's atlas, with its Dagster beside it."""
    home = folder / "home"
    shutil.copytree(root, home / "demo")
    environment = {**os.environ, "LATENT_ASSETS_HOME": str(home)}
    environment.pop("DAGSTER_HOME", None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "latent_assets.cli", "ui", "-p", "demo", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        (home / "demo" / inbox.INBOX).mkdir(parents=True, exist_ok=True)
        yield Watched(Storage(str(home / "demo")), home / "dagster" / "demo", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def singles(atlas: Watched, count: int) -> None:
    """Drop files one after the other and print how long each took to be a row."""
    seconds = []
    for seed in range(count + 1):
        before = sum(atlas.placed().values())
        atlas.drop(f"single {seed}.png", picture(seed))
        seconds.append(atlas.until(lambda before=before: sum(atlas.placed().values()) > before))  # type: ignore[misc]
        sys.stderr.write(f"\r{seed} of {count}: {seconds[-1]:.1f} s")
    seconds = seconds[1:]
    told = {"what": "file to row", "n": count, "p50_s": round(statistics.median(seconds), 1)}
    print(json.dumps({**told, "p95_s": round(float(np.quantile(seconds, 0.95)), 1), "aim_s": 25}), flush=True)


def many(atlas: Watched, count: int, corrupt: int) -> None:
    """Drop many files at once and print what became of them."""
    before, runs = atlas.placed(), len(atlas.runs)
    for number in range(count):
        atlas.drop(f"{number:05}.png", picture(100_000 + number), cut=number < corrupt)
    seconds = atlas.until(lambda: sum((atlas.placed() - before).values()) >= count - corrupt)
    atlas.until(lambda: not list(atlas.storage.files(inbox.INBOX)) and not inbox.accepted_names(atlas.storage))
    found = atlas.placed()
    told = {
        "what": f"{count} files at once",
        "seconds": round(seconds, 1),
        "runs": len(atlas.runs) - runs,
        "placed": len(found) - len(before),
        "twice": sum(number > 1 for number in found.values()),
        "lost": count - corrupt - (len(found) - len(before)),
        "in quarantine": len(inbox.quarantined(atlas.storage)),
        "most_mb": atlas.most >> 20,
    }
    print(json.dumps(told), flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the root of a demo's atlas")
    parser.add_argument("--singles", type=int, default=20)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--corrupt", type=int, default=50)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder, watched(asked.root, Path(folder)) as atlas:
        if asked.singles:
            singles(atlas, asked.singles)
        if asked.files:
            many(atlas, asked.files, asked.corrupt)


if __name__ == "__main__":
    main()
