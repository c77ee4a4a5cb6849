"""Downloading against img2dataset 1.47: same machine, same server, same images, same outputs, one run.

    python infra/bench/fetch.py --images 5000                       all four cases
    python infra/bench/fetch.py --images 1000 --cases resized,raw   some of them
    python infra/bench/fetch.py --rounds 3                          each case three times; the medians are printed
    python infra/bench/fetch.py --against ../before                 against another checkout of this project

Cases: `resized` (shortest side to 512, JPEG 92), `raw` (stored as they come), `tls` (resized, over HTTPS) and `slow`
(resized; 1 of the 100 servers never answers). img2dataset gets an environment of its own (Python 3.11, pandas < 3),
made by this script with uv. Both are run once before anything is measured, so that neither compiles its modules then
(they would in every process and run where PYTHONDONTWRITEBYTECODE is set). The two take turns at going first: the first
to use memory that a virtual machine has not touched pays for it. Images/s, CPU seconds an image and peak memory (sum
of the processes' private memory) are those of the downloader alone, from its start to its end; the server is one
process beside it, and the catalog is built before.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent_assets.profile import Profile

CASES = ("resized", "raw", "tls", "slow")
HOSTS = 100
DISTINCT = 50
TIMEOUT = 10
HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Figures:
    """What one downloader did in one case."""

    images: int
    seconds: float
    cpu: float
    memory: float

    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def median(figures: list[Figures]) -> Figures:
    """The median of each figure."""
    images, seconds, cpu, memory = (
        statistics.median(getattr(f, name) for f in figures) for name in ("images", "seconds", "cpu", "memory")
    )
    return Figures(round(images), seconds, cpu, memory)


def photo(seed: int) -> bytes:
    """A JPEG of 1024x768 with detail at every scale, about as large as a photograph of that size."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    total = np.zeros((768, 1024, 3))
    for step in (8, 32, 128, 512, 1024):
        coarse = generator.normal(size=(768 * step // 1024, step, 3)).astype(np.float32)
        layers = [np.asarray(Image.fromarray(coarse[..., band]).resize((1024, 768))) for band in range(3)]
        total += np.stack(layers, -1) * (512 / step) ** 0.7
    scaled = (total - total.mean()) / total.std() * 48 + 128
    target = io.BytesIO()
    Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).save(target, "JPEG", quality=85)
    return target.getvalue()


# -- the server ----------------------------------------------------------------------------------------


def serve(ports_file: Path, certificate: str | None, hang: bool) -> None:
    """100 servers in one process; with `hang` the last of them never answers."""
    photos = [photo(seed) for seed in range(DISTINCT)]
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        for data in photos
    ]
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    class Server(asyncio.Protocol):
        def __init__(self, silent: bool) -> None:
            self._silent = silent
            self._rest = b""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = transport

        def data_received(self, data: bytes) -> None:
            self._rest += data
            while b"\r\n\r\n" in self._rest and not self._silent:
                request, _, self._rest = self._rest.partition(b"\r\n\r\n")
                number = int(request.split(b" ", 2)[1].strip(b"/").split(b".")[0])
                self._transport.write(answers[number % DISTINCT])  # type: ignore[attr-defined]
                if b"connection: close" in request.lower():
                    self._transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(
                lambda silent=hang and number == HOSTS - 1: Server(silent),  # type: ignore[misc]
                "127.0.0.1", 0, ssl=context, backlog=512,
            )
            for number in range(HOSTS)
        ]  # fmt: skip
        ports_file.with_suffix(".new").write_text(json.dumps([s.sockets[0].getsockname()[1] for s in servers]))
        ports_file.with_suffix(".new").rename(ports_file)
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server(folder: Path, certificate: Path | None, hang: bool) -> Iterator[list[int]]:
    """The server in a process of its own; yields its ports."""
    ports = folder / "ports.json"
    ports.unlink(missing_ok=True)
    command = [sys.executable, str(HERE), "--serve", str(ports)]
    command += ["--certificate", str(certificate)] if certificate else []
    process = subprocess.Popen(command + (["--hang"] if hang else []))
    try:
        while not ports.exists():
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.05)
        yield json.loads(ports.read_text())
    finally:
        process.kill()
        process.wait()


