"""The export as 3D Tiles: sound by Khronos' own validator, and shown by a public renderer in a real browser."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_assets.atlas.export.glb import points_glb
from latent_assets.atlas.export.release import open_release
from latent_assets.atlas.export.tiles3d import export_3d_tiles
from latent_assets.client import Atlas
from latent_assets_tests.atlas.built import Built
from latent_assets_tests.atlas.test_export import ATTRIBUTION, CAPTION
from latent_assets_tests.atlas.test_export import atlas as atlas
from latent_assets_tests.node_packages import node, packages
from latent_assets_tests.web.browser import chromium

pytestmark = pytest.mark.slow
_NEEDED = "npm's packages are not installed: `python -m latent_assets_tests.node_packages`"

PAGE = """<!doctype html><script type="importmap">{"imports": {
  "three": "/node_modules/three/build/three.module.js",
  "three/examples/jsm/": "/node_modules/three/examples/jsm/",
  "three/addons/": "/node_modules/three/examples/jsm/",
  "3d-tiles-renderer": "/node_modules/3d-tiles-renderer/build/index.js",
  "3d-tiles-renderer/plugins": "/node_modules/3d-tiles-renderer/build/index.plugins.js"}}</script>
<script type="module">
import * as THREE from "three";
import { TilesRenderer } from "3d-tiles-renderer";
import * as plugins from "3d-tiles-renderer/plugins";
window.show = async (url) => {
  const renderer = new THREE.WebGLRenderer();
  renderer.setSize(400, 300);
  document.body.append(renderer.domElement);
  const tiles = new TilesRenderer(url);
  tiles.registerPlugin(new plugins.GLTFExtensionsPlugin({
    metadata: true,
    plugins: [() => new plugins.GLTFMeshFeaturesExtension(), () => new plugins.GLTFStructuralMetadataExtension()],
  }));
  const scene = new THREE.Scene();
  scene.add(tiles.group);
  const camera = new THREE.PerspectiveCamera(60, 4 / 3, 0.01, 10000);
  tiles.setCamera(camera);
  tiles.setResolutionFromRenderer(camera, renderer);
  tiles.errorTarget = 0.001;
  const failed = [];
  tiles.addEventListener("load-error", (event) => failed.push(String(event.error)));
  const sphere = new THREE.Sphere();
  let still = 0;
  for (let turn = 0; turn < 600 && still < 10; turn++) {
    if (tiles.getBoundingSphere(sphere)) {
      camera.position.copy(sphere.center).add(new THREE.Vector3(0, 0, 2.5 * sphere.radius));
      camera.lookAt(sphere.center);
    }
    camera.updateMatrixWorld();
    tiles.update();
    renderer.render(scene, camera);
    const busy = !tiles.root || tiles.stats.downloading || tiles.stats.parsing || tiles.stats.queued;
    still = busy ? 0 : still + 1;
    await new Promise((done) => setTimeout(done, 20));
  }
  const points = [];
  tiles.group.updateMatrixWorld(true);
  tiles.group.traverse((child) => {
    if (!child.isPoints) return;
    const position = child.geometry.getAttribute("position");
    const { meshFeatures, structuralMetadata } = child.userData;
    const at = new THREE.Vector3();
    for (let i = 0; i < position.count; i++) {
      at.fromBufferAttribute(position, i).applyMatrix4(child.matrixWorld);
      tiles.group.worldToLocal(at);
      const facts = structuralMetadata.getPropertyTableData([0], [i])[0];
      points.push({ place: at.toArray(), ...facts });
    }
  });
  const gl = renderer.getContext();
  const pixels = new Uint8Array(400 * 300 * 4);
  renderer.render(scene, camera);
  gl.readPixels(0, 0, 400, 300, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let lit = 0;
  for (let i = 0; i < pixels.length; i += 4) lit += pixels[i] + pixels[i + 1] + pixels[i + 2] > 30;
  return { points, lit, failed, calls: renderer.info.render.calls };
};
window.ready = true;
</script>"""

VALIDATE = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const validator = createRequire(import.meta.url)("gltf-validator");
for (const file of process.argv.slice(2)) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(file)), { maxIssues: 20 });
  console.log(JSON.stringify({ file, ...report.issues, draws: report.info }));
}
"""


@pytest.fixture(autouse=True)
def _small_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of a few points, so that sixty make a tree."""
    monkeypatch.setattr("latent_assets.atlas.tiles.octree.SAMPLE", 4)
    monkeypatch.setattr("latent_assets.atlas.tiles.octree.LEAF", 8)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    Quiet.extensions_map = {**Quiet.extensions_map, ".js": "text/javascript", ".glb": "model/gltf-binary"}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def validate(folder: Path, files: list[Path]) -> list[dict[str, Any]]:
    if not (packages() / "gltf-validator").is_dir():
        pytest.skip(_NEEDED)
    (folder / "node_modules").symlink_to(packages())
    (folder / "validate.mjs").write_text(VALIDATE)
    command = [str(node()), "validate.mjs", *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def tiles_of(tile: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tile
    for child in tile.get("children", ()):
        yield from tiles_of(child)


def test_every_tile_is_sound_and_holds_its_points(atlas: Built, tmp_path: Path) -> None:
    made = export_3d_tiles(open_release(atlas.storage, None), tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.glb"))
    assert made.rows == 60 and len(files) > 20
    for report in validate(tmp_path, files):
        assert report["numErrors"] == report["numWarnings"] == 0, report
    places = {row["id"]: row for row in Atlas.open(atlas.storage.root).to_polars().iter_rows(named=True)}
    for space in ("clip", "vae", "joint"):
        tileset = json.loads((tmp_path / "out" / space / "tileset.json").read_text())
        assert tileset["asset"]["version"] == "1.1" and tileset["asset"]["extras"]["attribution"] == ATTRIBUTION
        seen: list[str] = []
        for tile in tiles_of(tileset["root"]):
            for child in tile.get("children", ()):
                assert child["geometricError"] <= tile["geometricError"] <= tileset["geometricError"]
            low, high = bounds(tile)
            parent = [bounds(child) for child in tile.get("children", ())]
            assert all((lo >= low - 1e-2).all() and (hi <= high + 1e-2).all() for lo, hi in parent)
            if "content" not in tile:
                continue
            document, ids = read_glb(tmp_path / "out" / space / tile["content"]["uri"])
            assert document["asset"]["copyright"] == ATTRIBUTION
            for row_id in ids:
                place = np.array(places[row_id][f"xyz_{space}"])
                assert (place >= low - 1e-5).all() and (place <= high + 1e-5).all()
            seen += ids
        assert sorted(seen) == sorted(atlas.ids), "every point is in one tile"


def bounds(tile: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    box = tile["boundingVolume"]["box"]
    half = np.array([box[3], box[7], box[11]])
    return np.array(box[:3]) - half, np.array(box[:3]) + half


def read_glb(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The JSON of a file, and the ids in its property table, read as the specification says."""
    data = file.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    binary = data[20 + size + 8 :]
    (table,) = document["extensions"]["EXT_structural_metadata"]["propertyTables"]
    views = document["bufferViews"]

    def bytes_of(number: int) -> bytes:
        view = views[number]
        assert view["byteOffset"] % 8 == 0
        return binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]

    one = table["properties"]["id"]
    offsets = np.frombuffer(bytes_of(one["stringOffsets"]), "<u4")
    texts = bytes_of(one["values"])
    return document, [texts[a:b].decode() for a, b in itertools.pairwise(offsets)]


