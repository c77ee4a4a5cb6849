"""Makes infra/pictures/landing.webp and viewer.png, in a headless Chromium: a generated image lands on the demo's map,
and a walk leads from one prompt to another.

    .venv/bin/python infra/pictures/viewer.py [--prompt TEXT] [--seed N] [--out FOLDER]

The demo has to be built (`make demo SERVE=0`); the image goes through its inbox. Nothing is drawn but the page itself.
"""

from __future__ import annotations

import argparse
import io
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Error, Page

from latent_assets.cli.serving import serving_viewer
from latent_assets_tests.web.browser import chromium

VIEW = (1280, 800)
SHOWN = (800, 500)  # of the animation
EVERY = 0.16  # seconds between looks while the image forms
FLIGHT, TURN = 18, 22  # frames of the way there, and of a look around
FRAME_MS = 80
QUALITY = 50


def ready(page: Page) -> None:
    """Wait until the map shows what it wants to show."""
    page.wait_for_function("() => window.latentAtlas?.context.map?.complete", timeout=120_000)


def wait_for(page: Page, address: str) -> None:
    """Wait until the service answers from a release."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        with suppress(Error):
            if page.request.get(address).ok:
                return
        page.wait_for_timeout(1_000)
    raise SystemExit("The demo is not served: is it built?")


def look(page: Page) -> Image.Image:
    """The page as it is."""
    return Image.open(io.BytesIO(page.screenshot(type="jpeg", quality=90))).convert("RGB")


def forming(page: Page, prompt: str, seed: int) -> list[tuple[int, Image.Image]]:
    """Generate an image and look on until it has landed: pictures, and for how many milliseconds each is shown."""
    page.fill("#prompt", prompt)
    page.click(".fine summary")
    page.fill("#seed", str(seed))
    page.click(".fine summary")
    seen = [(time.monotonic(), look(page))]
    page.click(".prompt button.main")
    while not page.locator(".card .verdict").count():
        page.wait_for_timeout(EVERY * 1000)
        seen.append((time.monotonic(), look(page)))
    times = [when for when, _ in seen]
    lasts = [max(FRAME_MS, round((after - before) * 1000)) for before, after in pairwise(times)]
    return [(last, picture) for last, (_, picture) in zip(lasts, seen, strict=False)]


# a flight frame by frame, however fast this machine draws
_VIEW = """([from, to, share, turn]) => new Promise((resolve) => {
    const eased = share * share * (3 - 2 * share);
    const between = (one, other) => one + (other - one) * eased;
    latentAtlas.context.map.controls.view = {
        target: from.target.map((value, axis) => between(value, to.target[axis])),
        radius: Math.exp(between(Math.log(from.radius), Math.log(to.radius))),
        theta: between(from.theta, to.theta) + turn,
        phi: between(from.phi, to.phi),
    };
    requestAnimationFrame(() => requestAnimationFrame(resolve));
})"""


def flight(page: Page, start: Any) -> list[tuple[int, Image.Image]]:
    """From the first view to where the page flew to, then a look around."""
    end = page.evaluate("() => latentAtlas.store.state.camera")
    seen = []
    for at in range(FLIGHT):
        page.evaluate(_VIEW, [start, end, (at + 1) / FLIGHT, 0])
        seen.append((FRAME_MS, look(page)))
    for at in range(TURN):
        page.evaluate(_VIEW, [start, end, 1, 0.012 * (at + 1)])
        seen.append((FRAME_MS, look(page)))
    page.evaluate(_VIEW, [start, end, 1, 0])
    return seen


def walk(page: Page, start: str, end: str) -> None:
    """Walk between two prompts, and stop in the middle."""
    page.evaluate("() => latentAtlas.store.set({ made: [] })")
    page.click("#walk > summary")
    page.fill("#walk-start", start)
    page.fill("#walk-end", end)
    page.click("#walk-go")
    page.wait_for_function("() => latentAtlas.store.state.walk?.done", timeout=300_000)
    page.click("#walk-play")
    page.locator("#walk-frame").fill("4")
    page.locator("canvas.map").focus()
    ready(page)


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a red apple")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    with serving_viewer("demo") as url, chromium() as browser:
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]}, color_scheme="dark")
        wait_for(page, f"{url}api/release")
        page.goto(url)
        ready(page)
        start = page.evaluate("() => latentAtlas.store.state.camera")
        seen = forming(page, arguments.prompt, arguments.seed)
        ready(page)
        seen += flight(page, start)
        walk(page, arguments.prompt, "a sad face")
        page.screenshot(path=arguments.out / "viewer.png")
    frames = [picture.resize(SHOWN, Image.Resampling.LANCZOS) for _, picture in seen]
    lasts = [*(last for last, _ in seen[:-1]), 2_000]
    file = arguments.out / "landing.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=lasts, loop=0, quality=QUALITY, method=6)
    print(f"{len(frames)} frames of {sum(lasts) / 1000:.1f} s: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
