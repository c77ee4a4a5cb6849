"""Stage, check, publish: the table's content, what readers see meanwhile, and what survives a kill."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from latent_assets import spaces
from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.checks import Check, check, check_live
from latent_assets.atlas.pictures import release_pictures
from latent_assets.atlas.release import publish, rollback, stage
from latent_assets.atlas.schema import arrow_schema
from latent_assets.atlas.table import LIVE, nearest, open_table, table_exists, table_uri, tags
from latent_assets.client import Atlas
from latent_assets.embeddings.store import writing_embeddings
from latent_assets.errors import DataError, NotBuiltError, StorageError
from latent_assets.layout import catalog_name, coords_name, embedding_name
from latent_assets.progress import Progress, listening
from latent_assets.projection.shard import project_shard, read_coords
from latent_assets_tests.atlas.built import (
    CATEGORIES,
    PROJECTION,
    Built,
    build,
    live,
    picture,
    published,
    release,
    staged,
    thumbnails_name,
    write_thumbnails,
)
from latent_assets_tests.projection import synthetic

# -- content ---------------------------------------------------------------------------------------------


def test_every_column_of_every_row(built: Built) -> None:
    published(built)
    table = live(built).to_arrow()
    assert table.schema.equals(arrow_schema({"clip": 32, "vae": 16}, ("clip", "vae", "joint")))
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == built.ids
    vae = synthetic.vae_columns(60)["pooled"].astype(np.float16)
    for i in (0, 1, 5, 23, 59):
        row = rows[i]
        assert row["url"] == f"http://example.org/{i}.png"
        assert row["source_url"] == (f"http://example.org/page/{i}" if i % 5 else None)
        assert row["caption"] == f"picture number {i} — фото"
        assert row["category"] == CATEGORIES[i % 3]
        assert row["aesthetic"] == pytest.approx(5.0 + i / 100) and row["pwatermark"] is None
        assert row["source_hash"] == -i
        assert (row["width"], row["height"]) == (160, 120)
        assert row["sha256"] == hashlib.sha256(picture(i)).hexdigest()
        assert row["shard"] == f"{i // 20:05d}"
        np.testing.assert_array_equal(np.array(row["clip"], np.float16), built.clip[i].astype(np.float16))
        np.testing.assert_array_equal(np.array(row["vae"], np.float16), vae[i])
        colour = np.asarray(Image.open(io.BytesIO(row["thumbnail"])).convert("RGB")).mean(axis=(0, 1))
        np.testing.assert_allclose(colour, (i * 37 % 256, i * 91 % 256, i * 53 % 256), atol=6)
    coords = pl.concat([read_coords(built.storage, PROJECTION, shard.shard) for shard in built.shards])
    for space in ("clip", "vae", "joint"):
        found = np.array([row[f"xyz_{space}"] for row in rows], np.float32)
        np.testing.assert_array_equal(found, coords[f"xyz_{space}"].to_numpy())


def test_the_table_carries_its_release(built: Built) -> None:
    published(built)
    found = ReleaseInfo.of_schema(live(built).schema, "here")
    assert found == replace(built.release, content=found.content) and len(found.content) == 32


def test_lancedb_reads_and_searches_it(built: Built) -> None:
    import lancedb

    published(built)
    table = lancedb.connect(built.storage.lance_uri).open_table("atlas")
    table.checkout(LIVE)
    query = built.clip[7].astype(np.float32)
    found = table.search(query, vector_column_name="clip").distance_type("cosine").limit(5).to_list()
    expected = np.argsort(-(built.clip @ query), kind="stable")[:5]
    assert [row["id"] for row in found] == [built.ids[i] for i in expected]
    np.testing.assert_allclose([row["_distance"] for row in found], 1 - built.clip[expected] @ query, atol=2e-3)


def test_rows_without_a_place_are_left_out(built: Built) -> None:
    """A row that one model did not embed has no coordinates and is not in the table."""
    frame = read_coords(built.storage, PROJECTION, "00001")
    built.storage.write_parquet(coords_name(PROJECTION, "00001"), frame.filter(pl.col("id") != built.ids[25]))
    info = release(built.profile, built.storage, built.shards)
    assert info.rows == 59
    published(built, info)
    assert live(built).count_rows() == 59
    assert live(built).count_rows(f"id = '{built.ids[25]}'") == 0


@pytest.mark.parametrize(
    "caption", ["", "x" * 10_000, "שלום עולם 你好 🏳️‍🌈", "nul \x00 inside", "'; DROP TABLE atlas --\r\n"]
)
def test_any_caption_is_carried_as_it_is(built: Built, caption: str) -> None:
    catalog = built.storage.read_parquet(catalog_name("00000"))
    changed = pl.when(pl.col("id") == built.ids[3]).then(pl.lit(caption)).otherwise("caption").alias("caption")
    built.storage.write_parquet(catalog_name("00000"), catalog.with_columns(changed))
    published(built)
    found = live(built).search().where(f"id = '{built.ids[3]}'").select(["caption"]).to_arrow()
    assert found["caption"].to_pylist() == [caption]


# -- one release after another ---------------------------------------------------------------------------


def test_staging_moves_no_tag(built: Built) -> None:
    first = published(built)
    assert first.replaced is None and tags(built.storage.lance_uri) == {LIVE: 2, "release-00002": 2}
    made = staged(built)
    assert (made.version, made.live) == (4, 2)
    assert live(built).version == 2
    second = publish(built.storage, made, check(built.profile, built.storage, made))
    assert (second.version, second.tag, second.replaced) == (4, "release-00004", 2)
    assert live(built).version == 4


def test_going_back_is_one_step(built: Built) -> None:
    published(built)
    published(built)
    rollback(built.storage, 2)
    assert live(built).version == 2
    with pytest.raises(NotBuiltError):
        rollback(built.storage, 99)
    assert live(built).version == 2


def test_a_failed_check_leaves_live_and_drops_nothing(built: Built) -> None:
    published(built)
    made = staged(built)
    checks = check(built.profile, built.storage, made)
    failed = Check("unique_ids", False, "3 repeated", "0 repeated", "")
    with pytest.raises(DataError, match="unique_ids: found 3 repeated, expected 0 repeated") as refused:
        publish(built.storage, made, [*checks, failed])
    assert "Readers keep the release before" in str(refused.value)
    assert tags(built.storage.lance_uri) == {LIVE: 2, "release-00002": 2}
    assert open_table(built.storage.lance_uri, made.version).count_rows() == 60


def test_an_unchecked_release_is_not_published(built: Built) -> None:
    made = staged(built)
    with pytest.raises(DataError, match=r"was not checked.*keep no release"):
        publish(built.storage, made, [])
    with pytest.raises(NotBuiltError, match="not the release `live`"):
        live(built)


def test_publishing_twice_changes_nothing(built: Built) -> None:
    made = staged(built)
    checks = check(built.profile, built.storage, made)
    assert publish(built.storage, made, checks).version == publish(built.storage, made, checks).version == 2
    assert tags(built.storage.lance_uri) == {LIVE: 2, "release-00002": 2}


def test_readers_see_the_old_release_or_the_new_one(built: Built) -> None:
    """Readers that follow the tag while releases of 60 and of 20 rows alternate: never another number."""
    small = release(built.profile, built.storage, built.shards[:1])
    published(built)
    seen: set[tuple[int, int, int]] = set()
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                table = live(built)
                ids = table.search().select(["id"]).to_arrow().num_rows
                seen.add((ids, table.count_rows(), ReleaseInfo.of_schema(table.schema, "").rows))
            except BaseException as error:
                errors.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(3):
        for info, shards in ((small, built.shards[:1]), (built.release, built.shards)):
            made = stage(built.profile, built.storage, shards, info)
            publish(built.storage, made, check(built.profile, built.storage, made))
            time.sleep(0.05)
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert seen == {(60, 60, 60), (20, 20, 20)}


KILLED = """
import sys, time
from latent_assets.atlas import release as room
from latent_assets.atlas.checks import check
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import contents, release
from latent_assets_tests.projection import synthetic
root, point = sys.argv[1:]
profile, storage = synthetic.profile(root), Storage(root)
shards = contents(storage, [synthetic.names(f"{i:05d}") for i in range(3)])
info = release(profile, storage, shards)
def wait():
    print("here", flush=True)
    time.sleep(600)
