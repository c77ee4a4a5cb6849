"""Folders and tars as sources: the same shards, the same ledger, no download."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from latent_assets.catalog.build import build_catalog
from latent_assets.catalog.shards import read_shard
from latent_assets.errors import SourceError
from latent_assets.images.store.tar import read_images
from latent_assets.layout import tar_name
from latent_assets.profile import Source
from latent_assets_tests.images.conftest import JPEG, PNG, World, encoded, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, broken files and sidecars, nested."""
    root = tmp_path / "images"
    (root / "birds" / "small").mkdir(parents=True)
    (root / ".trash").mkdir()
    (root / "a.jpg").write_bytes(JPEG)
    (root / "a.txt").write_text("a caption from a text file\n", encoding="utf-8")
    (root / "birds" / "robin.png").write_bytes(PNG)
    (root / "birds" / "robin.json").write_text(json.dumps({"caption": "a robin", "aesthetic": 6.5, "label": "robin"}))
    (root / "birds" / "small" / "wren.webp").write_bytes(encoded(picture(), "WEBP"))
    (root / "birds" / "metadata.csv").write_text("file_name,text\nsmall/wren.webp,a wren from a table\n")
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    (root / "page.png").write_bytes(b"<html>not found</html>")
    (root / "notes.md").write_text("not an image")
    (root / ".trash" / "old.jpg").write_bytes(JPEG)
    return root


def folder_world(world: World, folder: Path) -> World:
    world.source = Source(kind="folder", path=str(folder))
    return world


def build(world: World) -> dict[str, dict[str, Any]]:
    build_catalog(world.profile, world.storage)
    rows = pl.concat([read_shard(world.storage, "00000")])
    return {row["url"]: row for row in rows.iter_rows(named=True)}


def test_folder(world: World, folder: Path) -> None:
    rows = build(folder_world(world, folder))
    assert sorted(rows) == [
        "a.jpg", "birds/robin.png", "birds/small/wren.webp", "cut.jpg", "empty.jpg", "page.png",
    ]  # fmt: skip
    assert rows["a.jpg"]["caption"] == "a caption from a text file" and rows["a.jpg"]["category"] is None
    robin = rows["birds/robin.png"]
    assert (robin["caption"], robin["category"], robin["aesthetic"]) == ("a robin", "robin", 6.5)
    wren = rows["birds/small/wren.webp"]
    assert (wren["caption"], wren["category"]) == ("a wren from a table", "birds/small")
    report = world.run()
    assert report.reasons == {"ok": 3, "corrupt_image": 1, "empty_body": 1, "not_an_image": 1}
    assert len(list(read_images(world.storage, "00000"))) == 3
    assert (world.run().fetched, world.run().written) == (0, False)


def test_replaced_file_is_read_again_and_no_other(world: World, folder: Path) -> None:
    build(folder_world(world, folder))
    first = world.run()
    (folder / "cut.jpg").write_bytes(JPEG)
    os.utime(folder / "cut.jpg", (time.time() + 5, time.time() + 5))
    build(world)
    report = world.run()
    assert (report.fetched, report.ok) == (1, 4)
    assert report.version != first.version


def test_file_that_vanished_after_the_catalog(world: World, folder: Path) -> None:
    build(folder_world(world, folder))
    (folder / "a.jpg").unlink()
    world.run()
    assert world.ledger()["a.jpg"]["reason"] == "file_missing"


def test_size_limits_hold_for_files(world: World, folder: Path) -> None:
    (folder / "big.png").write_bytes(PNG + bytes(100_000))
    world.settings |= {"max_bytes": 50_000}
    build(folder_world(world, folder))
    world.run()
    assert world.ledger()["big.png"]["reason"] == "too_many_bytes"


