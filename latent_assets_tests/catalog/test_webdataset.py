"""Tars as they are found: keys with dots, members in any order, links, duplicates, what is no image."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latent_assets.errors import SourceError
from latent_assets.images.files import read_file
from latent_assets.profile import Fetch
from latent_assets_tests.catalog.conftest import Collection

Entry = tuple[str, bytes]


def write_tar(path: Path, entries: Iterable[Entry | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            tar.addfile(info, io.BytesIO(entry[1]))


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info


@pytest.fixture
def tars(collection: Collection) -> Collection:
    collection.source = {"kind": "webdataset"}
    collection.filters = {"require_caption": False}
    collection.shards = {"rows": 1_000}
    return collection


def put(collection: Collection, entries: Iterable[Entry | tarfile.TarInfo], name: str = "a.tar") -> None:
    write_tar(collection.folder / "source" / name, entries)


def rows(collection: Collection) -> dict[str, dict[str, Any]]:
    """Row by the name of its image in its tar."""
    return {row["path"].split("::")[-2]: row for row in collection.rows().iter_rows(named=True)}


def captions(collection: Collection) -> dict[str, str | None]:
    return {name: row["caption"] for name, row in rows(collection).items()}


def content(collection: Collection, name: str) -> bytes:
    """What the fetcher reads for an image."""
    return read_file(str(collection.folder / "source"), rows(collection)[name]["path"], Fetch())


def dropped(collection: Collection) -> dict[str, int]:
    return {reason: count for reason, count in collection.build().funnel if count}


# -- keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["v1.5_0.png", "v1.5_0.txt"],
        ["2023.01.05.jpg", "2023.01.05.txt"],
        ["a.b/c.d.e.JPG", "a.b/c.d.e.TXT"],
        ["./x.jpg", "x.txt"],
        ["x.webp", "./x.txt"],
        ["x.jpg", "x.jpg.txt"],
        ["d/x..jpg", "d/x..txt"],
        ["Zo\u00eb.jpg", "Zoe\u0308.txt"],
        ["Zoe\u0308.JPG", "zo\u00eb.txt"],
        ["abs/y.jpg", "/abs/y.txt"],
        ["../y.jpg", "../y.txt"],
        ["a.tar.gz.jpg", "a.tar.gz.txt"],
    ],
)
def test_a_key_ends_at_the_last_dot_before_its_extension(tars: Collection, names: list[str]) -> None:
    put(tars, [(names[0], b"an image"), (names[1], b"its caption")])
    assert not dropped(tars)
    assert captions(tars) == {names[0]: "its caption"} and content(tars, names[0]) == b"an image"


def test_keys_that_differ_behind_a_dot_are_images_of_their_own(tars: Collection) -> None:
    entries = [(f"v1.{n}.{kind}", f"{kind} {n}".encode()) for n in range(5) for kind in ("png", "txt")]
    put(tars, entries)
    assert not dropped(tars)
    assert captions(tars) == {f"v1.{n}.png": f"txt {n}" for n in range(5)}


def test_several_images_of_a_key_are_rows_with_its_caption(tars: Collection) -> None:
    put(
        tars,
        [
            ("a.jpg", b"1"), ("a.png", b"2"), ("a.txt", b"of a"), ("7.0.jpg", b"3"), ("7.1.jpg", b"4"),
            ("7.txt", b"of 7"), ("b.jpg", b"5"), ("b.seg.png", b"6"), ("b.txt", b"of b"),
        ],
    )  # fmt: skip
    assert not dropped(tars)
    assert captions(tars) == {
        "a.jpg": "of a", "a.png": "of a", "7.0.jpg": "of 7", "7.1.jpg": "of 7", "b.jpg": "of b", "b.seg.png": None,
    }  # fmt: skip
    assert [content(tars, name) for name in ("a.jpg", "a.png", "7.0.jpg")] == [b"1", b"2", b"3"]


KEYS = st.text(st.sampled_from("ab.1"), min_size=1, max_size=6).filter(
    lambda key: key.strip(".") == key and ".." not in key
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_order_of_members_loses_an_image_or_a_caption(tars: Collection, data: st.DataObject) -> None:
    """Any keys, in any order, over any format: every image is a row, with the caption of exactly its key."""
    keys = data.draw(st.lists(KEYS, min_size=1, max_size=6, unique=True))
    entries: list[Entry] = []
    expected: dict[str, tuple[bytes, str]] = {}
    for key in keys:
        caption = f"caption of {key}"
        kind = data.draw(st.sampled_from(["jpg", "PNG", "webp"]))
        image = f"image of {key}".encode() * data.draw(st.sampled_from([0, 1, 100]))
        entries += [(f"{key}.{kind}", image)]
        if data.draw(st.booleans()):
            entries += [(f"{key}.txt", caption.encode())]
        else:
            entries += [(f"{key}.json", json.dumps({"caption": caption}).encode())]
        expected[f"{key}.{kind}"] = (image, caption)
    entries += [(f"{number}.mp4", b"film") for number in range(data.draw(st.integers(0, 2)))]
    format = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
    write_tar(tars.folder / "source" / "a.tar", data.draw(st.permutations(entries)), format)
    report = tars.build()
    assert captions(tars) == {name: caption for name, (_, caption) in expected.items()}
    assert {name: content(tars, name) for name in expected} == {name: image for name, (image, _) in expected.items()}
    assert report.rows_read == len(expected) + sum(name.endswith(".mp4") for name, _ in entries)


def test_captions_behind_all_images_are_found(tars: Collection) -> None:
    """As `tar --sort=name` of one folder for each kind, or an appended tar, gives it."""
    count = 30_000
    put(tars, [(f"{n}.jpg", b"x") for n in range(count)] + [(f"{n}.txt", str(n).encode()) for n in range(count)])
    tars.shards = {"rows": 100_000}
    assert tars.build().rows_kept == count
    assert all(name == f"{caption}.jpg" for name, caption in captions(tars).items())


# -- members that are no files -------------------------------------------------------------------------


def test_links_are_images_of_their_own_name(tars: Collection) -> None:
    put(
        tars,
        [
            ("d/a.jpg", b"the image"), ("d/a.txt", b"of a"), link("b.jpg", "d/a.jpg"), ("b.txt", b"of b"),
            link("d/c.jpg", "a.jpg", tarfile.SYMTYPE), link("e.jpg", "d/c.jpg", tarfile.SYMTYPE),
            link("e.txt", "b.txt"), link("gone.jpg", "nowhere.jpg"), link("x.jpg", "y.jpg", tarfile.SYMTYPE),
            link("y.jpg", "x.jpg", tarfile.SYMTYPE),
        ],
    )  # fmt: skip
    report = tars.build()
    assert dict(report.funnel)["broken_link"] == 3 and any("gone.jpg" in note for note in report.notes)
    assert captions(tars) == {"d/a.jpg": "of a", "b.jpg": "of b", "d/c.jpg": None, "e.jpg": "of b"}
    assert {content(tars, name) for name in rows(tars)} == {b"the image"}


def test_what_is_no_image_is_counted(tars: Collection) -> None:
    put(
        tars,
        [
            special("folder", tarfile.DIRTYPE), special("pipe.jpg", tarfile.FIFOTYPE),
            special("d.jpg", tarfile.CHRTYPE), ("a.jpg", b"x"),
            ("._a.jpg", b"of macOS"), ("__MACOSX/._b.jpg", b"x"), ("orphan.txt", b"x"),
            ("film.mp4", b"x"), ("film.json", b"{}"), ("README", b"x"), ("a.npy", b"x"),
        ],
    )  # fmt: skip
    report = tars.build()
    assert {reason: count for reason, count in report.funnel if count} == {
        "pipe_socket_or_device": 2,
        "hidden": 2,
        "not_an_image (.json)": 1,
        "not_an_image (.mp4)": 1,
        "not_an_image (.npy)": 1,
        "not_an_image (.txt)": 1,
        "not_an_image (no extension)": 1,
    }
    assert report.rows_read == 10 and report.rows_kept == 1


def test_a_later_member_of_the_same_name_holds_and_the_earlier_is_counted(tars: Collection) -> None:
    put(tars, [("a.jpg", b"old"), ("a.txt", b"old caption"), ("a.jpg", b"new"), ("a.txt", b"new caption")])
    report = tars.build()
    assert dict(report.funnel)["replaced_by_a_later_member_of_its_name"] == 2
    assert captions(tars) == {"a.jpg": "new caption"} and content(tars, "a.jpg") == b"new"


def test_another_way_to_write_a_name_is_the_same_member(tars: Collection) -> None:
    put(
        tars,
        [("a.jpg", b"old"), ("./a.jpg", b"new"), ("d/b.jpg", b"old"), ("/d/./b.jpg", b"new"), link("c.jpg", "/a.jpg")],
    )
    assert dropped(tars) == {"replaced_by_a_later_member_of_its_name": 2}
    assert {content(tars, name) for name in rows(tars)} == {b"new"} and len(rows(tars)) == 3


def test_of_two_sidecars_of_a_kind_the_other_is_counted(tars: Collection) -> None:
    put(tars, [("a.jpg", b"x"), ("a.txt", b"first"), ("a.TXT", b"other"), ("b.jpg", b"x"), ("b.txt", b"of its key"),
               ("b.jpg.txt", b"of its name"), ("b.jpg.json", b'{"width": 3}')])  # fmt: skip
    assert dropped(tars) == {"not_an_image (.txt)": 2}
    assert captions(tars) == {"a.jpg": "first", "b.jpg": "of its key"} and rows(tars)["b.jpg"]["width"] == 3


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("remote", [False, True])
def test_tars_that_were_joined_are_read_to_the_end(tars: Collection, format: int, remote: bool) -> None:
    """`cat a.tar b.tar c.tar`: whoever stops at the first end loses the others."""
    folder, joined = tars.folder / "source", b""
    for name in "abc":
        write_tar(folder / "x", [(f"{name}.jpg", name.encode()), (f"{name}.txt", f"of {name}".encode())], format)
        joined += (folder / "x").read_bytes()
    (folder / "x").unlink()
    (folder / "joined.tar").write_bytes(joined)
    if remote:
        fsspec.filesystem("memory").pipe("/joined/joined.tar", joined)
        tars.source |= {"path": "memory://joined"}
    assert not dropped(tars)
    assert captions(tars) == {f"{name}.jpg": f"of {name}" for name in "abc"}
    if not remote:
        assert [content(tars, f"{name}.jpg") for name in "abc"] == [b"a", b"b", b"c"]


def test_what_stands_behind_the_end_of_a_tar_is_named(tars: Collection) -> None:
    put(tars, [("a.jpg", b"x")])
    path = tars.folder / "source" / "a.tar"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 4096)
    assert tars.build().notes == ()
    path.write_bytes(whole + b"something else" * 100)
    (note,) = tars.build().notes
    assert "behind their end" in note and f"a.tar, at byte {len(whole):,}" in note and list(rows(tars)) == ["a.jpg"]


def test_sparse_members_are_counted(tars: Collection) -> None:
    # GNU's old format: one piece of 512 bytes at the end of 1,024
    header = bytearray(tarfile.TarInfo("holes.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"%011o\0" % 512
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (512, 512)
    header[483:495] = b"%011o\0" % 1024
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    put(tars, [("a.jpg", b"x")], "plain.tar")
    plain = (tars.folder / "source" / "plain.tar").read_bytes()
    (tars.folder / "source" / "plain.tar").write_bytes(bytes(header) + b"s" * 512 + plain)
    report = tars.build()
    assert dict(report.funnel)["sparse_member"] == 1 and list(rows(tars)) == ["a.jpg"]
    assert any("holes.jpg" in note for note in report.notes)


# -- sidecars ------------------------------------------------------------------------------------------


def test_empty_and_large_sidecars_lose_no_image(tars: Collection) -> None:
    put(
        tars,
        [
            ("a.jpg", b"x"),
            ("a.txt", b""),
            ("b.jpg", b"x"),
            ("b.json", b""),
            ("c.jpg", b"x"),
            ("c.txt", b"x" * 5_000_000),
        ],
    )
    report = tars.build()
    assert captions(tars) == {"a.jpg": None, "b.jpg": None, "c.jpg": None}
    assert any(note.startswith("2 sidecars are empty") for note in report.notes)
    assert any("sidecars of more than 4,000,000 bytes" in note and "c.txt" in note for note in report.notes)


def test_a_sidecar_that_cannot_be_read_is_named_with_its_tar(tars: Collection) -> None:
    put(tars, [("a.jpg", b"x"), ("a.json", b"{"), ("b.jpg", b"x"), ("b.txt", b"fine")])
    with pytest.raises(SourceError, match=r"a\.tar: a\.json is not valid JSON"):
        tars.build()
    tars.source |= {"skip_bad_rows": True}
    tars.build()
    assert captions(tars) == {"a.jpg": None, "b.jpg": "fine"}


def test_halves_of_pairs_and_names_that_are_no_utf8(tars: Collection) -> None:
    put(
        tars,
        [("f\udcfcr.jpg", b"latin"), ("f\udcfcr.json", b'{"caption": "a \\ud83d"}'), ("f\udcfdr.jpg", b"other")],
    )
    source = tars.folder / "source"
    (source / "a.tar").rename(source / "t\udcfc.tar")
    tars.build()
    got = tars.rows()
    assert got["id"].n_unique() == 2 and set(got["caption"]) == {"a \ufffd", None}
    assert {read_file(str(source), path, Fetch()) for path in got["path"]} == {b"latin", b"other"}


def test_stamps_and_their_translations(tars: Collection) -> None:
    put(tars, [("dog.png", b"x"), ("dog.txt", b"A dog.\nfr.utf8=Un chien.\n")])
    tars.build()
    assert captions(tars) == {"dog.png": "A dog."}
    tars.source |= {"caption": "key:fr"}
    tars.build()
    assert captions(tars) == {"dog.png": "Un chien."}
