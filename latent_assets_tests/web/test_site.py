"""The static site: written by `export`, served by Python's plain file server, looked at without any API."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from latent_assets.atlas.tiles.site import export_site
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.profile import Profile
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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/atlas"
    server.shutdown()
    server.server_close()


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
