"""Makes infra/pictures/viewer.png and landing.webp: a generated image lands on the demo's map, in a headless Chromium.

    .venv/bin/python infra/pictures/viewer.py [--prompt TEXT] [--seed N] [--out FOLDER]

The demo has to be built (`make demo SERVE=0`); the image goes through its inbox. Nothing is drawn but the page itself.
"""

from __future__ import annotations

import argparse
import io
import time
from itertools import pairwise
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from latent_assets.cli.serving import serving_viewer
from latent_assets_tests.web.browser import chromium

VIEW = (1280, 800)
SHOWN = (720, 450)  # of the animation
EVERY = 0.16  # seconds between frames
LANDED = 3.0  # seconds that are shown of what came out
QUALITY = 52


def ready(page: Page) -> None:
    """Wait until the map shows what it wants to show."""
    page.wait_for_function("() => window.latentAtlas?.context.map?.complete", timeout=120_000)


def look(page: Page) -> Image.Image:
    """The page as it is."""
    return Image.open(io.BytesIO(page.screenshot(type="jpeg", quality=90))).convert("RGB")


def landing(page: Page, prompt: str, seed: int) -> list[tuple[float, Image.Image]]:
    """Generate an image and look on: when, and what was seen."""
    page.fill("#prompt", prompt)
    page.click(".fine summary")
    page.fill("#seed", str(seed))
    page.click(".fine summary")
    seen = [(0.0, look(page))]
    began = time.monotonic()
    page.click(".prompt button.main")
    landed: float | None = None
    while landed is None or time.monotonic() - landed < LANDED:
        page.wait_for_timeout(EVERY * 1000)
        seen.append((time.monotonic() - began, look(page)))
        if landed is None and page.locator(".card .verdict").count():
            landed = time.monotonic()
    return seen


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a red apple")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    with serving_viewer("demo") as url, chromium() as browser:
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]}, color_scheme="dark")
        deadline = time.monotonic() + 120
        while (
            page.evaluate("(url) => fetch(url).then((answer) => answer.ok, () => false)", f"{url}api/release")
            is not True
        ):
            if time.monotonic() > deadline:
                raise SystemExit("The demo is not served: is it built?")
            page.wait_for_timeout(1_000)
            page.goto(url)
        page.goto(url)
        ready(page)
        page.wait_for_function("() => window.latentAtlas.context.release.generation")
        seen = landing(page, arguments.prompt, arguments.seed)
        ready(page)
        page.screenshot(path=arguments.out / "viewer.png")
    times = [when for when, _ in seen]
    lasts = [max(20, round((after - before) * 1000)) for before, after in pairwise(times)]
    frames = [frame.resize(SHOWN, Image.Resampling.LANCZOS) for _, frame in seen]
    file = arguments.out / "landing.webp"
    frames[0].save(
        file, save_all=True, append_images=frames[1:], duration=[*lasts, 2_000], loop=0, quality=QUALITY, method=6
    )
    print(f"{len(frames)} frames of {sum(lasts) / 1000:.1f} s: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
