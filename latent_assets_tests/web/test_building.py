"""Building the viewer: only when its sources changed, with the lock's packages, and in words when it cannot be done."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from latent_assets.web.building import ViewerError, build_viewer, is_current, source_digest, viewer_folder

WEB = viewer_folder().parent


def copy(folder: Path) -> Path:
    """The sources without what was made of them."""
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "__pycache__"))
    return folder


def test_what_is_served_was_built_from_these_sources() -> None:
    assert is_current(WEB), "run `make viewer`"


def test_a_change_of_any_source_is_built_again(tmp_path: Path) -> None:
    web = copy(tmp_path / "web")
    before = source_digest(web)
    (web / "dist").mkdir()
    (web / "dist" / "built-from.txt").write_text(before)
    assert is_current(web) and not build_viewer(web)
    (web / "src" / "text.ts").write_text("// another")
    assert source_digest(web) != before and not is_current(web)


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    web = copy(tmp_path / "web")
    lock = json.loads((web / "package-lock.json").read_text())
    lock["packages"].pop("node_modules/three")
    (web / "package-lock.json").write_text(json.dumps(lock))
    with pytest.raises(ViewerError, match="npm ci"):
        build_viewer(web)
    assert not is_current(web)


def test_the_lock_names_every_package_and_no_address() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_the_page_is_small_and_brings_everything_along() -> None:
    files = {path: path.read_bytes() for path in (WEB / "dist").rglob("*") if path.is_file()}
    scripts = [data for path, data in files.items() if path.suffix in (".js", ".css", ".html")]
    assert sum(len(gzip.compress(data, 9)) for data in scripts) < 300_000
    page = next(data.decode() for path, data in files.items() if path.name == "index.html")
    assert not re.findall(r"(?:src|href)=\"(?!\./)", page)
    assert "<script>" not in page and "style=" not in page
