"""Building the catalog: shards that stay, funnels that add up, duplicates, samples, and what is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latent_assets import progress
from latent_assets.catalog import buckets
from latent_assets.catalog.hashing import shard_hash
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.catalog.shards import read_index, read_shard
from latent_assets.errors import SourceError, StorageError
from latent_assets_tests.catalog.conftest import Collection, aesthetics


def accounted(report: object) -> bool:
    """Rows read = rows kept + rows dropped."""
    return report.rows_read == report.rows_kept + sum(dropped for _, dropped in report.funnel)  # type: ignore[attr-defined]


# -- shards --------------------------------------------------------------------------------------------


def test_shards_of_a_first_build(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(95))
    report = collection.build()
    assert {key: entry.rows for key, entry in report.shards.items()} == {f"{n:05d}": 10 for n in range(9)} | {
        "00009": 5
    }
    assert report.added == tuple(f"{n:05d}" for n in range(10)) and report.changed == report.removed == ()
    assert (report.rows_read, report.rows_kept) == (95, 95)
    rows = collection.rows()
    assert dict(rows.drop("shard").schema) == CATALOG_SCHEMA
    assert rows["id"].n_unique() == 95 and rows["id"].str.contains("^[0-9a-f]{32}$").all()
    assert read_index(collection.storage) == report.shards
    for key, entry in report.shards.items():
        assert shard_hash(read_shard(collection.storage, key)) == entry.hash


def test_order_of_files_and_rows_does_not_matter(collection: Collection, tmp_path: Path) -> None:
    rows = aesthetics(200)
    collection.write("a.parquet", rows.head(80))
    collection.write("b.parquet", rows.slice(80))
    first = collection.build()
    other = Collection(tmp_path / "other")
    shuffled = rows.sample(fraction=1, shuffle=True, seed=5)
    other.write("z.parquet", shuffled.head(13))
    other.write("m.csv", shuffled.slice(13, 90))
    other.write("k.jsonl", shuffled.slice(103))
    second = other.build()
    assert other.shard_of() == collection.shard_of()
    assert (second.version, second.shards) == (first.version, first.shards)


def test_second_build_writes_nothing(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(50))
    first = collection.build()
    before = collection.files()
    second = collection.build()
    assert (second.changed, second.added, second.removed, second.version) == ((), (), (), first.version)
    assert collection.files() == before


def test_added_rows_make_new_shards_and_leave_old_ones_alone(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(45))
    first, before, files = collection.build(), collection.shard_of(), collection.files()
    collection.write("b.parquet", aesthetics(23, start=1000))
    report = collection.build()
    assert report.added == ("00005", "00006", "00007") and report.changed == ()
    after = collection.shard_of()
    assert {url: shard for url, shard in after.items() if url in before} == before
    assert all(collection.files()[name] == files[name] for name in files if name != "index.parquet")
    assert report.version != first.version


def test_removed_rows_touch_only_their_shard(collection: Collection) -> None:
    rows = aesthetics(60)
    collection.write("a.parquet", rows)
    collection.build()
    before, files = collection.shard_of(), collection.files()
    gone = rows["URL"][17]
    collection.write("a.parquet", rows.filter(pl.col("URL") != gone))
    report = collection.build()
    assert report.changed == (before[gone],) and report.added == ()
    changed = {name for name, content in collection.files().items() if files[name] != content}
    assert changed == {f"{before[gone]}.parquet", "index.parquet"}
    assert collection.shard_of() == {url: shard for url, shard in before.items() if url != gone}


def test_changed_rows_touch_only_their_shard(collection: Collection) -> None:
    rows = aesthetics(60)
    collection.write("a.parquet", rows)
    collection.build()
    touched = rows["URL"][5]
    collection.write(
        "a.parquet",
        rows.with_columns(pl.when(pl.col("URL") == touched).then(pl.lit("new")).otherwise("TEXT").alias("TEXT")),
    )
    report = collection.build()
    assert report.changed == (collection.shard_of()[touched],)


def test_emptied_shard_stays(collection: Collection) -> None:
    rows = aesthetics(30)
    collection.write("a.parquet", rows)
    collection.build()
    shard_of = collection.shard_of()
    collection.write("a.parquet", rows.filter(pl.col("URL").replace_strict(shard_of) != "00001"))
    report = collection.build()
    assert report.shards["00001"].rows == 0 and report.changed == ("00001",)
    assert dict(read_shard(collection.storage, "00001").schema) == CATALOG_SCHEMA
    # rows that come back are new rows: numbered on
    collection.write("a.parquet", rows)
    assert collection.build().added == ("00003",)


def test_partitions_are_limited_and_leave_room(collection: Collection) -> None:
    """More tars than half of the free partitions: shards become groups, and later rows still find a place."""
    collection.shards = {"rows": 1, "max_partitions": 8}
    collection.write("a.parquet", aesthetics(60))
    before = collection.build().shards
    assert [entry.rows for entry in before.values()] == [15, 15, 15, 15]
    for step, rows in enumerate((20, 1, 1)):
        collection.write(f"more-{step}.parquet", aesthetics(rows, start=100 * (step + 1)))
        after = collection.build().shards
        assert all(after[key] == entry for key, entry in before.items()), "old shards stay as they are"
        before = after
    assert [entry.rows for entry in before.values()] == [15, 15, 15, 15, 10, 10, 1, 1]
    collection.write("one-too-many.parquet", aesthetics(1, start=900))
    with pytest.raises(SourceError, match=r"max_partitions"):
        collection.build()


@pytest.mark.parametrize(
    ("rows", "per_tar", "per_shard"),
    [
        (635_561, 10_000, 10_000),
        (12_100_000, 10_000, 10_000),
        (100_000_000, 10_000, 20_000),
        (5_530_000_000, 10_000, 1_110_000),
    ],
)
def test_partitions_of_large_sources(rows: int, per_tar: int, per_shard: int) -> None:
    from latent_assets.catalog.sharding import shard_rows
    from latent_assets.profile import Shards

    assert shard_rows(Shards(rows=per_tar), rows, 0) == per_shard
    partitions = -(-rows // per_shard)
    assert partitions <= 5_000 and (rows != 635_561 or partitions == 64)


def test_many_buckets_give_the_same_as_one(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pl.concat([aesthetics(300), aesthetics(50)])
    collection.write("a.parquet", rows)
    one = collection.build()
    other = Collection(tmp_path / "other")
    other.write("a.parquet", rows)
    monkeypatch.setattr(buckets, "_ROWS_PER_BUCKET", 20)
    many = other.build()
    assert (many.shards, many.version, many.funnel) == (one.shards, one.version, one.funnel)
    other.write("b.parquet", aesthetics(30, start=900))
    collection.write("b.parquet", aesthetics(30, start=900))
    grown = other.build()
    monkeypatch.undo()
    assert grown.shards == collection.build().shards
    assert not list((tmp_path / "other" / "root" / "catalog").glob(".spill*"))


def test_columns_that_come_late_lose_nothing_in_buckets(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without a column, with it, and without it again: buckets begin new files and read all of them."""
    many = Collection(tmp_path / "many")
    for number, name in enumerate("abc"):
        rows = aesthetics(60, start=100 * number)
        for target in (collection, many):
            target.write(f"{name}.parquet", rows if name == "b" else rows.drop("similarity", "pwatermark"))
    one = collection.build()
    monkeypatch.setattr(buckets, "_ROWS_PER_BUCKET", 20)
    assert (report := many.build()).shards == one.shards
    assert report.rows_kept == 180
    assert many.rows().sort("id").equals(collection.rows().sort("id"))
    assert many.rows()["similarity"].null_count() == 120