def test_folder_without_images(world: World, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("x")
    world.source = Source(kind="folder", path=str(tmp_path / "none"))
    with pytest.raises(SourceError, match="no image below"):
        build(world)


def test_broken_sidecars_are_named(world: World, folder: Path) -> None:
    (folder / "a.json").write_text("{broken")
    with pytest.raises(SourceError, match=r"a\.json is not valid JSON"):
        build(folder_world(world, folder))
    (folder / "a.json").unlink()
    (folder / "metadata.csv").write_text("name,text\na.jpg,x\n")
    with pytest.raises(SourceError, match="file_name"):
        build(world)


# -- tars ----------------------------------------------------------------------------------------------


def write_tar(path: Path, files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars as img2dataset writes them, and one by another hand."""
    root = tmp_path / "tars"
    root.mkdir()
    for part in range(2):
        files: dict[str, bytes] = {}
        for number in range(3):
            key = f"{part:05d}{number:04d}"
            files[f"{key}.jpg"] = JPEG
            files[f"{key}.txt"] = f"caption {key}".encode()
            files[f"{key}.json"] = json.dumps(
                {
                    "url": f"https://example.com/{key}.jpg", "caption": f"caption {key}", "key": key, "width": 96,
                    "height": 64, "original_width": 900, "original_height": 600, "similarity": 0.31, "punsafe": 0.01,
                    "AESTHETIC_SCORE": 6.7, "exif": "{}", "status": "success",
                }
            ).encode()  # fmt: skip
        write_tar(root / f"{part:05d}.tar", files)
    long_name = "a/" + "very-long-directory-name/" * 6 + "sample"
    write_tar(
        root / "other.tar",
        {f"{long_name}.png": PNG, f"{long_name}.cls": b"7", "lonely.jpg": JPEG[:500], "text-only.txt": b"no image"},
        tarfile.GNU_FORMAT,
    )
    return root


def test_webdataset(world: World, tars: Path) -> None:
    world.source = Source(kind="webdataset", path=str(tars))
    rows = build(world)
    assert len(rows) == 8
    row = rows["https://example.com/000010002.jpg"]
    assert row["caption"] == "caption 000010002"
    assert (row["width"], row["height"], round(row["aesthetic"], 3)) == (900, 600, 6.7)
    (named,) = [row for url, row in rows.items() if "very-long" in url]
    assert named["category"] == "7" and named["caption"] is None
    report = world.run()
    assert report.reasons == {"ok": 7, "corrupt_image": 1}
    with tarfile.open(world.storage.uri(tar_name("00000"))) as tar:
        sidecar = json.load(tar.extractfile(f"{row['id']}.json"))  # type: ignore[arg-type]
    assert (sidecar["url"], sidecar["caption"]) == (row["url"], row["caption"])
    assert world.run().fetched == 0


def test_our_own_tars_are_a_source(world: World, tars: Path, tmp_path: Path) -> None:
    world.source = Source(kind="webdataset", path=str(tars / "0*.tar"))
    build(world)
    world.run()
    again = World(tmp_path / "again", dict(world.settings))
    again.folder.mkdir()
    again.source = Source(kind="webdataset", path=world.storage.uri("images"))
    rows = build(again)
    assert sorted(rows) == sorted(f"https://example.com/{part:05d}{n:04d}.jpg" for part in range(2) for n in range(3))
    assert again.run().ok == 6


def test_broken_tars_are_named(world: World, tars: Path) -> None:
    world.source = Source(kind="webdataset", path=str(tars))
    whole = (tars / "00001.tar").read_bytes()
    (tars / "00001.tar").write_bytes(whole[:2000])
    with pytest.raises(SourceError, match=r"00001\.tar is no whole tar"):
        build(world)
    (tars / "00001.tar").rename(tars / "00001.tar.gz")
    with pytest.raises(SourceError, match="compressed tar"):
        build(world)


def test_tar_that_changed_after_the_catalog(world: World, tars: Path) -> None:
    world.source = Source(kind="webdataset", path=str(tars / "00000.tar"))
    build(world)
    (tars / "00000.tar").write_bytes((tars / "00000.tar").read_bytes()[:1000])
    report = world.run()
    assert report.ok == 0
    assert set(report.reasons) == {"incomplete_body"}