if point == "staging":
    whole = room.read_rows
    room.read_rows = lambda s, shard, *rest: wait() if shard.shard == "00002" else whole(s, shard, *rest)
if point == "prepared":
    room.commit_shards = lambda *_: wait()
made = room.stage(profile, storage, shards, info, anew=True)
if point == "staged":
    wait()
checks = check(profile, storage, made)
if point == "naming":
    room.move_live = lambda *_: wait()
room.publish(storage, made, checks)
"""


@pytest.mark.parametrize("point", ["staging", "prepared", "staged", "naming"])
def test_a_kill_before_the_tag_moved_leaves_the_old_release(built: Built, point: str) -> None:
    published(built)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, built.storage.root, point], cwd=synthetic.REPOSITORY, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert live(built).version == 2 and live(built).count_rows() == 60
    again = published(built)
    assert live(built).version == again.version > 1
    assert live(built).count_rows() == 60


# -- rows that do not fit together -----------------------------------------------------------------------


def test_a_missing_thumbnail_names_shard_and_row_and_commits_nothing(built: Built) -> None:
    published(built)
    files = [picture(i) for i in range(21, 40)]
    write_thumbnails(built.storage, "00001", built.ids[21:40], files)
    with pytest.raises(DataError, match="Shard 00001: 1 rows have coordinates but are not in the thumbnails") as found:
        staged(built)
    assert built.ids[20] in str(found.value)
    assert open_table(built.storage.lance_uri, None).version == 2


def test_a_row_that_left_the_catalog_is_refused(built: Built) -> None:
    catalog = built.storage.read_parquet(catalog_name("00002"))
    built.storage.write_parquet(catalog_name("00002"), catalog.filter(pl.col("id") != built.ids[50]))
    with pytest.raises(DataError, match="not in the catalog, the first is") as refused:
        staged(built)
    assert built.ids[50] in str(refused.value)


def test_a_missing_shard_is_refused(built: Built) -> None:
    built.storage.delete(thumbnails_name("00002"))
    with pytest.raises(StorageError, match=r"thumbnails/e+/00002.arrow is not there"):
        staged(built)
    assert not table_exists(built.storage.lance_uri)


# -- another embedding -----------------------------------------------------------------------------------


def test_a_third_embedding_is_published_and_searched(built: Built, third: spaces.Embedding) -> None:
    """A row of the table of embeddings is all it takes: column, map, checks and neighbours follow."""
    published(built)
    hues = np.random.default_rng(5).random((60, 12)).astype(np.float16)
    embeddings = []
    for number, shard in enumerate(built.embeddings):
        ids, rows = built.ids[number * 20 : number * 20 + 20], hues[number * 20 : number * 20 + 20]
        name = embedding_name("9" * 32, shard.shard)
        with writing_embeddings(built.storage, name, {"histogram": 12}) as writer:
            writer.append(ids, {"histogram": rows})
        embeddings.append(replace(shard, files={**shard.files, "hue": name}))
        frame = read_coords(built.storage, PROJECTION, shard.shard)
        places = pl.Series(rows[:, :3].astype(np.float32), dtype=pl.Array(pl.Float32, 3))
        built.storage.write_parquet(coords_name(PROJECTION, shard.shard), frame.with_columns(xyz_hue=places))
    info = replace(
        built.release,
        spaces=(*built.release.spaces, "hue"),
        dims={**built.release.dims, "hue": 12},
        metrics={**built.release.metrics, "hue": third.metric},
        features={**built.release.features, "hue": "histogram"},
    )
    changed = replace(built, embeddings=embeddings, release=info)
    published(changed)
    table = live(changed).to_arrow()
    assert table.schema.equals(arrow_schema(info.dims, info.spaces))
    np.testing.assert_array_equal(np.array(table["hue"].to_pylist(), np.float16), hues)
    atlas = Atlas.open(built.storage.root)
    exact = np.linalg.norm(hues.astype(np.float64) - hues[11].astype(np.float64), axis=1)
    hits = atlas.neighbors(built.ids[11], k=5, space="hue")
    assert [hit.id for hit in hits] == [built.ids[i] for i in np.argsort(exact, kind="stable")[1:6]]
    assert {hit.measure for hit in hits} == {"L2 distance"}
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(exact)[1:6], rtol=1e-3)
    np.testing.assert_array_equal(np.float32(atlas.row(built.ids[11]).xyz["hue"]), hues[11, :3].astype(np.float32))
    first = Atlas.open(built.storage.root, tag="release-00002").info
    assert first == replace(built.release, content=first.content)


# -- size ------------------------------------------------------------------------------------------------


def test_one_shard_is_in_memory_at_a_time(built: Built) -> None:
    """A shard's files are written before the next shard is read."""
    folder = Path(table_uri(built.storage.lance_uri)) / "data"
    seen: list[tuple[str, int]] = []
    with listening(lambda step: seen.append((step.note, len(list(folder.glob("*.lance")))))):
        staged(built)
    assert seen[:3] == [("shard 00000", 0), ("shard 00001", 2), ("shard 00002", 4)] and seen[3][1] == 6


