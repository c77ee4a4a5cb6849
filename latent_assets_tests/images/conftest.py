"""A profile over a list of links, a site to fetch them from, and a watch over what is connected to."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from PIL import Image, ImageDraw

from latent_assets.catalog.build import build_catalog
from latent_assets.images.download.http_client import Network
from latent_assets.images.shard import FetchReport, fetch_shard
from latent_assets.images.store.ledger import read_ledger
from latent_assets.profile import ClipModel, Fetch, Filters, Models, Profile, Projection, Shards, Source
from latent_assets.storage import Storage
from latent_assets_tests.images.site import Request, Site, head, serve

_NUMERIC = re.compile(r"[0-9.]+|[0-9a-f:]+|None|localhost")
_looked_up: list[str] = []
_connected: list[tuple[str, int]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _connected.append((str(arguments[1][0]), int(arguments[1][1])))
    elif event == "socket.getaddrinfo" and not _NUMERIC.fullmatch(str(arguments[0])):
        _looked_up.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def connected() -> Iterator[list[tuple[str, int]]]:
    """Every address a socket was told to connect to during a test. None may be outside of loopback."""
    _connected.clear()
    _looked_up.clear()
    yield _connected
    outside = [address for address in _connected if address[0] not in ("127.0.0.1", "::1")]
    assert not outside, f"connections were attempted to {outside}"
    assert not _looked_up, f"the system was asked for the names {_looked_up}"


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server on loopback."""
    with serve() as running:
        yield running


@pytest.fixture
def other_site() -> Iterator[Site]:
    """A second web server, of another origin."""
    with serve() as running:
        yield running


@dataclass
class World:
    """A profile and root in a temporary directory; `fetch` runs the real thing over a list of links."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    network: Network | None = None
    source: Source | None = None
    root: str = ""
    shards: dict[str, int] = field(default_factory=lambda: {"rows": 10_000})

    @property
    def storage(self) -> Storage:
        return Storage(self.profile.root)

    @property
    def profile(self) -> Profile:
        return Profile(
            name="world",
            root=self.root or str(self.folder / "root"),
            source=self.source or Source(path=str(self.folder / "links.parquet")),
            filters=Filters(require_caption=False),
            shards=Shards(**self.shards),
            fetch=Fetch(**{"robots": False, "timeout": 3.0, "size": 64, **self.settings}),
            models=Models(clip=ClipModel(config="none", weights="none")),
            projection=Projection(spaces=("clip",)),
        )

    def catalog(self, links: list[str], captions: list[str | None] | None = None) -> None:
        """Write a source with these links and build the catalog: one shard."""
        texts = captions or [f"caption of {number}" for number in range(len(links))]
        pl.DataFrame({"url": links, "text": texts}, schema={"url": pl.String, "text": pl.String}).write_parquet(
            self.folder / "links.parquet"
        )
        build_catalog(self.profile, self.storage)

    def run(self, **options: Any) -> FetchReport:
        """Fetch the shard of the catalog as it is."""
        return fetch_shard(self.profile, self.storage, "00000", network=self.network, **options)

    def killed_run(self, after: Callable[[], bool]) -> None:
        """Fetch in another process and kill it (-9) once `after()` is true."""
        script = """
import sys
from pathlib import Path
from latent_assets_tests.images.conftest import World
folder, settings, root, shards = sys.argv[1:]
World(Path(folder), eval(settings), root=root, shards=eval(shards)).run()
"""
        arguments = [str(self.folder), repr(self.settings), self.root, repr(self.shards)]
        child = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=Path.cwd())
        deadline = time.monotonic() + 30
        while not after() and time.monotonic() < deadline:
            assert child.poll() is None, "the child ended by itself"
            time.sleep(0.002)
        workers = psutil.Process(child.pid).children()
        assert workers, "images are stored by processes"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        _, orphans = psutil.wait_procs(workers, timeout=20)
        assert not orphans, "they end when the process that began them does"

    def fetch(self, *links: str, **options: Any) -> dict[str, dict[str, Any]]:
        """Build the catalog of these links, fetch, and return the ledger by URL."""
        self.catalog(list(links))
        self.run(**options)
        return self.ledger()

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The ledger's rows by URL."""
        frame = read_ledger(self.storage, "00000")
        assert frame["id"].n_unique() == frame.height
        return {row["url"]: row for row in frame.iter_rows(named=True)}

    def fetch_one(self, link: str, **options: Any) -> dict[str, Any]:
        """Fetch a single link and return its ledger row."""
        (row,) = self.fetch(link, **options).values()
        return row


@pytest.fixture
def world(tmp_path: Path, site: Site, other_site: Site) -> World:
    """A World that may fetch from both sites."""
    return World(tmp_path, {"allow_origins": (site.origin, other_site.origin)})


@pytest.fixture
def strict_world(tmp_path: Path) -> World:
    """A World without exceptions: loopback is refused."""
    return World(tmp_path)


def picture(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """An image whose left half is red, whose right half is blue, with a green square at the top left."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height), fill=(30, 30, 200))
    draw.rectangle((0, 0, width // 6, height // 4), fill=(30, 200, 30))
    return image.convert(mode)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """An image's bytes."""
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def photo(number: int) -> bytes:
    """A JPEG unlike the others."""
    return encoded(Image.new("RGB", (80, 60), (number * 7 % 256, number * 13 % 256, 99)), quality=90)


def links_to(site: Site, count: int, start: int = 0, delay: float = 0.0) -> list[str]:
    """Links to photos on `site`, which takes `delay` seconds for each."""

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        body = photo(int(request.path.strip("/.jpg")))
        await asyncio.sleep(delay)
        writer.write(head(content_length=str(len(body))) + body)

    paths = [f"/{number}.jpg" for number in range(start, start + count)]
    if not delay:
        return [site.add(path, photo(number)) for number, path in enumerate(paths, start)]
    site.pages |= dict.fromkeys(paths, slow)
    return [site.url(path) for path in paths]


JPEG = encoded(picture(), quality=95)
PNG = encoded(picture(), "PNG")

Make = Callable[..., World]
