"""The static site: written by `export`, served by Python's plain file server, looked at without any API."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from typer.testing import CliRunner

from latent_assets.atlas.tiles.read import Tiles, problem_of_points
from latent_assets.atlas.tiles.rows import Codes, TileRows
from latent_assets.atlas.tiles.site import export_site
from latent_assets.atlas.tiles.write import list_releases, write_tiles
from latent_assets.cli.app import app
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.profile import Profile, profile_toml
from latent_assets.storage import Storage
from latent_assets.web.building import viewer_folder
from latent_assets_tests.web.conftest import ROWS, Open

pytestmark = pytest.mark.slow


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, whole: it knows no ranges."""

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def site(emoji: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an exported site, which has files below a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    made = export_site(Storage(emoji.root), folder / "atlas", viewer_folder())
    assert made.files == sum(path.is_file() for path in (folder / "atlas").rglob("*"))
    with serving(folder) as url:
        yield f"{url}/atlas"


def test_a_site_shows_the_map_and_its_images(visit: Open, site: str, emoji: Profile) -> None:
    seen = visit(url=site, clean=False)
    page = seen.page
    expect(page.locator("#summary")).to_contain_text(f"{ROWS} of {ROWS} images shown")
    expect(page.locator(".yours")).to_contain_text("without its server")
    assert page.locator("#prompt").count() == 0
    expect(page.locator("#search")).to_be_hidden()
    known = Atlas.open(emoji.root)
    row = known.row(known.to_polars(["id"], limit=300)["id"][299])
    again = visit(f"#image={row.id}", url=site, clean=False)
    panel = again.page.locator("#image-panel")
    expect(panel.get_by_role("heading", level=2)).to_have_text(row.caption or "")
    expect(panel.locator("#source-link")).to_have_attribute("href", row.source_url or "")
    expect(panel).to_contain_text("CC BY-SA 4.0")
    wide = panel.locator("img.large").evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    assert wide > 30
    again.page.keyboard.press("2")
    again.ready()
    assert again.page.evaluate("() => window.latentAtlas.store.state.space") == "vae"
    again.page.wait_for_function("() => window.latentAtlas.context.map.imagesShown > 0")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A folder on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def synthetic(folder: Path, count: int, emoji: Profile) -> Tiles:
    """A site over `count` rows in a line."""
    shutil.copytree(viewer_folder(), folder, dirs_exist_ok=True)
    draw = np.random.default_rng(1)
    rows = TileRows(
        draw.integers(0, 256, (count, 16), np.uint8),
        {"clip": np.arange(count * 3, dtype=np.float32).reshape(-1, 3)},
        {},
        {
            "category": Codes(np.zeros(count, np.int64), []),
            "shard": Codes(np.ones(count, np.int64), [("00000", count)]),
        },
        [("00000", count)] if count else [],
    )
    storage = Storage(str(folder))
    version = Atlas.open(emoji.root).version
    picture = next(file for file in Tiles.open(Storage(emoji.root), str(version)).sprites() if file)
    info = Atlas.open(emoji.root).info
    write_tiles(storage, "1", info, rows, lambda first, number: [picture] * number, {"00000": "1"})
    list_releases(storage, ["1"])
    return Tiles.open(storage, "1")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_atlas_of_no_and_of_one_image(visit: Open, tmp_path: Path, emoji: Profile, count: int) -> None:
    tiles = synthetic(tmp_path / "site", count, emoji)
    with serving(tmp_path / "site") as url:
        seen = visit(url=url, clean=False, wait=count > 0)
        page = seen.page
        if count == 0:
            expect(page.get_by_text("This atlas has no images.")).to_be_visible()
        else:
            page.wait_for_function("(count) => window.latentAtlas.context.map.imagesShown === count", arg=count)
            box = page.locator("canvas.map").bounding_box()
            assert box
            if count == 1:
                page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                page.wait_for_function(
                    "(id) => window.latentAtlas.store.state.selected === id", arg=tiles.ids[0].tobytes().hex()
                )
        assert not [error for error in seen.errors if "Error" in error and "404" not in error]
        page.close()


def test_a_thumbnail_of_another_image_is_not_shown(visit: Open, tmp_path: Path, emoji: Profile) -> None:
    tiles = synthetic(tmp_path / "site", 2, emoji)
    (pack,) = (tmp_path / "site" / "tiles" / "sprites").iterdir()
    data = bytearray(pack.read_bytes())
    at = 16 + 4 * 3
    assert data[at : at + 16] == tiles.ids[0].tobytes()
    data[at] ^= 1
    pack.write_bytes(bytes(data))
    with serving(tmp_path / "site") as url:
        page = visit(url=url, clean=False).page
        page.wait_for_function("() => window.latentAtlas.context.map.imagesShown === 1")
        page.wait_for_timeout(1_500)
        assert page.evaluate("() => window.latentAtlas.context.map.imagesShown") == 1
        shown = page.evaluate("() => [...window.latentAtlas.context.map.images.slots.keys()]")
        assert shown == [1]
        page.close()


def test_the_command_writes_a_site(emoji: Profile, tmp_path: Path) -> None:
    file = tmp_path / "emoji.toml"
    file.write_text(profile_toml(emoji), encoding="utf-8")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "site"), "-p", str(file)])
    assert done.exit_code == 0, done.output
    assert "Release 2 as a site" in done.output
    assert (tmp_path / "site" / "index.html").is_file()
    assert problem_of_points(Tiles.open(Storage(str(tmp_path / "site")), "2")) == ""


def test_what_cannot_be_exported_is_said(emoji: Profile, tmp_path: Path) -> None:
    storage = Storage(emoji.root)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        export_site(storage, tmp_path / "used", viewer_folder())
    with pytest.raises(NotBuiltError, match="release 77"):
        export_site(storage, tmp_path / "new", viewer_folder(), "77")
    with pytest.raises(NotBuiltError, match="make viewer"):
        export_site(storage, tmp_path / "new", tmp_path / "nothing")
    with pytest.raises(NotBuiltError, match="latent-assets build"):
        export_site(Storage(str(tmp_path / "empty")), tmp_path / "new", viewer_folder())
    assert not (tmp_path / "new").exists()
