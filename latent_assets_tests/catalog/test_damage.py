"""Stored shards that are missing or damaged: what is said of them, and that the next build mends exactly those."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from latent_assets.catalog.funnel_chart import funnel_chart
from latent_assets.catalog.hashing import shard_hash
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.catalog.shards import catalog_problems, read_index, read_shard
from latent_assets.errors import SourceError, StorageError
from latent_assets.layout import CATALOG_INDEX, catalog_name
from latent_assets_tests.catalog.conftest import Collection, aesthetics

BOTH = {"ids_unique", "rows_as_assigned"}


def swap_a_caption(path: Path) -> None:
    """Sound parquet with other rows than were assigned; the footer's hash stays."""
    table = pq.read_table(path)
    captions = table["caption"].to_pylist()
    place = table.schema.get_field_index("caption")
    changed = table.set_column(place, table.schema.field(place), [["other", *captions[1:]]])
    pq.write_table(changed, path)


def repeat_a_row(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([0, 0, *range(2, table.num_rows)]), path)


def drop_a_row(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


def flip_a_digit_of_an_id(path: Path) -> None:
    """One byte in the middle of a page: parquet that reads without an error."""
    data = path.read_bytes()
    an_id = pq.read_table(path)["id"][4].as_py().encode()
    changed = (b"0" if an_id[20:21] != b"0" else b"1").join((an_id[:20], an_id[21:]))
    assert data.count(an_id) == 1
    path.write_bytes(data.replace(an_id, changed))


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "missing": (Path.unlink, BOTH),
    "empty": (lambda path: path.write_bytes(b""), BOTH),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), BOTH),
    "garbage": (lambda path: path.write_bytes(b"\x00garbage" * 500), BOTH),
    "garbage inside": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"https://", b"\xff\xfe\xfd" * 2)),
        BOTH,
    ),
    "other columns": (lambda path: pl.DataFrame({"id": ["x"]}).write_parquet(path), BOTH),
    "other rows": (swap_a_caption, {"rows_as_assigned"}),
    "a row twice": (repeat_a_row, BOTH),
    "a row too few": (drop_a_row, {"rows_as_assigned"}),
    "a flipped bit": (flip_a_digit_of_an_id, {"rows_as_assigned"}),
}


@pytest.fixture
def built(collection: Collection) -> Collection:
    collection.write("a.parquet", aesthetics(50))
    collection.build()
    return collection


def path_of(collection: Collection, shard: str) -> Path:
    return Path(collection.storage.uri(catalog_name(shard)))


def problems(collection: Collection, shard: str) -> dict[str, str]:
    entry = read_index(collection.storage)[shard]
    return catalog_problems(collection.storage, shard, entry.rows, entry.hash)


def test_sound_shards_have_no_problems(built: Collection) -> None:
    assert [problems(built, shard) for shard in read_index(built.storage)] == [{}] * 5


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_exactly_that_file_is_written_again(built: Collection, name: str) -> None:
    before, rows = built.files(), built.rows()
    damage, checks = DAMAGE[name]
    damage(path_of(built, "00002"))
    found = problems(built, "00002")
    assert set(found) == checks and all("latent-assets build" in text for text in found.values())
    assert not problems(built, "00001")
    report = built.build()
    assert (report.mended, report.added, report.changed, report.removed) == (("00002",), (), (), ())
    after = built.files()
    assert {file: content for file, (_, content) in after.items()} == {file: c for file, (_, c) in before.items()}
    assert {file for file in after if after[file][0] != before[file][0]} == {"00002.parquet"}
    assert built.rows().equals(rows) and not problems(built, "00002")
    assert built.build().mended == ()


def test_several_lost_shards_get_their_rows_back(built: Collection) -> None:
    before = built.shard_of()
    for shard in ("00000", "00003", "00004"):
        path_of(built, shard).unlink()
    assert built.build().mended == ("00000", "00003", "00004")
    assert built.shard_of() == before


def test_new_rows_beside_a_lost_shard_leave_the_sound_ones_alone(built: Collection) -> None:
    before, files = built.shard_of(), built.files()
    path_of(built, "00001").unlink()
    built.write("b.parquet", aesthetics(12, start=500))
    report = built.build()
    after = built.shard_of()
    assert report.rows_kept == 62 and len(after) == 62 and report.added == ("00005", "00006")
    assert all(after[url] == shard for url, shard in before.items() if shard != "00001")
    assert all(built.files()[f"{shard}.parquet"] == files[f"{shard}.parquet"] for shard in ("00000", "00002", "00004"))


def test_a_lost_shard_with_fewer_rows_than_it_had_keeps_its_key(built: Collection) -> None:
    before = built.shard_of()
    built.write(
        "a.parquet", aesthetics(50).filter(~pl.col("URL").is_in([u for u, s in before.items() if s == "00003"]))
    )
    path_of(built, "00003").unlink()
    report = built.build()
    assert report.shards["00003"].rows == 0 and report.changed == ("00003",) and report.rows_kept == 40
    assert dict(read_shard(built.storage, "00003").schema) == CATALOG_SCHEMA


@pytest.mark.parametrize("content", [None, b"", b"PAR1 nonsense PAR1"])
def test_a_lost_index_is_made_again_from_the_files(built: Collection, content: bytes | None) -> None:
    before, index = built.files(), read_index(built.storage)
    path = Path(built.storage.uri(CATALOG_INDEX))
    path.unlink() if content is None else path.write_bytes(content)
    report = built.build()
    assert report.mended == () and read_index(built.storage) == index
    assert all(built.files()[name] == before[name] for name in before if name != path.name)


