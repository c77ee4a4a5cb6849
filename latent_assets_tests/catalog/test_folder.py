"""Folders as they are found on disks: links, loops, pipes, names of other systems, sidecars of every hand."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from latent_assets.catalog.source import list_source
from latent_assets.errors import SourceError
from latent_assets.images.files import read_file
from latent_assets.profile import Fetch
from latent_assets_tests.catalog.conftest import Collection


@pytest.fixture
def folder(collection: Collection) -> Collection:
    collection.source = {"kind": "folder"}
    collection.filters = {"require_caption": False}
    (collection.folder / "source").mkdir()
    return collection


def put(collection: Collection, name: str | bytes, content: bytes | str = b"bytes of an image") -> Path:
    path = Path(os.fsdecode(os.fsencode(collection.folder / "source") + b"/" + os.fsencode(name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(collection: Collection) -> dict[str, dict[str, Any]]:
    return {row["url"]: row for row in collection.rows().iter_rows(named=True)}


def captions(collection: Collection) -> dict[str, str | None]:
    return {name: row["caption"] for name, row in rows(collection).items()}


def content(collection: Collection, path: str) -> bytes:
    """What the fetcher reads for a row's `path`."""
    return read_file(str(collection.folder / "source"), path, Fetch())


# -- what is there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jpe", "jfif", "jif", "pjpeg", "PNG", "apng", "dib", "tiff", "avif"])
def test_images_are_known_by_any_suffix(folder: Collection, suffix: str) -> None:
    put(folder, f"a.{suffix}")
    folder.build()
    assert list(rows(folder)) == [f"a.{suffix}"]


def test_what_is_no_image_is_counted_by_extension(folder: Collection) -> None:
    for name in ("a.jpg", "a.txt", "b.txt", "c.MP4", "d/e.mp4", "README", "f.a-very-long-extension", ".DS_Store"):
        put(folder, name)
    put(folder, ".git/config")
    put(folder, "metadata.csv", "file_name,text\na.jpg,x\n")
    report = folder.build()
    assert dict(report.funnel) | {"duplicate_url": 0} == {
        "hidden": 2,
        "not_an_image (.mp4)": 2,
        "not_an_image (.txt)": 1,
        "not_an_image (no extension)": 2,
        "no_url": 0,
        "duplicate_url": 0,
    }
    assert report.rows_read == report.rows_kept + sum(count for _, count in report.funnel) == 8


def test_hundreds_of_extensions_stay_a_short_funnel(folder: Collection) -> None:
    put(folder, "a.jpg")
    for number in range(300):
        put(folder, f"a.{number:04}")
    funnel = dict(folder.build().funnel)
    assert len(funnel) < 30 and funnel["not_an_image (others)"] == 280


def test_pipes_sockets_and_devices_are_never_opened(folder: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.jpg")
    source = folder.folder / "source"
    os.mkfifo(source / "pipe.jpg")
    os.mkfifo(source / "a.txt")
    (source / "device.png").symlink_to("/dev/zero")
    monkeypatch.chdir(source)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        report = folder.build()
    assert list(rows(folder)) == ["a.jpg"] and dict(report.funnel)["pipe_socket_or_device"] == 4
    # it may become one after it was listed
    (source / "a.jpg").unlink()
    os.mkfifo(source / "a.jpg")
    with pytest.raises(Exception, match="pipe, socket or device"):
        content(folder, "a.jpg")


@pytest.mark.parametrize("kind", ["metadata", "folder", "webdataset"])
def test_a_pipe_as_the_source_is_refused(folder: Collection, kind: str) -> None:
    os.mkfifo(folder.folder / "list.csv")
    folder.source = {"kind": kind, "path": str(folder.folder / "list.csv")}
    with pytest.raises(SourceError, match="is a pipe, socket or device"):
        folder.build()


def test_links_to_directories_are_followed_once(folder: Collection, tmp_path: Path) -> None:
    put(folder, "real/a.jpg")
    source = folder.folder / "source"
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "b.jpg").write_bytes(b"b")
    (source / "loop").symlink_to(source)
    (source / "real" / "up").symlink_to("..")
    (source / "alias").symlink_to(source / "real")  # before `real` in any order
    (source / "linked").symlink_to(outside)
    (source / "linked again").symlink_to(outside)
    (outside / "back").symlink_to(source)
    (source / "nowhere").symlink_to(tmp_path / "gone")
    (source / "self.jpg").symlink_to(source / "self.jpg")
    report = folder.build()
    assert sorted(rows(folder)) == ["linked/deep/b.jpg", "real/a.jpg"]
    funnel = dict(report.funnel)
    assert funnel["link_to_a_directory_that_is_read_already"] == 5 and funnel["broken_link"] == 2


