"""The release that is live is followed without a restart; models are loaded once."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from latent_assets.atlas.history import note_move
from latent_assets.atlas.release import rollback
from latent_assets.atlas.table import LIVE, open_table, tags
from latent_assets.client import Atlas
from latent_assets.models import clip, vae
from latent_assets.profile import Profile
from latent_assets.service import static
from latent_assets.storage import Storage
from latent_assets_tests.conftest import Built
from latent_assets_tests.service.conftest import Running, running, until


def republish(profile: Profile) -> int:
    """Publish the same rows as another version of the table."""
    storage = Storage(profile.root)
    table = open_table(storage.lance_uri, None)
    table.checkout_latest()
    row = table.to_arrow().slice(0, 1)
    table.add(row.set_column(row.schema.get_field_index("id"), row.schema.field("id"), [["f" * 32]]))
    version = int(table.version)
    table.tags.create("release-00099", version)
    note_move(storage, "publish", version, tags(storage.lance_uri)[LIVE])
    table.tags.update(LIVE, version)
    return version


def test_another_release_is_answered_from_without_a_restart(own_profile: Profile) -> None:
    first = Atlas.open(own_profile.root).version
    with running(own_profile) as service:
        get = service.http.get
        loaded = (clip._load.cache_info().misses, vae._load.cache_info().misses)
        codes: set[int] = set()
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                answer = get("/api/search", params={"q": "a picture", "k": 70})
                codes.add(answer.status_code)
                if answer.status_code == 200:
                    count = {first: 60}.get(answer.json()["release"], 61)
                    assert len(answer.json()["results"]) == count

        asking = threading.Thread(target=ask)
        asking.start()
        held = service.service.current
        second = republish(own_profile)
        until(lambda: get("/api/release").json()["release"] == second)
        assert get(f"/api/images/{'f' * 32}").status_code == 200
        assert len(held.atlas.search_text("a picture", 70)) == 60  # who began on the old one ends on it
        assert get("/api/releases").json()["live"] == second
        rollback(Storage(own_profile.root), first)
        until(lambda: get("/api/release").json()["release"] == first)
        assert get(f"/api/images/{'f' * 32}").status_code == 404
        done.set()
        asking.join()
        assert codes == {200}
        assert (clip._load.cache_info().misses, vae._load.cache_info().misses) == loaded


def test_without_a_release_it_waits_for_one(own_profile: Profile, tmp_path: Path) -> None:
    there, away = Path(own_profile.root, "lance"), tmp_path / "lance"
    there.rename(away)
    with running(own_profile, ready=False) as service:
        until(lambda: service.http.get("/api/health").json()["status"] == "waiting for a release")
        answer = service.http.get("/api/search", params={"q": "x"})
        assert answer.status_code == 503 and "latent-assets build" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        away.rename(there)
        until(lambda: service.http.get("/api/health").json()["status"] == "ready")
        assert service.http.get("/api/search", params={"q": "x"}).status_code == 200


def test_a_release_that_cannot_be_loaded_leaves_the_old_one(
    own_profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(own_profile) as service:
        first = service.service.current.version

        def fails(self: Any) -> None:
            raise RuntimeError("a secret of the inside")

        monkeypatch.setattr("latent_assets.service.releases.OpenRelease.load", fails)
        republish(own_profile)
        until(lambda: service.http.get("/api/health").json()["problem"])
        health = service.http.get("/api/health")
        assert health.json()["release"] == first and "secret" not in health.text
        assert service.http.get("/api/search", params={"q": "x"}).json()["release"] == first


# -- files ---------------------------------------------------------------------------------------------


def test_tiles_are_served_by_ranges(built: Built, own_profile: Profile) -> None:
    version = Atlas.open(own_profile.root).version
    folder = Path(own_profile.root, "tiles", str(version))
    shutil.rmtree(folder)  # those of the build
    folder.mkdir()
    data = bytes(range(256)) * 8
    (folder / "octree.bin").write_bytes(data)
    (folder / "tiles.json").write_text("{}")
    (Path(own_profile.root) / "secret.bin").write_bytes(b"secret")
    (folder / ".hidden").write_bytes(b"hidden")
    with running(own_profile) as service:
        get = service.http.get
        address = f"/{get('/api/release').json()['tiles']}octree.bin"
        whole = get(address)
        assert whole.content == data and "immutable" in whole.headers["cache-control"]
        assert whole.headers["accept-ranges"] == "bytes" and whole.headers["content-length"] == "2048"
        for wanted, part in (("bytes=0-9", data[:10]), ("bytes=2000-", data[2000:]), ("bytes=-5", data[-5:])):
            answer = get(address, headers={"Range": wanted})
            assert answer.status_code == 206 and answer.content == part
        assert get(address, headers={"Range": "bytes=5-9999"}).headers["content-range"] == "bytes 5-2047/2048"
        past = get(address, headers={"Range": "bytes=2048-"})
        assert past.status_code == 416 and past.headers["content-range"] == "bytes */2048"
        for odd in ("bytes=9-5", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b"):
            assert get(address, headers={"Range": odd}).content == data, odd
        (folder.parent / "releases.json").write_text("[]")
        assert "immutable" not in get("/tiles/releases.json").headers["cache-control"]
        assert get(address, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        head = service.http.head(address)
        assert head.content == b"" and head.headers["content-length"] == "2048"
        for path in (
            "../secret.bin",
            "%2e%2e/secret.bin",
            f"{version}",
            f"{version}/.hidden",
            f"{version}//octree.bin",
        ):
            assert service.http.get(f"/tiles/{path}").status_code == 404, path


def test_the_viewer_is_served_with_a_strict_policy(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>the viewer</title>")
    (tmp_path / "assets" / "index-abc.js").write_text("export {}")
    monkeypatch.setattr(static, "viewer_folder", lambda: tmp_path)
    with running(built.profile, writes=False) as service:
        get = service.http.get
        page, script = get("/"), get("/assets/index-abc.js")
        assert "the viewer" in page.text and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        assert page.headers["cache-control"] == "no-cache" and "immutable" in script.headers["cache-control"]
        assert script.headers["content-type"].startswith("text/javascript")
        for path in ("/assets/../../profile.toml", "/..%2fprofile.toml", "/assets", "/.git"):
            assert get(path).status_code == 404, path


def test_without_a_viewer_the_page_says_where_the_api_is(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    if static.viewer_folder() is None:
        assert "/api/openapi.json" in served.http.get("/").text
