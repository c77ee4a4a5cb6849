"""Each check fails on the fault it is there for, and on nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from latent_assets.atlas.checks import Check, check, check_live
from latent_assets.atlas.fragments import TableFile, table_files
from latent_assets.atlas.indexes import release_files
from latent_assets.atlas.release import Staged, publish, stage
from latent_assets.atlas.table import open_table, table_uri
from latent_assets.errors import NotBuiltError
from latent_assets_tests.atlas.built import Built

Fault = Callable[[pa.Table], pa.Table]


def with_fault(built: Built, fault: Fault) -> dict[str, Check]:
    """Stage a good release, replace it by one with `fault`, and check that."""
    good = stage(built.profile, built.storage, built.shards, built.release)
    table = open_table(built.storage.lance_uri, good.version).to_arrow()
    broken = lance.write_dataset(fault(table), table_uri(built.storage.lance_uri), mode="overwrite")
    found = checked(built, replace(good, version=broken.version))
    assert not found.pop("indexes").passed, "what is written over has none"
    return found


def checked(built: Built, staged: Staged) -> dict[str, Check]:
    return {found.name: found for found in check(built.profile, built.storage, staged)}


def vector_fault(column: str, row: int, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(table: pa.Table) -> pa.Table:
        kind = table.schema.field(column).type
        values = (
            table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size).copy()
        )
        values[row] = change(values[row])
        changed = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), kind.list_size)
        return put(table, column, changed)

    return fault


def value_fault(column: str, row: int, value: object) -> Fault:
    def fault(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return put(table, column, pa.array(values, table.schema.field(column).type))

    return fault


def put(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    """Replace a column; it may hold nulls now."""
    field = table.schema.field(column).with_nullable(True)
    return table.set_column(table.schema.get_field_index(column), field, values)


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "WEBP")
    return buffer.getvalue()


def test_a_good_release_passes(built: Built) -> None:
    found = checked(built, stage(built.profile, built.storage, built.shards, built.release))
    assert list(found) == [
        "data_files",
        "row_count",
        "unique_ids",
        "well_formed_ids",
        "required_values",
        "finite_vectors",
        "finite_coordinates",
        "unit_norm",
        "thumbnails",
        "search",
        "indexes",
    ]
    assert all(one.passed for one in found.values()), found


@pytest.mark.parametrize(
    ("fault", "failing", "found"),
    [
        (lambda table: table.slice(1), {"row_count"}, "59"),
        (lambda table: pa.concat_tables([table, table.slice(5, 1)]), {"row_count", "unique_ids"}, "61"),
        (value_fault("id", 3, "' OR 1=1 --"), {"well_formed_ids"}, '1 others, the first "\' OR 1=1 --"'),
        (value_fault("id", 3, "A" * 32), {"well_formed_ids"}, f"1 others, the first {'A' * 32!r}"),
        (value_fault("id", 3, None), {"well_formed_ids", "required_values"}, "1 others, the first None"),
        (value_fault("id", 3, "0" * 32 + "\n"), {"well_formed_ids"}, None),
        (value_fault("url", 7, None), {"required_values"}, "1 rows in url"),
        (value_fault("sha256", 7, None), {"required_values"}, "1 rows in sha256"),
        (vector_fault("clip", 9, lambda v: v * np.nan), {"finite_vectors"}, "1 rows in clip"),
        (vector_fault("vae", 9, lambda v: v + np.inf), {"finite_vectors"}, "1 rows in vae"),
        (vector_fault("xyz_joint", 9, lambda v: v * np.nan), {"finite_coordinates"}, "1 rows in xyz_joint"),
        (vector_fault("clip", 9, lambda v: v * np.float16(1.1)), {"unit_norm"}, None),
        (value_fault("thumbnail", 0, b"no image"), {"thumbnails"}, None),
        (value_fault("thumbnail", 59, picture(97, 10)), {"thumbnails"}, None),
    ],
)
def test_a_fault_fails_its_check_alone(built: Built, fault: Fault, failing: set[str], found: str | None) -> None:
    checks = with_fault(built, fault)
    assert {name for name, one in checks.items() if not one.passed} == failing
    if found is not None:
        assert checks[next(name for name in checks if name in failing)].found == found


def test_a_picture_that_is_too_large_is_named(built: Built) -> None:
    checks = with_fault(built, value_fault("thumbnail", 59, picture(97, 10)))
    assert checks["thumbnails"].found == f"1 of 60 broken, the first: {built.ids[59]} is 97 x 10"
    checks = with_fault(built, value_fault("thumbnail", 59, picture(96, 96)))
    assert checks["thumbnails"].passed


def test_vectors_that_search_cannot_find_fail(built: Built) -> None:
    checks = with_fault(built, vector_fault("clip", 0, lambda v: v * np.float16(0)))
    assert {name for name, one in checks.items() if not one.passed} == {"unit_norm", "search"}


def test_an_empty_release_fails(built: Built) -> None:
    good = stage(built.profile, built.storage, built.shards, built.release)
    empty = open_table(built.storage.lance_uri, good.version).to_arrow().slice(0, 0)
    broken = lance.write_dataset(empty, table_uri(built.storage.lance_uri), mode="overwrite")
    info = replace(built.release, rows=0, shards={})
    checks = checked(built, replace(good, version=broken.version, release=info))
    assert {name for name, one in checks.items() if not one.passed} == {"row_count"}


# -- the live release ------------------------------------------------------------------------------------


@pytest.fixture
def live(built: Built) -> Built:
    """An atlas with a published release."""
    made = stage(built.profile, built.storage, built.shards, built.release)
    publish(built.storage, made, check(built.profile, built.storage, made))
    return built


def data_file(built: Built, part: str) -> Path:
    return next(Path(table_uri(built.storage.lance_uri)).glob(f"data/00001.{part}.*"))


def test_the_live_release_passes_the_same_checks(live: Built) -> None:
    found = check_live(live.profile, live.storage)
    staged = stage(live.profile, live.storage, live.shards, live.release)
    assert [(one.name, one.passed, one.found) for one in found] == [
        (one.name, one.passed, one.found) for one in check(live.profile, live.storage, staged)
    ]
    assert all(one.passed for one in found), found


def test_the_live_release_is_judged_and_not_the_newest_version(live: Built) -> None:
    emptied = stage(live.profile, live.storage, [], replace(live.release, rows=0, shards={}))
    assert emptied.version == 3
    assert {one.name: one.found for one in check_live(live.profile, live.storage)}["row_count"] == "60"


@pytest.mark.parametrize("name", ["caption_words", "caption_ngram", "id_idx"])
def test_an_index_that_lost_its_bytes_is_named(live: Built, name: str) -> None:
    table = open_table(live.storage.lance_uri, None)
    (uuid,) = [str(index.index_uuid) for index in table.list_indices() if index.name == name]
    files = [file for file in release_files(live.storage, 2) if f"/_indices/{uuid}/" in file]
    assert files and all(live.storage.exists(file) for file in files)
    for file in files:
        Path(live.storage.uri(file)).write_bytes(b"")
    found = {one.name: one for one in check_live(live.profile, live.storage)}
    assert not found["indexes"].passed and "cannot be read" in found["indexes"].found


@pytest.mark.parametrize("part", ["rows", "coords"])
@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_a_damaged_file_is_named(live: Built, part: str, damage: str) -> None:
    file = data_file(live, part)
    size = file.stat().st_size
    if damage == "gone":
        file.unlink()
        expected = f"1 damaged: {file.name} is not there"
    else:
        file.write_bytes(file.read_bytes()[:500])
        expected = f"1 damaged: {file.name} has 500 of {size} bytes"
    found = {one.name: one for one in check_live(live.profile, live.storage)}
    assert not found["data_files"].passed and found["data_files"].found == expected
    unreadable = {name for name, one in found.items() if one.found.startswith("cannot be read (")}
    # what is in the other part can be read
    assert "finite_coordinates" in unreadable and ("row_count" in unreadable) == (part == "rows")
    assert all(not found[name].passed for name in unreadable)


def test_garbage_of_the_same_size_fails_the_checks_that_read_it(live: Built) -> None:
    file = data_file(live, "rows")
    file.write_bytes(os.urandom(file.stat().st_size))
    found = {one.name: one for one in check_live(live.profile, live.storage)}
    assert found["data_files"].passed
    failed = {name for name, one in found.items() if not one.passed}
    assert failed >= {"row_count", "unique_ids", "well_formed_ids", "finite_vectors", "thumbnails"}


def test_a_table_that_is_gone_is_a_failed_check(live: Built) -> None:
    live.storage.delete("lance/atlas.lance/_versions")
    (found,) = check_live(live.profile, live.storage)
    assert (found.name, found.passed) == ("data_files", False) and "not the release `live`" in found.found
    live.storage.delete("lance")
    (found,) = check_live(live.profile, live.storage)
    assert (found.name, found.passed) == ("data_files", False) and "no atlas table" in found.found


def test_the_files_of_the_live_release_are_listed_without_reading_them(live: Built) -> None:
    stage(live.profile, live.storage, [], replace(live.release, rows=0, shards={}))
    files = table_files(live.storage)
    folder = Path(table_uri(live.storage.lance_uri)) / "data"
    assert {file.name: (file.size, file.expected, file.sound) for file in files} == {
        file.name: (file.stat().st_size, file.stat().st_size, True) for file in folder.iterdir()
    }
    assert [file.name.split(".")[:2] for file in files[:3]] == [
        ["00000", "rows"],
        ["00000", "coords"],
        ["00001", "rows"],
    ]
    gone, short = data_file(live, "rows"), data_file(live, "coords")
    gone.unlink()
    short.write_bytes(b"short")
    assert [(file.name, file.size) for file in table_files(live.storage) if not file.sound] == [
        (gone.name, None),
        (short.name, 5),
    ]
    assert table_files(live.storage, version=3) == []
    assert TableFile("of an old writer", 7, None).sound


def test_listing_without_a_release_is_refused(built: Built) -> None:
    with pytest.raises(NotBuiltError, match="no atlas table"):
        table_files(built.storage)