def test_a_links_target_counts_by_its_own_time(folder: Collection, tmp_path: Path) -> None:
    target = tmp_path / "picture"
    target.write_bytes(b"one")
    os.utime(target, (1_000, 1_000))
    (folder.folder / "source" / "a.jpg").symlink_to(target)
    folder.build()
    before = rows(folder)["a.jpg"]["source_hash"]
    os.utime(target, (2_000, 2_000))
    assert folder.build().changed == ("00000",)
    assert rows(folder)["a.jpg"]["source_hash"] != before
    assert content(folder, "a.jpg") == b"one"


def test_the_root_and_other_atlases_are_left_out(folder: Collection, tmp_path: Path) -> None:
    put(folder, "a.jpg")
    put(folder, "root/generated/images/x.png")
    put(folder, "other/images/y.png")
    put(folder, "other/latent-assets.json", "{}")
    assert folder.storage.root == str(tmp_path / "root")
    (tmp_path / "root").symlink_to(folder.folder / "source" / "root")  # by whatever path
    report = folder.build()
    assert list(rows(folder)) == ["a.jpg"]
    assert [note for note in report.notes if "2 directories hold an atlas" in note]
    folder.source = {"kind": "folder", "path": str(tmp_path / "root")}
    with pytest.raises(SourceError, match="is the root of the atlas itself"):
        folder.build()


# -- names ---------------------------------------------------------------------------------------------


def test_names_that_are_no_utf8_are_kept(folder: Collection) -> None:
    for number, name in enumerate([b"f\xfcr.jpg", b"f\xfdr.jpg", b"d\xff/\xe9.png", b"plain.jpg"]):
        put(folder, name, b"image %d" % number)
    put(folder, b"f\xfcr.txt", "für")
    put(folder, b"d\xff/metadata.jsonl", json.dumps({"file_name": "\ufffd.png", "text": "named with U+FFFD"}))
    report = folder.build()
    got = folder.rows().sort("path")
    assert report.rows_kept == 4 and got["id"].n_unique() == 4
    assert sorted(got["url"]) == sorted(["f\ufffdr.jpg", "f\ufffdr.jpg", "d\ufffd/\ufffd.png", "plain.jpg"])
    assert {content(folder, path) for path in got["path"]} == {b"image %d" % number for number in range(4)}
    assert set(got["caption"].drop_nulls()) == {"für", "named with U+FFFD"}
    assert folder.build().changed == ()


@pytest.mark.parametrize(
    "name", ["//etc.jpg", "a%20b.jpg", "100%.jpg", "%2f.jpg", "a[b]*?#.jpg", " .jpg", "'\".jpg", "a\nb.jpg"]
)
def test_odd_names_are_read_as_they_are(folder: Collection, name: str) -> None:
    put(folder, name, b"this one")
    put(folder, "b.jpg")
    folder.build()
    row = rows(folder)[name.lstrip("/")]
    assert content(folder, row["path"]) == b"this one"


# -- sidecars ------------------------------------------------------------------------------------------

BESIDE = [
    ("IMG.JPG", "IMG.TXT"),
    ("IMG.JPG", "img.txt"),
    ("img.jpg", "IMG.Txt"),
    ("v1.5_0.png", "v1.5_0.txt"),
    ("2023.01.05.jpg", "2023.01.05.txt"),
    ("photo.jpg", "photo.jpg.txt"),
    ("photo.JPG", "photo.jpg.txt"),
    ("7.0.jpg", "7.txt"),
    ("d.e/7.0.jpg", "d.e/7.txt"),
    ("Zo\u00eb.jpg", "Zoe\u0308.txt"),
    ("Zoe\u0308/a.jpg", "Zo\u00eb/A.txt"),
    ("I\u0307stanbul.jpg", "i\u0307stanbul.txt"),
]


@pytest.mark.parametrize(("image", "sidecar"), BESIDE)
def test_a_sidecar_belongs_to_its_image(folder: Collection, image: str, sidecar: str) -> None:
    put(folder, image)
    put(folder, sidecar, "its caption\n")
    report = folder.build()
    assert captions(folder) == {image: "its caption"}
    assert not [reason for reason, _ in report.funnel if "not_an_image" in reason]


