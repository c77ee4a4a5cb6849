"""Folders as categories, and what stands beside an image: what is used, and what is named because it is not."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_assets.catalog.categories import MOST_CATEGORIES, folder_categories
from latent_assets.catalog.columns import names_markdown
from latent_assets.catalog.findings import Findings
from latent_assets.catalog.schema import CATALOG_SCHEMA, SOURCE_COLUMNS
from latent_assets.catalog.sidecars import catalog_values
from latent_assets_tests.catalog.conftest import Collection, aesthetics


def categories(*names: str) -> dict[str, str | None]:
    of = folder_categories(names)
    return {name: of(name) for name in names}


def test_few_folders_are_named_whole() -> None:
    names = ("a.png", "animals/b.png", "animals/cats/wild/c.png", "plants/d.png")
    assert list(categories(*names).values()) == [None, "animals", "animals/cats/wild", "plants"]


def test_many_nested_folders_fall_back_to_the_level_that_can_be_read() -> None:
    names = [f"{a}/{b}/{c}/x.png" for a in ("art", "photos") for b in range(5) for c in range(9)]
    assert set(categories(*names).values()) == {f"{a}/{b}" for a in ("art", "photos") for b in range(5)}
    names += [f"photos/{b}/x.png" for b in range(50)]
    assert set(categories(*names).values()) == {"art", "photos"}


def test_a_folder_for_each_class_stays_one() -> None:
    names = [f"class {n:03}/{m}/x.png" for n in range(100) for m in range(3)]
    assert len(set(categories(*names).values())) == 100


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnop"), max_size=4).map(lambda p: "/".join([*p, "x.png"]))))
def test_no_deeper_level_would_do(names: list[str]) -> None:
    found = {category for category in categories(*names).values() if category}
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert len(found) <= MOST_CATEGORIES or found == tops
    depth = max((category.count("/") + 1 for category in found), default=0)
    deeper = {"/".join(name.split("/")[:-1][: depth + 1]) for name in names if "/" in name}
    assert deeper == found or len(deeper) > MOST_CATEGORIES


@pytest.fixture
def folder(collection: Collection) -> Collection:
    collection.source |= {"kind": "folder"}
    collection.filters |= {"require_caption": False}
    return collection


def put(folder: Collection, name: str, content: bytes | dict[str, object]) -> None:
    path = folder.folder / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)


def test_the_link_in_a_sidecar_is_kept_beside_the_path(folder: Collection) -> None:
    put(folder, "a/1.png", b"x")
    put(folder, "a/1.json", {"url": "https://example.org/1.png", "source_url": "https://example.org/page"})
    put(folder, "a/2.png", b"y")
    folder.build()
    first, second = folder.rows().sort("path").to_dicts()
    assert (first["url"], first["path"], first["source_url"]) == (
        "https://example.org/1.png", "a/1.png", "https://example.org/page",
    )  # fmt: skip
    assert (second["url"], second["path"], second["category"]) == ("a/2.png", "a/2.png", "a")


def test_keys_that_are_not_used_are_named_once_with_their_number(folder: Collection) -> None:
    for number in range(30):
        put(folder, f"{number}.png", b"x")
        put(folder, f"{number}.json", {"caption": "c", "artist": "me", "Licence": "CC0", "width": 3, "empty": None})
    put(folder, "0.json", {"title": "t", "camera": {"make": "x"}})
    (note,) = folder.build().notes
    assert "Licence (29), artist (29), camera" in note and "source.columns" in note
    assert not {"caption", "title", "width", "empty", "sidecars:"} & set(note.replace(",", "").split()[5:])
    folder.source |= {"columns": {"source_url": "artist"}}
    (note,) = folder.build().notes
    assert "artist" not in note and "Licence" in note


def test_columns_beside_the_images_are_named_too(folder: Collection) -> None:
    put(folder, "a.png", b"x")
    put(folder, "metadata.csv", b"file_name,text,photographer\na.png,hello,me\n")
    (note,) = folder.build().notes
    assert "photographer" in note and "file_name" not in note
    assert folder.rows()["caption"].to_list() == ["hello"]


def test_columns_of_a_list_that_are_not_used_are_named(collection: Collection) -> None:
    collection.write("one.parquet", aesthetics(5).with_columns(pl.lit("x").alias("beschreibung")))
    collection.write("two.parquet", aesthetics(5, 5).with_columns(pl.lit("y").alias("beschreibung"), z=1))
    (note,) = collection.build().notes
    assert "beschreibung (2), z;" in note and "TEXT" not in note and "__index_level_0__" not in note


def test_lists_of_every_kind_name_what_they_do_not_use(collection: Collection) -> None:
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        folder = Collection(collection.folder / kind)
        folder.write(f"a.{kind}", aesthetics(5).with_columns(pl.lit("x").alias("farbe")))
        (note,) = folder.build().notes
        assert "farbe;" in note and "AESTHETIC" not in note, kind


def test_a_list_whose_columns_are_all_used_needs_no_note(collection: Collection) -> None:
    collection.write("one.parquet", aesthetics(5))
    assert collection.build().notes == ()


def test_what_is_listed_stays_readable() -> None:
    findings = Findings()
    findings.unused("sidecars", [f"key {n:05}" for n in range(20_000)])
    findings.unused("sidecars", ["k" * 5_000, "half \ud83d"])
    (sentence,) = findings.notes()
    assert len(sentence) < 500 and "more" in sentence
    sentence.encode()


def test_every_documented_name_is_read(folder: Collection) -> None:
    """What `latent-assets schema sources` prints, and the README shows."""
    table = re.findall(r"^\| `(\w+)` \| ([^|;]*)", names_markdown(), re.MULTILINE)
    assert [column for column, _ in table] == list(SOURCE_COLUMNS)
    for column, names in table:
        for name in re.findall(r"`(\w+)`", names):
            value = "https://example.org/x" if CATALOG_SCHEMA[column] == pl.String else 7
            assert catalog_values(folder.profile.source, {name.upper(): value}, "x", Findings()) == {column: value}, (
                name
            )