def test_a_large_table_gets_an_index_that_finds_the_same(tmp_path: Path) -> None:
    large = build(tmp_path / "root", rows=600, shards=2, spaces=("clip",))
    profile = large.profile.model_copy(
        update={"table": large.profile.table.model_copy(update={"index_above_rows": 500})}
    )
    made = stage(profile, large.storage, large.shards, large.release)
    assert made.indexed
    checks = check(profile, large.storage, made)
    assert all(found.passed for found in checks), checks
    assert {found.name for found in checks} > {"indexes", "search_recall"}
    publish(large.storage, made, checks)
    table = live(large)
    assert {index.name for index in table.list_indices()} > {"clip_idx", "vae_idx", "id_idx"}
    info = Atlas.open(large.storage.root).info
    assert info.search == made.release.search and set(info.search) == {"clip", "vae"}
    vae = synthetic.vae_columns(600)["pooled"].astype(np.float32)
    for name, metric, vectors in (("clip", "cosine", large.clip), ("vae", "euclidean", vae)):
        said = info.search[name]
        assert said["index"] == "IVF_RQ" and said["lists"] == 4 and 1 <= said["probes"] <= 4
        hits = 0
        for row in range(0, 600, 12):
            distances = (
                1 - vectors @ vectors[row] if metric == "cosine" else np.linalg.norm(vectors - vectors[row], axis=1)
            )
            search = nearest(table, name, metric, vectors[row], 10, said["probes"]).select(["id", "_distance"])
            hits += len(set(search.to_arrow()["id"].to_pylist()) & {large.ids[i] for i in np.argsort(distances)[:10]})
        assert hits / 500 == pytest.approx(said["recall"], abs=0.03) and said["recall"] >= 0.95