def test_sidecars_of_others_are_not_taken(folder: Collection) -> None:
    for name in ("v1.jpg", "v1.5.jpg", "A.jpg", "a.jpg"):
        put(folder, name)
    put(folder, "v1.txt", "of v1")
    put(folder, "a.txt", "of a")
    folder.build()
    assert captions(folder) == {"v1.jpg": "of v1", "v1.5.jpg": None, "A.jpg": None, "a.jpg": "of a"}


def test_empty_sidecars_are_counted_and_lose_no_image(folder: Collection) -> None:
    for name in ("a", "b", "c"):
        put(folder, f"{name}.jpg")
    put(folder, "a.txt", "")
    put(folder, "b.json", "")
    put(folder, "c.txt", " \n")
    put(folder, "metadata.csv", "file_name,text\na.jpg,from the table\n")
    report = folder.build()
    assert captions(folder) == {"a.jpg": "from the table", "b.jpg": None, "c.jpg": None}
    assert report.notes[0].startswith("3 sidecars are empty")


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ('{"caption": "a \\ud83d b"}', "a \ufffd b"),
        (b"\xef\xbb\xbf" + b'{"caption": "marked"}', "marked"),
        ('{"caption": "utf-16"}'.encode("utf-16"), "utf-16"),
    ],
)
def test_sidecars_say_in_which_encoding_they_are(folder: Collection, data: bytes | str, caption: str) -> None:
    put(folder, "a.jpg")
    put(folder, "a.json", data)
    folder.build()
    assert captions(folder) == {"a.jpg": caption}


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.txt", "für".encode("latin-1"), "a.txt is not text in UTF-8"),
        ("a.json", b"{broken", "a.json is not valid JSON"),
        ("a.json", b"[1]", "a.json holds a list"),
        ("a.json", b"[" * 100_000, "a.json is not valid JSON"),
        ("a.cls", b"\0\0", "a.cls has zero bytes"),
    ],
)
def test_a_sidecar_that_cannot_be_read_is_named_or_left_out(
    folder: Collection, name: str, data: bytes, problem: str
) -> None:
    put(folder, "a.jpg")
    put(folder, name, data)
    with pytest.raises(SourceError) as caught:
        folder.build()
    assert problem in str(caught.value) and "`skip_bad_rows = true`" in str(caught.value)
    folder.source |= {"skip_bad_rows": True}
    report = folder.build()
    assert report.rows_kept == 1 and problem in report.notes[0]


STAMP = "A dog.\naf.utf8='n Hond.\nfr.utf8=Un chien.\npt_BR.utf8=Um cachorro.\nca@valencia=Un gos.\n"
CAPTIONS = [
    ("auto", STAMP, "A dog."),
    ("auto", "\ufeff" + STAMP, "A dog."),
    ("auto", "A dog.\nIt barks.", "A dog.\nIt barks."),
    ("auto", "A dog.\nfr=Un chien.\nand more", "A dog.\nfr=Un chien.\nand more"),
    ("auto", "E=mc2", "E=mc2"),
    ("whole", STAMP, STAMP.strip()),
    ("first_line", "\n A dog. \nIt barks.", "A dog."),
    ("key:fr", STAMP, "Un chien."),
    ("key:fr.utf8", STAMP, "Un chien."),
    ("key:ca@valencia", STAMP, "Un gos."),
    ("key:xx", STAMP, "A dog."),
]


@pytest.mark.parametrize(("part", "text", "caption"), CAPTIONS)
def test_which_part_of_a_text_is_the_caption(folder: Collection, part: str, text: str, caption: str) -> None:
    put(folder, "a.jpg")
    put(folder, "a.txt", text)
    folder.source |= {"caption": part}
    folder.build()
    assert captions(folder) == {"a.jpg": caption}


# -- tables --------------------------------------------------------------------------------------------

