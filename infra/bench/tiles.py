"""What tiles cost to write, and what the viewer costs to look at them.

    .venv/bin/python infra/bench/tiles.py write [--rows N] [--thumbnail-bytes N] [--root FOLDER]
    .venv/bin/python infra/bench/tiles.py look --root FOLDER [--rounds N]
    .venv/bin/python infra/bench/tiles.py fly --root FOLDER [--minutes N]

`write`: synthetic rows in three spaces, shards of 10,000; seconds of the octrees and columns, then of the thumbnails,
bytes a point and space, peak memory; then again with the shards' thumbnails as they were. `look`: what was written,
served from loopback to a headless Chromium that renders in software; bytes and seconds until the first useful frame,
and frames of the same view, against plain THREE.Points of all points in the same browser. `fly`: a scripted flight
through the map, changing spaces on the way; memory of the page (its JavaScript heap and buffers after a collection, and
what its processes hold) by the minute.
"""

from __future__ import annotations

import argparse
import http.server
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.tiles.read import Tiles, problem_of_points
from latent_assets.atlas.tiles.rows import Codes, TileRows
from latent_assets.atlas.tiles.write import list_releases, write_tiles
from latent_assets.layout import TILES
from latent_assets.storage import Storage
from latent_assets.web.building import viewer_folder
from latent_assets_tests.web.browser import chromium

SPACES = ("clip", "vae", "joint")
SHARD = 10_000
CLUSTERS = 400
VIEW = (1280, 720)
_TURN = 30  # seconds between two looks at the memory


def rows_of(count: int) -> TileRows:
    """Clusters of unequal size and width, the same rows in every space elsewhere."""
    draw = np.random.default_rng(5)
    weights = draw.pareto(1.2, CLUSTERS) + 0.05
    member = draw.choice(CLUSTERS, count, p=weights / weights.sum())
    places = {}
    for space in SPACES:
        middles, widths = draw.normal(0, 6, (CLUSTERS, 3)), draw.gamma(2.0, 0.35, CLUSTERS)
        spread = draw.standard_normal((count, 3), np.float32) * widths[member, None].astype(np.float32)
        places[space] = middles[member].astype(np.float32) + spread
    shards = [(f"{first // SHARD:05d}", min(SHARD, count - first)) for first in range(0, count, SHARD)]
    category = member % 20 + 1
    return TileRows(
        draw.integers(0, 256, (count, 16), np.uint8),
        places,
        {"aesthetic": draw.normal(6.7, 0.2, count)},
        {
            "category": Codes(category, [(f"kind {n:02d}", int((category == n + 1).sum())) for n in range(20)]),
            "shard": Codes(np.repeat(np.arange(len(shards)) + 1, [rows for _, rows in shards]), shards),
        },
        shards,
    )


def release_of(rows: int) -> ReleaseInfo:
    """As little of a card as the tiles say of it."""
    values: dict[str, Any] = {"dims": {}, "metrics": {}, "models": {}, "umap": {}, "quality": {}, "features": {}}
    return ReleaseInfo(
        profile="bench", title="Synthetic", attribution="", created="2026-01-01T00:00:00+00:00", fingerprint="",
        projection="", rows=rows, shards={}, spaces=SPACES, backend="", device="", feature_recall={}, **values,
    )  # fmt: skip