_KILLED = """
import os, sys, threading
from pathlib import Path
from latent_assets.catalog import sharding
from latent_assets.storage import Storage
from latent_assets_tests.catalog.conftest import Collection
folder, shards, late, last = sys.argv[1:]
store = sharding.ShardWriter._store
written = set()
def slow(self, shard, frame):
    if shard in late.split():
        threading.Event().wait()  # another thread was faster
    found = store(self, shard, frame)
    written.add(shard)
    if shard == last:
        os.kill(os.getpid(), 9)
    return found
sharding.ShardWriter._store = slow
Collection(Path(folder), shards=eval(shards)).build()
"""


def killed_build(collection: Collection, late: str, last: str) -> None:
    """A build that is killed when the shard `last` is stored, and those that are `late` are not."""
    arguments = [str(collection.folder), repr(collection.shards), late, last]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False, timeout=120)
    assert done.returncode == -9
    files = {path.stem for path in Path(collection.storage.uri("catalog")).glob("*.parquet")}
    assert last in files and not {*late.split()} & files


@pytest.mark.parametrize(
    ("late", "shards"),
    [
        ("", {"rows": 10}),
        ("00000", {"rows": 10}),
        ("00003", {"rows": 10}),
        ("00000 00001 00002", {"rows": 10}),
        ("00001 00003", {"rows": 3, "max_partitions": 24}),  # a shard is several tars
    ],
)
def test_killed_build_continues_to_the_same_shards(
    collection: Collection, tmp_path: Path, late: str, shards: dict[str, int]
) -> None:
    """Shards are written several at a time: the fifth may be there and the first not."""
    whole = Collection(tmp_path / "whole", shards=shards)
    collection.shards = shards
    for each in (whole, collection):
        each.write("a.parquet", aesthetics(94))
    expected = whole.build()
    killed_build(collection, late, "00004")
    assert read_index(collection.storage) == {}
    report = collection.build()
    assert (report.shards, report.version) == (expected.shards, expected.version)
    assert collection.rows().equals(whole.rows())
    assert not [name for name in collection.files() if name.startswith(".spill")]
    assert collection.build().version == expected.version