TABLE = [
    {"file_name": "sub\\b.jpg", "text": "with a backslash"},
    {"file_name": "./a.jpg", "text": "with a dot"},
    {"file_name": "sub/../c.JPG", "text": "by a detour"},
    {"file_name": "Zoe\u0308.jpg", "text": "decomposed"},
    {"file_name": "D.JPG", "text": "in capitals"},
    {"file_name": "gone.jpg", "text": "of nothing"},
]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet", "METADATA.CSV"])
def test_tables_name_images_in_any_way(folder: Collection, name: str) -> None:
    for image in ("a.jpg", "sub/b.jpg", "c.JPG", "Zo\u00eb.jpg", "d.jpg"):
        put(folder, image)
    frame = pl.DataFrame(TABLE)
    path = folder.folder / "source" / name
    match name.lower().rpartition(".")[2]:
        case "csv":
            frame.write_csv(path)
        case "jsonl":
            frame.write_ndjson(path)
        case _:
            frame.write_parquet(path)
    report = folder.build()
    assert captions(folder) == {
        "a.jpg": "with a dot", "sub/b.jpg": "with a backslash", "c.JPG": "by a detour", "Zo\u00eb.jpg": "decomposed",
        "d.jpg": "in capitals",
    }  # fmt: skip
    (note,) = report.notes
    assert note.startswith("1 lines of tables name no image that is here (the first: gone.jpg")


def test_a_tables_keys_and_types_may_come_late(folder: Collection) -> None:
    lines: list[dict[str, Any]] = []
    for number in range(150):
        put(folder, f"{number}.jpg")
        lines.append({"file_name": f"{number}.jpg", "text": number if number < 120 else f"number {number}"})
        if number > 101:
            lines[-1]["aesthetic"] = "5.5" if number % 2 else 5
    put(folder, "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    folder.shards = {"rows": 1_000}
    folder.build()
    got = rows(folder)
    assert (got["7.jpg"]["caption"], got["149.jpg"]["caption"]) == ("7", "number 149")
    assert (got["149.jpg"]["aesthetic"], got["148.jpg"]["aesthetic"]) == (5.5, 5.0)


def test_a_table_with_a_ragged_line_is_named_or_it_is_skipped(folder: Collection) -> None:
    for name in ("a.jpg", "b.jpg"):
        put(folder, name)
    put(folder, "metadata.csv", "file_name,text\na.jpg,one,two\nb.jpg,fine\n")
    with pytest.raises(SourceError, match=r"metadata\.csv, line 2: 3 fields where there have to be 2"):
        folder.build()
    folder.source |= {"skip_bad_rows": True}
    folder.build()
    assert captions(folder) == {"a.jpg": None, "b.jpg": "fine"}


# -- paths ---------------------------------------------------------------------------------------------

ODD = ["a [b]", "[ab]", "x*y", "x?y", "100%", "%41", "a#b", "it's", 'q"q', "a b", "~", "a::b", "{x}", "$HOME", "写真"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_that_exists_is_a_path(folder: Collection, name: str) -> None:
    put(folder, f"{name}/a.jpg", b"this one")
    put(folder, f"{name}/in [c]/b.jpg")
    put(folder, "a/c.jpg")
    put(folder, "b/c.jpg")
    put(folder, "x1y/c.jpg")
    path = folder.folder / "source" / name
    folder.source = {"kind": "folder", "path": str(path)}
    folder.build()
    assert sorted(rows(folder)) == ["a.jpg", "in [c]/b.jpg"]
    assert read_file(str(path), "a.jpg", Fetch()) == b"this one"
    folder.source = {"kind": "folder", "path": str(path / "*.jpg")}
    folder.build()
    assert sorted(rows(folder)) == ["a.jpg"]
    folder.source = {"kind": "folder", "path": f"{path}/in [[]c]/?.jpg"}
    assert [file.name for file in list_source(folder.profile, folder.storage).files] == ["in [c]/b.jpg"]


def test_patterns_are_still_patterns(folder: Collection) -> None:
    for name in ("a1/x.jpg", "a2/y.jpg", "b/z.jpg", "a1/deep/w.jpg"):
        put(folder, name)

    def matched(pattern: str) -> list[str]:
        folder.source = {"kind": "folder", "path": f"{folder.folder}/source/{pattern}"}
        return [file.name for file in list_source(folder.profile, folder.storage).files]

    assert matched("a[12]/*.jpg") == ["a1/x.jpg", "a2/y.jpg"]
    assert matched("a?/*.jpg") == ["a1/x.jpg", "a2/y.jpg"]
    assert matched("[!b]*/**/*.jpg") == ["a1/deep/w.jpg", "a1/x.jpg", "a2/y.jpg"]
    assert matched("**") == ["a1/deep/w.jpg", "a1/x.jpg", "a2/y.jpg", "b/z.jpg"]
    with pytest.raises(SourceError, match="There is nothing"):
        matched("c*/*.jpg")