def test_a_public_renderer_shows_every_point_where_it_is(atlas: Built, tmp_path: Path) -> None:
    if not (packages() / "3d-tiles-renderer").is_dir():
        pytest.skip(_NEEDED)
    export_3d_tiles(open_release(atlas.storage, None), tmp_path / "out", "clip")
    (tmp_path / "node_modules").symlink_to(packages())
    (tmp_path / "page.html").write_text(PAGE)
    with served(tmp_path) as address, chromium() as browser:
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"{address}/page.html")
        page.wait_for_function("window.ready")
        found = page.evaluate("window.show('/out/clip/tileset.json')")
    assert found["failed"] == [] and [one for one in problems if "favicon" not in one and "404" not in one] == []
    points = {point["id"]: point for point in found["points"]}
    assert len(found["points"]) == len(points) == 60 and set(points) == set(atlas.ids)
    for row in Atlas.open(atlas.storage.root).to_polars().iter_rows(named=True):
        point = points[row["id"]]
        np.testing.assert_allclose(point["place"], row["xyz_clip"], atol=1e-3)
        assert (point["url"], point["source_url"]) == (row["url"], row["source_url"] or "")
    assert points[atlas.ids[5]]["caption"] == CAPTION
    assert found["lit"] >= 20, "points are drawn"


def test_texts_of_any_kind_are_carried(tmp_path: Path) -> None:
    texts = ["", "狐狸 🦊", "\x00", "x" * 5_000, "\ud800 alone"]
    places = np.arange(15, dtype=np.float32).reshape(5, 3) * 1e4
    colours = np.arange(15, dtype=np.uint8).reshape(5, 3)
    (tmp_path / "a.glb").write_bytes(points_glb(places, colours, {"id": texts, "none": [""] * 5}, ""))
    document, found = read_glb(tmp_path / "a.glb")
    assert found == [*texts[:4], "? alone"] and "copyright" not in document["asset"]
    (report,) = validate(tmp_path, [tmp_path / "a.glb"])
    assert report["numErrors"] == 0, report