@pytest.mark.parametrize("late", ["", "00010 00012"])
def test_killed_build_of_more_rows_continues_to_the_same_shards(
    collection: Collection, tmp_path: Path, late: str
) -> None:
    whole = Collection(tmp_path / "whole")
    for each in (whole, collection):
        each.write("a.parquet", aesthetics(100))
        each.build()
        each.write("b.parquet", aesthetics(64, start=500))
    expected = whole.build()
    killed_build(collection, late, "00013")
    report = collection.build()
    assert (report.shards, report.version) == (expected.shards, expected.version)
    assert collection.rows().equals(whole.rows())


def test_a_gap_is_filled_when_the_source_changed_meanwhile(collection: Collection) -> None:
    """The rows are others then: every one has a shard, none moved, and the numbers have no gap."""
    collection.write("a.parquet", aesthetics(94))
    killed_build(collection, "00001 00003", "00004")
    collection.write("a.parquet", aesthetics(60, start=20))
    report = collection.build()
    assert sorted(report.shards) == [f"{number:05d}" for number in range(len(report.shards))]
    assert sorted(collection.shard_of()) == sorted(aesthetics(60, start=20)["URL"])
    assert collection.build().changed == ()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=5), st.integers(0, 1000))
def test_rows_never_move(tmp_path_factory: pytest.TempPathFactory, states: list[set[int]], seed: int) -> None:
    """Whatever comes and goes: a row that stays keeps its shard, and every row is there once."""
    collection = Collection(tmp_path_factory.mktemp("c"), shards={"rows": 7})
    pool = aesthetics(41)
    before: dict[str, str] = {}
    for state in states:
        numbers = sorted(state)
        random.Random(seed).shuffle(numbers)
        collection.write("a.parquet", pool[numbers])
        report = collection.build()
        after = collection.shard_of()
        assert sorted(after) == sorted(pool[numbers]["URL"])
        assert all(after[url] == shard for url, shard in before.items() if url in after)
        assert {key for key, entry in report.shards.items() if entry.rows} == set(after.values())
        before = after


# -- duplicates, samples -------------------------------------------------------------------------------


def test_duplicate_urls_collapse_and_are_counted(collection: Collection) -> None:
    rows = aesthetics(3)
    better = rows.with_columns(pl.lit(9.0, pl.Float32).alias("AESTHETIC_SCORE"), pl.lit("better").alias("TEXT"))
    collection.write("a.parquet", pl.concat([rows, rows.head(1), better.head(1), rows.slice(1, 1)]))
    report = collection.build()
    assert dict(report.funnel)["duplicate_url"] == 3 and report.rows_kept == 3 and accounted(report)
    by_url = {row["url"]: row for row in collection.rows().iter_rows(named=True)}
    first = by_url[rows["URL"][0]]
    assert (first["url_count"], first["caption"], first["aesthetic"]) == (3, "better", 9.0)
    assert by_url[rows["URL"][1]]["url_count"] == 2 and by_url[rows["URL"][2]]["url_count"] == 1


def test_ids_that_share_their_first_half_stay_apart_and_in_order() -> None:
    """Rows are ordered by the first half of their ids; a clash of those must not make two images one."""
    from latent_assets.catalog.build import _collapsed
    from latent_assets.catalog.hashing import id_heads

    ids = ["ab" * 8 + "ff" * 8, "ab" * 8 + "00" * 8, "00" * 16, "ff" * 16, "ab" * 8 + "77" * 8, "ab" * 8 + "00" * 8]
    rows = pl.DataFrame({"id": ids, "aesthetic": [1, 2, 3, 4, 5, 6], "url_count": [1] * 6})
    frame = pl.concat([pl.DataFrame(schema=CATALOG_SCHEMA), rows], how="diagonal_relaxed").cast(CATALOG_SCHEMA)  # type: ignore[arg-type]
    frame = frame.with_columns(id_heads(frame["id"]))
    kept = _collapsed(frame)
    assert kept["id"].to_list() == sorted(set(ids))
    assert kept["aesthetic"].to_list() == [3, 6, 5, 1, 4]
    assert kept["url_count"].to_list() == [1, 2, 1, 1, 1]
    assert _collapsed(frame.head(0)).height == 0


