"""An atlas of 400 emoji with the demo's models, a service over it, and a browser that looks at it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile, load_profile
from latent_assets_tests.service.conftest import Running, running
from latent_assets_tests.web.browser import chromium

ROWS = 400
READY = "() => window.latentAtlas?.context.map?.complete"


@pytest.fixture(scope="session")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The demo's profile over 400 of its images, built. Do not change it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{free.getsockname()[1]}"
    demo = load_profile("demo")
    profile = demo.model_copy(
        update={
            "root": str(tmp_path_factory.mktemp("emoji") / "root"),
            "source": demo.source.model_copy(update={"origin": origin}),
            "filters": demo.filters.model_copy(update={"sample": ROWS, "seed": 3}),
            "shards": demo.shards.model_copy(update={"rows": 150}),
            "fetch": demo.fetch.model_copy(update={"allow_origins": (origin,)}),
            "projection": demo.projection.model_copy(update={"n_neighbors": 12, "n_epochs": 60}),
        }
    )
    with ThreadPoolExecutor(1) as thread:  # Playwright has an event loop in this one
        thread.submit(build, profile).result()
    return profile


def build(profile: Profile) -> None:
    """Build what is due of a profile, stage by stage."""
    lineage = Lineage(profile)
    for stages in lineage.batches():
        for key in lineage.keys(stages[0]):
            for stage, made in lineage.ensure(stages, key).items():
                assert not isinstance(made, Exception), (stage, key, made)


@pytest.fixture(scope="session")
def atlas(emoji: Profile) -> Iterator[Running]:
    """A service over the emoji that keeps nothing; for all tests that only read."""
    with running(emoji, writes=False, generation=True) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests, as its event loop is in the way of others; each test has its own context."""
    with chromium() as found:
        yield found


@dataclass
class Visit:
    """A page and what went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ready(self) -> None:
        """Wait until the map shows what it wants to show."""
        self.page.wait_for_function(READY, timeout=60_000)

    def settled(self) -> None:
        """Wait until the address follows the view."""
        self.ready()
        self.page.wait_for_timeout(400)


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, atlas: Running) -> Iterator[Open]:
    """Open the viewer; its errors and requests are kept. At the end: no errors, and nothing asked of other machines."""
    opened: list[tuple[Visit, bool]] = []

    def open_page(
        path: str = "", *, url: str = "", width: int = 1280, height: int = 800, wait: bool = True, clean: bool = True,
        script: str = "", **options: object,
    ) -> Visit:  # fmt: skip
        context = browser.new_context(viewport={"width": width, "height": height}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(30_000)
        page = context.new_page()
        found = Visit(page)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: found.requests.append(asked.url))
        opened.append((found, clean))
        if script:
            page.add_init_script(script)
        page.goto(f"{url or atlas.url}/{path}")
        if wait:
            found.ready()
        return found

    yield open_page
    for found, clean in opened:
        found.page.context.close()
        outside = [url for url in found.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
        assert not outside, "no request leaves the machine"
        assert not clean or not found.errors


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A drawing as a file: a yellow disc on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 108, 108), fill=(252, 211, 60), outline="black", width=5)
    image.save(tmp_path / "disc.png")
    return tmp_path / "disc.png"
