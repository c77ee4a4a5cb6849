"""The cost of a release follows what changed since the one before: which data files it writes, and which it keeps."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import polars as pl
import pytest

from latent_assets.atlas.checks import check
from latent_assets.atlas.release import commit, prepare, publish, rollback, stage
from latent_assets.atlas.schema import arrow_schema
from latent_assets.atlas.table import LIVE, open_table, table_exists, table_uri
from latent_assets.client import Atlas
from latent_assets.layout import catalog_name, coords_name
from latent_assets.projection.shard import read_coords
from latent_assets_tests.atlas.built import (
    PROJECTION,
    Built,
    change_caption,
    data_files,
    live,
    move_places,
    published,
    release,
    staged,
)


def test_nothing_changed_writes_nothing_and_reads_no_shard(built: Built) -> None:
    published(built)
    before, shards = data_files(built), built.shards
    for folder in ("catalog", "images", "embeddings", "thumbnails"):
        built.storage.delete(folder)
    made = stage(built.profile, built.storage, shards, built.release)
    assert (made.written, made.rewritten, made.moved) == (0, 0, 0) and data_files(built) == before
    assert all(found.passed for found in check(built.profile, built.storage, made))


def test_a_changed_shard_rewrites_itself_alone(built: Built) -> None:
    first = staged(built)
    assert (first.rewritten, first.moved) == (3, 0)
    before = data_files(built)
    assert first.written == sum(map(len, before.values()))
    change_caption(built, 25, "another caption")
    made = staged(built)
    after = data_files(built)
    assert after.items() > before.items()
    new = sorted(set(after) - set(before))
    assert [name.split(".")[:2] for name in new] == [["00001", "coords"], ["00001", "rows"]]
    assert (made.rewritten, made.moved, made.written) == (1, 0, sum(len(after[name]) for name in new))
    found, old = (open_table(built.storage.lance_uri, version).to_arrow() for version in (made.version, first.version))
    at = old["id"].to_pylist().index(built.ids[25])
    assert found["caption"].to_pylist()[at] == "another caption"
    assert old["caption"].to_pylist()[at] == "picture number 25 — фото"
    expected = old.to_pylist()
    expected[at] |= {"caption": "another caption"}
    assert found.to_pylist() == expected


def test_a_refit_rewrites_places_alone(built: Built) -> None:
    first = staged(built)
    before = data_files(built)
    places = {shard.shard: move_places(built, shard.shard) for shard in built.shards}
    made = staged(built)
    new = set(data_files(built)) - set(before)
    assert sorted(name.split(".")[1] for name in new) == ["coords"] * 3
    assert (made.rewritten, made.moved) == (0, 3)
    found, old = (open_table(built.storage.lance_uri, version).to_arrow() for version in (made.version, first.version))
    moved = np.array(found["xyz_clip"].to_pylist(), np.float32)
    np.testing.assert_array_equal(moved, np.concatenate([places[f"{i:05d}"] for i in range(3)]))
    np.testing.assert_allclose(np.array(old["xyz_clip"].to_pylist()), moved - 5, atol=1e-5)
    assert found.drop(["xyz_clip"]).equals(old.drop(["xyz_clip"]))


def test_places_in_another_order_rewrite_the_rows_too(built: Built) -> None:
    """The rows of a shard follow its coordinates: places must never stand beside other rows."""
    published(built)
    frame = read_coords(built.storage, PROJECTION, "00001")
    built.storage.write_parquet(coords_name(PROJECTION, "00001"), frame.reverse())
    made = staged(built)
    assert (made.rewritten, made.moved) == (1, 0)
    found = open_table(built.storage.lance_uri, made.version).to_arrow()
    assert found["id"].to_pylist() == [*built.ids[:20], *reversed(built.ids[20:40]), *built.ids[40:]]
    by_id = dict(zip(frame["id"], frame["xyz_vae"].to_list(), strict=True))
    for row in found.slice(20, 20).to_pylist():
        np.testing.assert_array_equal(np.array(row["xyz_vae"], np.float32), np.array(by_id[row["id"]], np.float32))


def test_a_refit_keeps_the_indexes_and_other_rows_do_not(built: Built) -> None:
    profile = built.profile.model_copy(
        update={"table": built.profile.table.model_copy(update={"index_above_rows": 50})}
    )
    built = replace(built, profile=profile)

    def indexes() -> dict[str, str]:
        return {index.name: str(index.index_uuid) for index in live(built).list_indices()}

    first = published(built)
    known, folder = indexes(), Path(table_uri(built.storage.lance_uri)) / "_indices"
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert set(known) == {
        "id_idx",
        "caption_words",
        "caption_ngram",
        "category_idx",
        "aesthetic_idx",
        "clip_idx",
        "vae_idx",
    }
    moved = move_places(built, "00001")
    second = published(built, replace(built.release, title="after a refit"))
    assert (
        indexes() == known and {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
    )
    assert second.info.search == first.info.search and second.info.title == "after a refit"
    table = live(built).to_arrow()
    np.testing.assert_array_equal(np.array(table["xyz_clip"].to_pylist(), np.float32)[20:40], moved)
    assert table["id"].to_pylist() == built.ids and table.schema.equals(
        arrow_schema(built.release.dims, built.release.spaces)
    )
    atlas = Atlas.open(built.storage.root)
    hits = atlas.search_text("number 25", 3, mode="words")
    assert hits[0].id == built.ids[25] and hits[0].xyz["clip"] == pytest.approx(moved[5].tolist())
    assert atlas.neighbors(built.ids[25], 5)[0].xyz != {} and atlas.row(built.ids[59]).source_hash == -59
    # the release before is what it was
    old = open_table(built.storage.lance_uri, first.tag).to_arrow()
    np.testing.assert_allclose(np.array(old["xyz_clip"].to_pylist())[20:40] + 5, moved, rtol=1e-5)
    change_caption(built, 25, "a heron")
    published(built)
    assert not set(indexes().values()) & set(known.values())
    assert [hit.id for hit in Atlas.open(built.storage.root).search_text("heron", 3, mode="words")] == [built.ids[25]]
    stage(built.profile, built.storage, built.shards, built.release, anew=True)
    anew = {str(index.index_uuid) for index in open_table(built.storage.lance_uri, None).list_indices()}
    assert not anew & set(indexes().values())


def test_removed_shards_and_rows_disappear(built: Built) -> None:
    published(built)
    emptied = read_coords(built.storage, PROJECTION, "00001").clear()
    built.storage.write_parquet(coords_name(PROJECTION, "00001"), emptied)
    info = release(built.profile, built.storage, built.shards[:2])
    assert info.shards == {"00000": 20, "00001": 0}
    before = data_files(built)
    made = stage(built.profile, built.storage, built.shards[:2], info)
    assert made.written == 0 and data_files(built) == before
    publish(built.storage, made, check(built.profile, built.storage, made))
    assert live(built).to_arrow()["id"].to_pylist() == built.ids[:20]


def test_other_columns_rewrite_everything(built: Built) -> None:
    """A release with a map less is another table: its columns have other places."""
    published(built)
    info = replace(built.release, spaces=("clip", "joint"))
    made = staged(built, info)
    assert made.rewritten == 3
    table = open_table(built.storage.lance_uri, made.version).to_arrow()
    assert table.schema.equals(arrow_schema(info.dims, info.spaces)) and table["id"].to_pylist() == built.ids


def test_the_version_that_readers_have_is_built_upon_too(built: Built) -> None:
    """After a change was staged, refused and taken back, nothing has to be written."""
    published(built)
    original = built.storage.read_bytes(catalog_name("00001"))
    change_caption(built, 25, "another caption")
    assert staged(built).rewritten == 1
    built.storage.write_bytes(catalog_name("00001"), original)
    assert staged(built).written == 0


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_damaged_files_are_not_built_upon(built: Built, damage: str) -> None:
    published(built)
    file = next(Path(table_uri(built.storage.lance_uri)).glob("data/00001.rows.*"))
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000])
    again = published(built)
    assert live(built).to_arrow()["id"].to_pylist() == built.ids and again.version == 4


def test_everything_is_written_anew_on_demand(built: Built) -> None:
    first = staged(built)
    again = stage(built.profile, built.storage, built.shards, built.release, anew=True)
    assert (again.rewritten, again.written) == (3, first.written) and len(data_files(built)) == 12


def test_rows_taken_out_by_hand_do_not_come_back_from_old_files(built: Built) -> None:
    """A fragment that rows were deleted from is not taken over: its files still hold them."""
    published(built)
    open_table(built.storage.lance_uri, None).delete(f"id = '{built.ids[25]}'")
    frame = read_coords(built.storage, PROJECTION, "00001")
    built.storage.write_parquet(coords_name(PROJECTION, "00001"), frame.filter(pl.col("id") != built.ids[25]))
    made = staged(built, release(built.profile, built.storage, built.shards))
    assert made.rewritten == 1
    table = open_table(built.storage.lance_uri, made.version)
    assert table.count_rows() == 59 and table.count_rows(f"id = '{built.ids[25]}'") == 0


def test_shards_are_prepared_in_any_order_by_several_at_once(built: Built) -> None:
    with ThreadPoolExecutor(3) as pool:
        makes = [pool.submit(prepare, built.storage, shard, built.release, {}) for shard in reversed(built.shards)]
        prepared = sorted((make.result() for make in makes), key=lambda shard: shard.shard)
    assert not table_exists(built.storage.lance_uri)
    version, indexed, described = commit(built.profile, built.storage, built.release, prepared)
    assert (version, indexed, described.rows) == (2, False, 60)
    assert open_table(built.storage.lance_uri, 2).to_arrow()["id"].to_pylist() == built.ids


def test_a_table_written_whole_is_replaced_shard_by_shard(built: Built) -> None:
    """A table of one file with all columns, as once written: the next release is new, the old one stays."""
    schema = arrow_schema(built.release.dims, built.release.spaces, built.release.to_json())
    version = staged(built).version
    whole = open_table(built.storage.lance_uri, version).to_arrow().cast(schema)
    built.storage.delete("lance")
    old = lance.write_dataset(whole, table_uri(built.storage.lance_uri), mode="create")
    old.tags.create(LIVE, 1)
    made = staged(built)
    assert (made.version, made.live, made.rewritten) == (3, 1, 3)
    publish(built.storage, made, check(built.profile, built.storage, made))
    assert live(built).to_arrow().equals(whole)
    rollback(built.storage, 1)
    assert live(built).to_arrow().equals(whole)
