"""Directories and files that may not be read, tried by a user who may not."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute  # noqa: F401  whoever has no rights may not import it
import pytest

from latent_assets.errors import SourceError
from latent_assets_tests.catalog.conftest import Collection, aesthetics

_NOBODY = 65_534


@pytest.fixture
def collection() -> Iterator[Collection]:
    """Below a directory that every user reaches; what a test makes there belongs to one without rights."""
    top = Path(tempfile.mkdtemp(prefix="unreadable-"))
    top.chmod(0o755)
    made = Collection(top)
    (top / "source").mkdir()
    (top / "root").mkdir()
    try:
        yield made
    finally:
        for folder, _, _ in os.walk(top):
            Path(folder).chmod(0o755)
        shutil.rmtree(top)


@contextmanager
def without_rights(collection: Collection) -> Iterator[None]:
    """As a user who owns all of it, and to whom its permissions apply (they do not to root)."""
    if os.geteuid() != 0:
        yield
        return
    for path in [collection.folder, *collection.folder.rglob("*")]:
        os.chown(path, _NOBODY, _NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def urls(collection: Collection) -> list[str]:
    return sorted(collection.rows()["url"])


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
def test_rows_of_a_directory_that_cannot_be_read_stay(collection: Collection, mode: int) -> None:
    """Neither listed (0o300), nor entered (0o600: its names are known and nothing else)."""
    collection.source, collection.filters = {"kind": "folder"}, {"require_caption": False}
    source = collection.folder / "source"
    for name in ("a.jpg", "locked/b.jpg", "locked/deep/c.jpg", "locked-not/d.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    (source / "locked" / "b.txt").write_text("a caption")
    with without_rights(collection):
        first = collection.build()
        assert first.rows_kept == 4 and first.notes == ()
        (source / "locked").chmod(mode)
        (source / "a.jpg").unlink()
        report = collection.build()
        assert urls(collection) == ["locked-not/d.jpg", "locked/b.jpg", "locked/deep/c.jpg"]
        (note,) = report.notes
        assert note.startswith("1 directories cannot be read") and f"{source}/locked, Permission denied" in note
        assert report.rows_read == 3
        assert collection.build().changed == ()
        # what is removed by a list is removed all the same
        (collection.folder / "remove.csv").write_text("url\nlocked/b.jpg\n")
        collection.filters |= {"remove": (str(collection.folder / "remove.csv"),)}
        assert collection.build().rows_kept == 2
        collection.filters = {"require_caption": False}
        (source / "locked").chmod(0o700)
        (source / "locked" / "deep" / "c.jpg").unlink()
        assert collection.build().notes == () and urls(collection) == ["locked-not/d.jpg", "locked/b.jpg"]


def test_images_in_tars_of_a_directory_that_cannot_be_read_stay(collection: Collection) -> None:
    collection.source, collection.filters = {"kind": "webdataset"}, {"require_caption": False}
    source = collection.folder / "source"
    for name in ("a.tar", "locked/b.tar"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(source / name, "w") as tar:
            info = tarfile.TarInfo("1.jpg")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with without_rights(collection):
        collection.build()
        (source / "locked").chmod(0)
        collection.build()
        assert urls(collection) == ["a.tar/1.jpg", "locked/b.tar/1.jpg"]
        (source / "locked").chmod(0o700)
        (source / "a.tar").chmod(0)
        with pytest.raises(SourceError, match=r"a\.tar cannot be read \(Permission denied\)"):
            collection.build()


def test_lists_in_a_directory_that_cannot_be_read_stop_the_build(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(2))
    collection.write("locked/b.parquet", aesthetics(2, start=2))
    source = collection.folder / "source"
    with without_rights(collection):
        assert collection.build().rows_kept == 4
        (source / "locked").chmod(0)
        with pytest.raises(SourceError, match=r"source/locked cannot be read \(Permission denied\)"):
            collection.build()
        collection.source = {"path": f"{source}/*.parquet"}
        assert collection.build().rows_kept == 2


def test_a_source_that_cannot_be_read_is_named(collection: Collection) -> None:
    collection.source = {"kind": "folder"}
    (collection.folder / "source").chmod(0)
    with without_rights(collection), pytest.raises(SourceError, match=r"source cannot be read: .*Permission denied"):
        collection.build()


def test_sidecars_that_cannot_be_opened_are_named(collection: Collection) -> None:
    collection.source, collection.filters = {"kind": "folder"}, {"require_caption": False}
    for name in ("a.jpg", "a.txt"):
        (collection.folder / "source" / name).write_bytes(b"x")
    (collection.folder / "source" / "a.txt").chmod(0)
    with without_rights(collection):
        report = collection.build()
    assert report.rows_kept == 1 and "a.txt, Permission denied" in report.notes[0]
