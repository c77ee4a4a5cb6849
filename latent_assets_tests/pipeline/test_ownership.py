"""A root belongs to one source: another one does not delete what was downloaded for the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from latent_assets.catalog.shards import read_index, read_shard
from latent_assets.errors import SourceError
from latent_assets.pipeline.lineage import Lineage, Materialized
from latent_assets.pipeline.ownership import take_root
from latent_assets.profile import Profile, parse_profile
from latent_assets.storage import Storage
from latent_assets_tests.catalog.conftest import aesthetics


def profile(tmp_path: Path, source: dict[str, Any]) -> Profile:
    """A profile without a root: it shares the directory of its name."""
    values = {
        "name": "mine",
        "source": source,
        "filters": {"require_caption": False},
        "models": {"clip": {"config": "none", "weights": "none"}},
        "projection": {"spaces": ["clip"]},
    }
    return parse_profile(values, tmp_path / "mine.toml", tmp_path)


def build(chosen: Profile) -> None:
    result = Lineage(chosen).ensure(["laion_metadata"])["laion_metadata"]
    if not isinstance(result, Materialized):
        raise result


def urls(chosen: Profile) -> list[str]:
    storage = Storage(chosen.root)
    return sorted(url for key in read_index(storage) for url in read_shard(storage, key)["url"])


def everything(chosen: Profile) -> dict[str, bytes]:
    root = Path(chosen.root)
    kept = ("catalog", "latent-assets.json")
    return {str(path): path.read_bytes() for name in kept for path in (root / name).rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Profile:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"IMG_{number}.jpg").write_bytes(b"photo %d" % number)
    return profile(tmp_path, {"kind": "folder", "path": "photos"})


@pytest.fixture
def links(tmp_path: Path) -> Profile:
    aesthetics(3).write_parquet(tmp_path / "links.parquet")
    return profile(tmp_path, {"path": "links.parquet"})


def test_another_source_is_refused_and_nothing_is_touched(photos: Profile, links: Profile) -> None:
    assert photos.root == links.root
    build(photos)
    before = everything(photos)
    with pytest.raises(SourceError) as caught:
        build(links)
    message = str(caught.value)
    assert "photos" in message and "links.parquet" in message and "5 of its 5 rows would go" in message
    assert "(`root`, or another `name`)" in message and "`latent-assets build --replace-source`" in message
    assert everything(photos) == before
    build(photos)
    assert len(urls(photos)) == 5


def test_files_of_the_same_names_are_not_the_same_images(photos: Profile, tmp_path: Path) -> None:
    build(photos)
    (tmp_path / "other").mkdir()
    for number in range(5):
        (tmp_path / "other" / f"IMG_{number}.jpg").write_bytes(b"another photo %d" % number)
    with pytest.raises(SourceError, match="5 of its 5 rows would go"):
        build(profile(tmp_path, {"kind": "folder", "path": "other"}))


def test_with_consent_the_source_is_replaced(photos: Profile, links: Profile) -> None:
    build(photos)
    take_root(Storage(links.root), links)
    build(links)
    assert len(urls(links)) == 3
    with pytest.raises(SourceError, match="3 of its 3 rows would go"):
        build(photos)


def test_a_source_that_was_moved_or_has_more_replaces_nothing(photos: Profile, tmp_path: Path) -> None:
    build(photos)
    shutil.move(tmp_path / "photos", tmp_path / "pictures")  # with the files' times
    (tmp_path / "pictures" / "new.jpg").write_bytes(b"new")
    moved = profile(tmp_path, {"kind": "folder", "path": "pictures"})
    build(moved)
    assert len(urls(moved)) == 6
    assert json.loads((Path(moved.root) / "latent-assets.json").read_text())["source"]["path"].endswith("/pictures")


def test_rows_that_the_source_itself_lost_are_no_replacement(photos: Profile, tmp_path: Path) -> None:
    build(photos)
    (tmp_path / "photos" / "IMG_0.jpg").unlink()
    build(photos)
    assert len(urls(photos)) == 4


def test_a_mistyped_first_source_binds_nobody(photos: Profile, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is nothing"):
        build(profile(tmp_path, {"kind": "folder", "path": "phtoos"}))
    build(photos)
    assert len(urls(photos)) == 5


def test_a_root_from_before_owners_were_noted_is_protected_too(photos: Profile, links: Profile) -> None:
    build(photos)
    (Path(photos.root) / "latent-assets.json").unlink()
    with pytest.raises(SourceError, match=r"belongs to another source, .*photos"):
        build(links)
    build(photos)