def test_sample_is_seeded_and_independent_of_order(collection: Collection, tmp_path: Path) -> None:
    rows = aesthetics(300)
    collection.write("a.parquet", pl.concat([rows, rows.head(40)]))
    collection.filters = {"sample": 50, "seed": 1}
    report = collection.build()
    assert report.rows_kept == 50 and accounted(report)
    assert dict(report.funnel)["not_sampled"] == 250
    other = Collection(tmp_path / "other", filters={"sample": 50, "seed": 1})
    other.write("a.parquet", rows.reverse())
    other.build()
    assert set(other.shard_of()) == set(collection.shard_of())
    third = Collection(tmp_path / "third", filters={"sample": 50, "seed": 2})
    third.write("a.parquet", rows)
    third.build()
    assert len(set(third.shard_of()) & set(collection.shard_of())) < 25
    everything = Collection(tmp_path / "all", filters={"sample": 1000})
    everything.write("a.parquet", rows)
    assert everything.build().rows_kept == 300


# -- filters -------------------------------------------------------------------------------------------


def test_funnel_counts_each_row_once_by_the_first_rule(collection: Collection) -> None:
    rows = aesthetics(100).with_columns(
        pl.when(pl.col("__index_level_0__") < 4).then(None).otherwise("URL").alias("URL"),
        pl.when(pl.col("__index_level_0__").is_between(4, 9)).then(pl.lit("  ")).otherwise("TEXT").alias("TEXT"),
    )
    collection.write("a.parquet", rows)
    collection.filters = {
        "min_aesthetic": 6.7, "max_punsafe": 0.5, "max_pwatermark": 0.5, "min_width": 340, "min_height": 280,
    }  # fmt: skip
    report = collection.build()
    assert accounted(report)
    left = rows.filter(pl.col("URL").is_not_null() & (pl.col("TEXT").str.strip_chars() != ""))
    expected = {"no_url": 4, "no_caption": 6}
    for reason, rule in (
        ("aesthetic", pl.col("AESTHETIC_SCORE") >= pl.lit(6.7, pl.Float32)),
        ("punsafe", pl.col("punsafe") <= 0.5),
        ("pwatermark", pl.col("pwatermark") <= 0.5),
        ("width", pl.col("WIDTH") >= 340),
        ("height", pl.col("HEIGHT") >= 280),
    ):
        expected[reason] = left.height - left.filter(rule).height
        left = left.filter(rule)
    assert dict(report.funnel) == expected | {"duplicate_url": 0}
    assert set(collection.shard_of()) == set(left["URL"])
    assert all(count > 0 for reason, count in report.funnel if reason != "duplicate_url")


def test_unknown_scores_do_not_pass_a_filter(collection: Collection) -> None:
    rows = aesthetics(6).with_columns(pl.lit(None, pl.Float32).alias("punsafe"))
    collection.write("a.parquet", rows)
    collection.filters = {"max_punsafe": 0.9}
    with pytest.raises(SourceError, match=r"None of the 6 rows .* 6 were dropped as `punsafe`"):
        collection.build()


def test_filter_on_a_column_the_source_lacks(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(3).drop("AESTHETIC_SCORE"))
    collection.filters = {"min_aesthetic": 5.0}
    with pytest.raises(SourceError, match=r"(?s)no column for `aesthetic`.*filters\.min_aesthetic.*source\.columns"):
        collection.build()


def test_removal_lists(collection: Collection, tmp_path: Path) -> None:
    rows = aesthetics(70)
    collection.write("a.parquet", rows)
    collection.build()
    an_id = collection.rows().filter(pl.col("url") == rows["URL"][3])["id"].item()
    lines = tmp_path / "removed.txt"
    lines.write_text(f"# on request\n{rows['URL'][0]}\n{rows['hash'][1]}\n{an_id.upper()}\n\ncdn5.example.com\n")
    table = tmp_path / "removed.parquet"
    pl.DataFrame({"hash": [rows["hash"][2]], "other": ["x"]}).write_parquet(table)
    collection.filters = {"remove": (str(lines), str(table))}
    report = collection.build()
    funnel = dict(report.funnel)
    assert (funnel["removed_url"], funnel["removed_hash"], funnel["removed_id"]) == (1, 2, 1)
    assert funnel["removed_domain"] == sum("cdn5." in url for url in rows["URL"])
    left = set(collection.shard_of())
    assert not left & {rows["URL"][n] for n in range(4)} and not any("cdn5." in url for url in left)
    assert accounted(report)