def test_ids_captions_and_filters_are_indexed_however_few_rows_there_are(built: Built) -> None:
    release = published(built)
    table = live(built)
    assert {index.name: index.num_indexed_rows for index in table.list_indices()} == dict.fromkeys(
        ["id_idx", "caption_words", "caption_ngram", "category_idx", "aesthetic_idx"], 60
    )
    atlas = Atlas.open(built.storage.root)
    assert [atlas.row(row_id).source_hash for row_id in built.ids] == [-i for i in range(60)]
    with pytest.raises(NotBuiltError, match="has no row"):
        atlas.row("f" * 32)
    plan = table.search().where("aesthetic >= 7 AND contains(caption, 'number 4')").explain_plan(True)
    assert "caption_ngram(NGram)" in plan and "aesthetic_idx(BTree)" in plan
    # the commit of the rows is a version, that of the indexes another; nothing is left of what they were made from
    assert release.version == 2 and tags(built.storage.lance_uri) == {LIVE: 2, "release-00002": 2}
    folder = Path(table_uri(built.storage.lance_uri)) / "_indices"
    assert {path.name for path in folder.iterdir()} == {str(index.index_uuid) for index in table.list_indices()}


def test_progress_reaches_the_listener_of_the_caller(built: Built) -> None:
    seen: list[Progress] = []
    with listening(seen.append):
        staged(built)
    assert [(step.stage, step.done, step.total) for step in seen] == [
        ("atlas_table", n, 60) for n in (0, 20, 40, 60, 60)
    ]


def test_a_disk_that_takes_nothing_is_a_clear_error(built: Built) -> None:
    published(built)
    folder = Path(table_uri(built.storage.lance_uri)) / "data"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(b"in the way of the data folder")
    with pytest.raises(StorageError, match=r"atlas.lance cannot be written .*release before is untouched"):
        staged(built)


# -- an atlas without rows -----------------------------------------------------------------------------------


def test_an_atlas_that_lost_its_last_row_is_published(built: Built) -> None:
    published(built)
    for shard in built.shards:
        emptied = read_coords(built.storage, PROJECTION, shard.shard).clear()
        built.storage.write_parquet(coords_name(PROJECTION, shard.shard), emptied)
    info = release(built.profile, built.storage, built.shards)
    assert info.rows == 0
    made = staged(built, info)
    refused = [found.name for found in check(built.profile, built.storage, made) if not found.passed]
    assert refused == ["row_count"]
    checks = check(built.profile, built.storage, made, empty=True)
    assert all(found.passed for found in checks), checks
    publish(built.storage, made, checks)
    assert live(built).count_rows() == 0
    atlas = Atlas.open(built.storage.root)
    assert len(atlas) == 0 and atlas.search_vector(built.clip[0]) == [] and len(atlas.to_polars()) == 0
    with pytest.raises(NotBuiltError, match="has no row"):
        atlas.neighbors(built.ids[0])
    assert release_pictures(built.storage.lance_uri, made.version) == {}
    assert all(found.passed for found in check_live(built.profile, built.storage))
    # and rows can come back
    for number in range(3):
        built.storage.delete(f"projection/{PROJECTION}/coords/{number:05d}.parquet")
    for embeddings in built.embeddings:
        project_shard(built.profile, built.storage, PROJECTION, embeddings)
    assert published(built, release(built.profile, built.storage, built.shards)).info.rows == 60


def test_a_first_release_without_rows_and_with_indexes(built: Built) -> None:
    for shard in built.shards:
        emptied = read_coords(built.storage, PROJECTION, shard.shard).clear()
        built.storage.write_parquet(coords_name(PROJECTION, shard.shard), emptied)
    made = staged(built, release(built.profile, built.storage, built.shards))
    assert (made.version, made.written, made.indexed) == (1, 0, False)
    assert all(found.passed for found in check(built.profile, built.storage, made, empty=True))