def peak() -> float:
    """Gigabytes of memory at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def write(arguments: argparse.Namespace) -> None:
    """Write a set, and once more with other places."""
    storage = Storage(arguments.root or tempfile.mkdtemp(prefix="tiles-"))
    rows = rows_of(arguments.rows)
    picture = thumbnail(arguments.thumbnail_bytes)
    versions = {shard: "1" for shard, _ in rows.shards}
    print(f"{len(rows):,} rows, {len(rows.shards)} shards; {peak():.1f} GB before")
    without = TileRows(rows.ids, rows.places, rows.numbers, rows.codes, [])
    for name, what in (("octrees and columns", without), ("all with thumbnails", rows), ("thumbnails reused", rows)):
        started, cpu = time.perf_counter(), time.process_time()
        made = write_tiles(storage, "1", release_of(len(rows)), what, lambda first, count: [picture] * count, versions)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"{name}: {seconds:.1f} s ({cpu:.1f} CPU s), {made.written} packs written, {made.reused} reused; "
              f"peak {peak():.1f} GB")  # fmt: skip
    list_releases(storage, ["1"])
    files = [(file.name, file.size) for file in storage.files(TILES)]
    points = sum(size for name, size in files if name.endswith(("points.bin", "nodes.bin")))
    print(f"{points / len(rows) / len(SPACES):.2f} bytes a point and space, {sum(made.nodes.values())} nodes; in all "
          f"{sum(size for _, size in files) / 1e6:.0f} MB below {storage.root}")  # fmt: skip
    started = time.perf_counter()
    print(f"read back: {problem_of_points(Tiles.open(storage, '1')) or 'every row once'}, "
          f"{time.perf_counter() - started:.1f} s")  # fmt: skip


def thumbnail(size: int) -> bytes:
    """A WebP of 96 px, filled up to `size` bytes (readers stop where the image ends)."""
    import io

    from PIL import Image

    file = io.BytesIO()
    noise = np.random.default_rng(2).integers(0, 255, (12, 12, 3), np.uint8)
    Image.fromarray(noise).resize((96, 96)).save(file, "WEBP", quality=70)
    return file.getvalue().ljust(size, b"\0")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Static files with ranges, and a count of the bytes that were sent."""

    protocol_version = "HTTP/1.1"
    sent = 0
    naive = b""

    def translate_path(self, path: str) -> str:
        """Tiles from the root, the viewer for all else."""
        name = path.partition("?")[0].lstrip("/")
        if name.startswith("naive/"):
            return str(viewer_folder().parent / "node_modules" / "three" / "build" / name.removeprefix("naive/"))
        root = self.server.root if name.startswith(TILES) else viewer_folder()  # type: ignore[attr-defined]
        return str(Path(root) / (name or "index.html"))

    def do_GET(self) -> None:
        """A file, or the range of it that is asked for."""
        file = Path(self.translate_path(self.path))
        naive = self.path == "/naive/index.html"
        if not naive and not file.is_file():
            self.send_error(404)
            return
        data, status, headers = self.naive if naive else file.read_bytes(), 200, {}
        if (wanted := self.headers.get("range")) and wanted.startswith("bytes="):
            first, _, last = wanted[6:].partition("-")
            size = len(data)
            data, status = data[int(first) : int(last or size - 1) + 1], 206
            headers = {"Content-Range": f"bytes {first}-{int(first) + len(data) - 1}/{size}"}
        self.send_response(status)
        for name, value in {
            "Content-Type": self.guess_type(str(file)), "Content-Length": str(len(data)), **headers,
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        Handler.sent += len(data)
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(root: str) -> Iterator[str]:
    """The viewer over a root, on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.root = root  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


# plain THREE.Points of every point of the first space, in a canvas of the same size seen from the same place
_NAIVE = """<!doctype html><canvas width="%d" height="%d"></canvas><script type="module">
import * as THREE from "./three.module.js";
const canvas = document.querySelector("canvas");
const renderer = new THREE.WebGLRenderer({ canvas });
renderer.setSize(canvas.width, canvas.height, false);
const data = new DataView(await (await fetch("/tiles/1/clip/points.bin")).arrayBuffer());
const rows = data.byteLength / 12;
const places = new Float32Array(rows * 3);
for (let row = 0; row < rows; row++)
  for (let axis = 0; axis < 3; axis++) places[row * 3 + axis] = data.getUint16(row * 12 + axis * 2, true) / 32767.5 - 1;
const geometry = new THREE.BufferGeometry().setAttribute("position", new THREE.BufferAttribute(places, 3));
const points = new THREE.Points(geometry, new THREE.PointsMaterial({ size: 2, sizeAttenuation: false }));
points.frustumCulled = false;
const scene = new THREE.Scene().add(points);
window.frames_of = (count, { target, radius, theta, phi }) => {
  const camera = new THREE.PerspectiveCamera(50, canvas.width / canvas.height, 0.005, 40);
  const gl = renderer.getContext();
  const pixel = new Uint8Array(4);
  const times = [];
  for (let at = 0; at < count; at++) {
    const began = performance.now();
    camera.position.setFromSphericalCoords(radius, phi, theta - 0.02 * at).add(new THREE.Vector3(...target));
    camera.lookAt(...target);
    renderer.render(scene, camera);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    times.push(performance.now() - began);
  }
  return times;
};
</script>"""

_FRAMES = """async (count) => {
    const { map } = latentAtlas.context;
    const gl = map.renderer.getContext();
    const pixel = new Uint8Array(4);
    const times = [];
    for (let at = 0; at < count; at++) {
        map.controls.orbit(0.02, 0);
        const began = performance.now();
        map.current.update(map.controls.camera, map.canvas.clientHeight, map.budget);
        map.renderer.render(map.scene, map.controls.camera);
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel); // wait until it is drawn
        times.push(performance.now() - began);
    }
    return times;
}"""


def look(arguments: argparse.Namespace) -> None:
    """Frame times of the viewer and of plain points."""
    with serving(arguments.root) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        started = time.perf_counter()
        page.goto(url)
        page.wait_for_function("() => window.latentAtlas?.context.map?.shownPoints > 0")
        first, sent = time.perf_counter() - started, Handler.sent
        page.wait_for_function("() => latentAtlas.context.map.complete", timeout=120_000)
        shown, budget = page.evaluate("() => [latentAtlas.context.map.shownPoints, latentAtlas.context.map.budget]")
        print(f"first frame with points after {first:.2f} s and {sent / 1e6:.2f} MB; {shown:,} points shown of "
              f"{page.evaluate('() => latentAtlas.context.tiles.info.rows'):,}, budget {budget:,}")  # fmt: skip
        view = page.evaluate("() => latentAtlas.store.state.camera")
        size = page.evaluate("() => [latentAtlas.context.map.canvas.width, latentAtlas.context.map.canvas.height]")
        other = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        Handler.naive = (_NAIVE % tuple(size)).encode()
        other.goto(f"{url}naive/index.html")
        other.wait_for_function("() => window.frames_of", timeout=120_000)
        ours: list[float] = []
        naive: list[float] = []
        for _ in range(arguments.rounds):  # by turns: other work on the machine meets both
            page.bring_to_front()
            ours += page.evaluate(_FRAMES, 4)
            other.bring_to_front()
            naive += other.evaluate("([count, view]) => frames_of(count, view)", [4, view])
        for name, of in (("median", statistics.median), ("least", min)):
            one, plain = of(ours), of(naive)
            print(f"{name} frame {one:.0f} ms, plain points {plain:.0f} ms: {one / plain:.2f} of them")


# fly from one dense place to another, by turns near and far, for some seconds
_FLY = """async ([seconds, seed]) => {
    const { context } = latentAtlas;
    const { map } = context;
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const until = performance.now() + seconds * 1000;
    let state = seed;
    const draw = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
    while (performance.now() < until) {
        const { nodes } = map.current.tiles;
        const node = nodes[Math.floor(draw() * nodes.length)];
        map.controls.flyTo(node.middle, 0.05 + draw() * draw() * 2, 1.2);
        await wait(1500);
        for (let at = 0; at < 8; at++) { map.controls.orbit(0.15, 0); await wait(60); }
    }
}"""


def fly(arguments: argparse.Namespace) -> None:
    """Memory of the page while it flies."""
    import psutil

    def held(browser: int) -> float:
        """Megabytes of the page's own process: the renderer that holds most."""
        sizes = []
        for each in psutil.Process(browser).children(recursive=True):
            with suppress(psutil.Error):
                if "--type=renderer" in " ".join(each.cmdline()):
                    sizes.append(each.memory_full_info().uss / 1e6)
        return max(sizes, default=0.0)

    flags = ("--js-flags=--expose-gc", "--enable-precise-memory-info")
    with serving(arguments.root) as url, chromium(*flags) as browser:
        own = next(child.pid for child in psutil.Process().children(recursive=True) if "chrom" in child.name().lower())
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.goto(url)
        page.wait_for_function("() => window.latentAtlas?.context.map?.shownPoints > 0", timeout=120_000)
        session = page.context.new_cdp_session(page)
        turns = max(1, round(arguments.minutes * 60 / _TURN))
        for turn in range(turns):
            page.evaluate("(space) => latentAtlas.store.set({ space })", SPACES[turn // 2 % len(SPACES)])
            page.evaluate(_FLY, [_TURN, turn + 1])
            session.send("HeapProfiler.collectGarbage")
            heap = session.send("Runtime.getHeapUsage")
            used, buffers = heap["usedSize"] / 1e6, heap.get("backingStorageSize", 0) / 1e6
            shown, points, frames = page.evaluate(
                """() => { const { map } = latentAtlas.context; let points = 0;
                    for (const octree of map.octrees.values())
                        for (const { node } of octree.loaded.values()) points += node.points;
                    return [map.shownPoints, points, map.frames]; }"""
            )
            print(f"after {(turn + 1) * _TURN / 60:.1f} min: heap {used:.0f} MB and buffers {buffers:.0f} MB, process "
                  f"{held(own):.0f} MB; {points:,} points loaded, {shown:,} shown, {frames:,} frames")  # fmt: skip


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    writing = commands.add_parser("write")
    writing.add_argument("--rows", type=int, default=625_000)
    writing.add_argument("--thumbnail-bytes", type=int, default=1_600)
    writing.add_argument("--root")
    writing.set_defaults(run=write)
    looking = commands.add_parser("look")
    looking.add_argument("--root", required=True)
    looking.add_argument("--rounds", type=int, default=8)
    looking.set_defaults(run=look)
    flying = commands.add_parser("fly")
    flying.add_argument("--root", required=True)
    flying.add_argument("--minutes", type=float, default=5.0)
    flying.set_defaults(run=fly)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