# -- the downloaders -----------------------------------------------------------------------------------


def ours(
    folder: Path, case: str, origins: list[str], links: Path, environment: dict[str, str], script: Path = HERE
) -> Figures:
    """`fetch_shard` over the links, in a process of its own; `script` is this file in the checkout to measure."""
    settings = {
        "resize": "shortest", "size": 512, "format": "raw" if case == "raw" else "jpeg", "quality": 92,
        "robots": False, "timeout": float(TIMEOUT), "concurrency": 256, "per_host": 8, "allow_origins": origins,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps({"links": str(links), "fetch": settings}))
    environment = {**environment, "PYTHONPATH": str(script.parent.parent.parent)}
    measured([sys.executable, str(script), "--catalog", str(folder)], environment, folder / "catalog.log")
    figures = measured([sys.executable, str(script), "--fetch", str(folder)], environment, folder / "fetch.log")
    done = json.loads((folder / "report.json").read_text())
    return Figures(done["ok"], figures.seconds, figures.cpu, figures.memory)


def profile_of(folder: Path) -> Profile:
    """The profile that `ours` wrote down."""
    from latent_assets.profile import ClipModel, Fetch, Models, Profile, Projection, Shards, Source

    settings = json.loads((folder / "settings.json").read_text())
    fetch = {**settings["fetch"], "allow_origins": tuple(settings["fetch"]["allow_origins"])}
    return Profile(
        name="bench",
        root=str(folder / "root"),
        source=Source(path=settings["links"]),
        shards=Shards(rows=1_000_000),
        fetch=Fetch(**fetch),
        models=Models(clip=ClipModel(config="-", weights="-")),
        projection=Projection(spaces=("clip",)),
    )


def catalog(folder: Path) -> None:
    """What `ours` runs before it is measured."""
    from latent_assets.catalog.build import build_catalog
    from latent_assets.storage import Storage

    profile = profile_of(folder)
    build_catalog(profile, Storage(profile.root))


def fetch(folder: Path) -> None:
    """What `ours` measures."""
    from latent_assets.images.shard import fetch_shard
    from latent_assets.storage import Storage

    profile = profile_of(folder)
    report = fetch_shard(profile, Storage(profile.root), "00000")
    (folder / "report.json").write_text(json.dumps({"ok": report.ok, "reasons": report.reasons, "rate": report.rate}))


def theirs(folder: Path, case: str, links: Path, environment: dict[str, str], python: Path) -> Figures:
    """img2dataset's command line with the settings that make the same outputs."""
    command = [
        str(python.with_name("img2dataset")), "--url_list", str(links), "--input_format", "parquet", "--url_col", "url",
        "--caption_col", "text", "--output_format", "webdataset", "--output_folder", str(folder / "out"),
        "--processes_count", str(os.cpu_count() or 1), "--thread_count", "128", "--number_sample_per_shard", "1250",
        "--image_size", "512", "--resize_mode", "keep_ratio", "--resize_only_if_bigger", "True",
        "--encode_quality", "92", "--timeout", str(TIMEOUT), "--retries", "0", "--enable_wandb", "False",
        "--disable_all_reencoding", str(case == "raw"),
    ]  # fmt: skip
    figures = measured(command, environment, folder / "img2dataset.log")
    reports = [json.loads(path.read_text()) for path in (folder / "out").glob("*_stats.json")]
    return Figures(sum(r["successes"] for r in reports), figures.seconds, figures.cpu, figures.memory)


def measured(command: list[str], environment: dict[str, str], log: Path) -> Figures:
    """Run a command; seconds, CPU seconds of it and its children, and the peak of their private memory in MB."""
    import psutil

    before = psutil.Process().cpu_times()
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        peak = [0.0]
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, stop))
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - started
        stop.set()
        watcher.join()
    if code:
        raise SystemExit(f"{command[0]} failed:\n{log.read_text()[-3000:]}")
    after = psutil.Process().cpu_times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Figures(0, seconds, cpu, peak[0])