def test_domain_removal_covers_subdomains_only(collection: Collection, tmp_path: Path) -> None:
    urls = [
        "https://example.org/a", "http://www.Example.org:8080/b", "https://user@img.example.org/c",
        "https://notexample.org/d", "https://example.org.evil.net/e", "https://other.net/example.org",
    ]  # fmt: skip
    collection.write("a.parquet", pl.DataFrame({"url": urls, "text": list("abcdef")}))
    (tmp_path / "removed.txt").write_text("*.example.org\n")
    collection.filters = {"remove": (str(tmp_path / "removed.txt"),)}
    collection.build()
    assert set(collection.shard_of()) == set(urls[3:])


def test_removal_lists_that_are_none(collection: Collection, tmp_path: Path) -> None:
    collection.write("a.parquet", aesthetics(3))
    collection.filters = {"remove": (str(tmp_path / "missing.txt"),)}
    with pytest.raises(SourceError, match=r"missing\.txt is not there"):
        collection.build()
    (tmp_path / "odd.txt").write_text("https://a.b/c\nwhat is this\n")
    collection.filters = {"remove": (str(tmp_path / "odd.txt"),)}
    with pytest.raises(SourceError, match=r"odd\.txt, line 2: 'what is this'"):
        collection.build()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "odd.parquet")
    collection.filters = {"remove": (str(tmp_path / "odd.parquet"),)}
    with pytest.raises(SourceError, match=r"has the columns x"):
        collection.build()


# -- what is refused -----------------------------------------------------------------------------------


def test_progress(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(30))
    seen: list[progress.Progress] = []
    with progress.listening(seen.append):
        collection.build()
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("laion_metadata", 30, 30)


def test_captions_of_any_kind(collection: Collection) -> None:
    captions = [
        "x" * 10_000,
        "写真 と 文字",
        "עברית",
        "emoji 🦊 👩‍👩‍👧",
        'quotes "and", commas\nand lines',
        "nul\0byte",
    ]
    urls = [f"https://example.com/{n}" for n in range(len(captions))]
    collection.write("a.parquet", pl.DataFrame({"url": urls, "text": captions}))
    collection.build()
    rows = collection.rows()
    assert dict(zip(rows["url"], rows["caption"], strict=True)) == dict(zip(urls, captions, strict=True))


def test_shard_hash_depends_on_values_only() -> None:
    rows = pl.DataFrame({"id": ["a", "b", "c"], "caption": ["x", None, ""]})
    frame = pl.concat([rows, pl.DataFrame(schema=CATALOG_SCHEMA)], how="diagonal_relaxed").select(list(CATALOG_SCHEMA))
    frame = frame.cast(CATALOG_SCHEMA)  # type: ignore[arg-type]
    assert shard_hash(frame) == shard_hash(pl.concat([frame.head(1), frame.slice(1)], rechunk=False))
    assert shard_hash(frame) == "02158c96e789425724dc1679c8d55a95", "the hash of stored catalogs must not change"
    changes = [
        frame.with_columns(caption=pl.lit("")), frame.with_columns(caption=pl.lit(None, pl.String)), frame.reverse(),
        frame.with_columns(width=pl.lit(0, pl.Int32)), frame.head(2),
        frame.with_columns(id=pl.Series(["ab", "", "c"])),
    ]  # fmt: skip
    assert len({shard_hash(changed) for changed in [frame, *changes]}) == 7


def test_full_disk_while_spilling_is_one_clear_error(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    collection.write("a.parquet", aesthetics(500))
    monkeypatch.setattr(buckets, "_ROWS_PER_BUCKET", 20)
    real = buckets.pa.ipc.new_file
    monkeypatch.setattr(buckets.pa.ipc, "new_file", lambda path, schema: real("/dev/full", schema))
    with pytest.raises(StorageError, match="is full"):
        collection.build()
    monkeypatch.undo()
    assert collection.build().rows_kept == 500


def test_root_that_is_a_file_is_one_clear_error(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(5))
    (collection.folder / "root").write_text("in the way")
    with pytest.raises(StorageError, match="a part of that path is a file"):
        collection.build()