def test_files_newer_than_the_index_are_no_damage(built: Collection) -> None:
    """As a build leaves them that was killed before it wrote the index: rows stay where they are."""
    before, index = built.shard_of(), Path(built.storage.uri(CATALOG_INDEX)).read_bytes()
    changed = aesthetics(50).with_columns(TEXT=pl.lit("new"))
    built.write("a.parquet", changed)
    built.build()
    files = built.files()
    Path(built.storage.uri(CATALOG_INDEX)).write_bytes(index)
    report = built.build()
    assert report.mended == () and len(report.changed) == 5
    assert built.shard_of() == before
    assert all(built.files()[name] == files[name] for name in files if name != "index.parquet")


def test_files_of_before_there_was_a_hash_in_the_footer(built: Collection) -> None:
    for shard in read_index(built.storage):
        path = path_of(built, shard)
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    files = built.files()
    assert built.build().mended == () and built.files() == files
    drop_a_row(path_of(built, "00001"))
    assert built.build().mended == ("00001",)


def test_no_damage_makes_the_look_fail(built: Collection) -> None:
    """Three hundred files with random bytes, gaps and cuts: each is read, or its problem is said."""
    path = path_of(built, "00002")
    sound, draw = path.read_bytes(), random.Random(5)
    unnoticed = 0
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(draw.choice([1, 1, 4, 40])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            start = draw.randrange(len(data))
            del data[start : start + draw.randrange(1, 400)]
        path.write_bytes(data)
        if not problems(built, "00002"):
            unnoticed += 1
            entry = read_index(built.storage)["00002"]
            assert shard_hash(read_shard(built.storage, "00002")) == entry.hash
    assert unnoticed < 100, "bytes that mean nothing are few"


def test_a_damaged_shard_is_one_clear_error_to_who_reads_it(built: Collection) -> None:
    path_of(built, "00002").write_bytes(b"garbage")
    with pytest.raises(StorageError, match=r"00002\.parquet cannot be read as parquet .*latent-assets build"):
        read_shard(built.storage, "00002")
    path_of(built, "00002").unlink()
    with pytest.raises(StorageError, match=r"00002\.parquet is not there"):
        read_shard(built.storage, "00002")


# -- no rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_bucket", [400_000, 8])
def test_a_catalog_whose_last_row_is_removed(
    built: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_bucket: int
) -> None:
    monkeypatch.setattr("latent_assets.catalog.buckets._ROWS_PER_BUCKET", rows_per_bucket)
    removed = tmp_path / "removed.txt"
    removed.write_text("example.com\n")
    built.filters = {"remove": (str(removed),)}
    report = built.build()
    assert (report.rows_read, report.rows_kept, report.mended) == (50, 0, ())
    assert report.rows_read == sum(count for _, count in report.funnel)
    assert report.changed == tuple(report.shards) == tuple(f"{n:05}" for n in range(5))
    assert {entry.rows for entry in report.shards.values()} == {0}
    for shard, entry in report.shards.items():
        frame = read_shard(built.storage, shard)
        assert dict(frame.schema) == CATALOG_SCHEMA and shard_hash(frame) == entry.hash
        assert problems(built, shard) == {}
    files = built.files()
    again = built.build()
    assert (again.version, again.changed, again.mended) == (report.version, (), ()) and built.files() == files
    assert funnel_chart(report.rows_read, report.funnel, 0).startswith(b"\x89PNG")
    path_of(built, "00001").unlink()
    assert built.build().mended == ("00001",) and built.files().keys() == files.keys()
    built.filters = {}
    assert built.build().added == tuple(f"{n:05}" for n in range(5, 10)), "rows that come back are new rows"


def test_nothing_at_all_to_begin_with_is_refused(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(5))
    collection.filters = {"min_width": 5000}
    with pytest.raises(SourceError, match="5 were dropped as `width`"):
        collection.build()
    assert read_index(collection.storage) == {}


def test_the_funnel_of_nothing_is_a_picture() -> None:
    assert funnel_chart(0, [], 0).startswith(b"\x89PNG")


@pytest.mark.slow
def test_damage_on_s3_is_told_from_a_store_that_cannot_be_reached(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latent_assets.catalog.build import build_catalog
    from latent_assets.storage import Storage
    from latent_assets_tests.s3_server import BUCKET, s3_server

    collection.write("a.parquet", aesthetics(50))
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        storage = Storage(f"s3://{BUCKET}/damaged")
        report = build_catalog(collection.profile, storage)
        storage.delete(catalog_name("00001"))
        storage.write_bytes(catalog_name("00003"), b"garbage")
        found = {
            shard: set(catalog_problems(storage, shard, entry.rows, entry.hash))
            for shard, entry in report.shards.items()
        }
        assert {shard for shard, checks in found.items() if checks == BOTH} == {"00001", "00003"}
        assert sum(map(len, found.values())) == 4
        again = build_catalog(collection.profile, storage)
        assert again.mended == ("00001", "00003") and again.version == report.version
        assert not any(catalog_problems(storage, key, entry.rows, entry.hash) for key, entry in report.shards.items())
    entry = report.shards["00000"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = Storage(f"s3://{BUCKET}/damaged")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        catalog_problems(away, "00000", entry.rows, entry.hash)