def _watch(pid: int, peak: list[float], stop: threading.Event) -> None:
    import psutil

    while not stop.wait(0.2):
        total = 0
        try:
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                total += process.memory_full_info().uss
        except psutil.Error:
            continue
        peak[0] = max(peak[0], total / 1e6)


# -- the run -------------------------------------------------------------------------------------------


def opponent(folder: Path) -> Path:
    """The Python of an environment that has img2dataset 1.47."""
    python = folder / "bin" / "python"
    if not python.exists():
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(folder)], check=True)
        wanted = ["img2dataset==1.47.0", "pandas<3", "setuptools<81"]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted], check=True)
    return python


def run_case(case: str, images: int, folder: Path, other: Path, round: int) -> tuple[Figures, Figures]:
    """Both downloaders on one case: (ours, theirs). In odd rounds theirs goes first.

    `other`: the Python that has img2dataset, or this file in another checkout.
    """
    import polars as pl
    import trustme

    scheme, certificate = "http", None
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if case == "tls":
        scheme = "https"
        authority = trustme.CA()
        certificate = folder / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        environment["SSL_CERT_FILE"] = str(folder / "authority.pem")
    with server(folder, certificate, case == "slow") as ports:
        origins = [f"{scheme}://127.0.0.1:{port}" for port in ports]
        links = folder / "links.parquet"
        pl.DataFrame(
            {
                "url": [f"{origins[number % HOSTS]}/{number}.jpg" for number in range(images)],
                "text": [f"a photograph, number {number}" for number in range(images)],
            }
        ).write_parquet(links)
        results = {}
        for name in ("theirs", "ours") if round % 2 else ("ours", "theirs"):
            work = folder / f"{case}-{name}"
            work.mkdir()
            if name == "ours" or other.suffix == ".py":
                script = HERE if name == "ours" else other
                results[name] = ours(work, case, origins, links, environment, script)
            else:
                results[name] = theirs(work, case, links, environment, other)
            shutil.rmtree(work)
    return results["ours"], results["theirs"]


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--environment", type=Path, default=HERE.parent.parent.parent / "build" / "img2dataset")
    parser.add_argument("--against", type=Path, help="a checkout to measure in img2dataset's place")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    for hidden in ("--serve", "--catalog", "--fetch", "--certificate"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--hang", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve), arguments.certificate, arguments.hang)
        return
    for step in (catalog, fetch):
        if folder := getattr(arguments, step.__name__):
            step(Path(folder))
            return
    if arguments.against:
        name, other = arguments.against.name[:13], arguments.against.resolve() / HERE.relative_to(HERE.parents[2])
    else:
        name, other = "img2dataset", opponent(arguments.environment)
    table = {}
    print(f"{'case':9}{'':14}{'images':>8}{'seconds':>9}{'images/s':>10}{'CPU ms/image':>14}{'peak MB':>9}")
    with tempfile.TemporaryDirectory(prefix="bench-fetch-") as folder:
        run_case("resized", 200, Path(folder), other, 0)
        for case in arguments.cases.split(","):
            rounds = [run_case(case, arguments.images, Path(folder), other, n) for n in range(arguments.rounds)]
            mine, others = median([pair[0] for pair in rounds]), median([pair[1] for pair in rounds])
            each = ", ".join(f"{one.rate() / two.rate():.2f}" for one, two in rounds)
            for label, f in (("latent_assets", mine), (name, others)):
                print(
                    f"{case:9}{label:14}{f.images:8}{f.seconds:9.1f}{f.rate():10.0f}{1000 * f.cpu / f.images:14.2f}"
                    f"{f.memory:9.0f}"
                )
            print(f"{'':9}{'ratio':14}{'':17}{mine.rate() / others.rate():10.2f}   ({each})", flush=True)
            table[case] = {"latent_assets": vars(mine), name: vars(others)}
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
