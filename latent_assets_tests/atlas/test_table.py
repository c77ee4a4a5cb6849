"""Stage, check, publish: the table's content, what readers see meanwhile, and what survives a kill."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import polars as pl
import pytest
from PIL import Image

from latent_assets.atlas.checks import Check, check
from latent_assets.atlas.dataset import LIVE, open_table, table_exists, table_uri, tags
from latent_assets.atlas.release import ReleaseInfo
from latent_assets.atlas.rows import table_batches
from latent_assets.atlas.schema import arrow_schema
from latent_assets.atlas.table import Release, Staged, clean, move_live, publish, stage
from latent_assets.catalog.shards import catalog_name
from latent_assets.errors import DataError, NotBuiltError, StorageError
from latent_assets.images.store.tar import TarWriter, tar_name
from latent_assets.progress import Progress, listening
from latent_assets.projection.shard import coords_name, read_coords
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import CATEGORIES, PROJECTION, Built, build, picture, release
from latent_assets_tests.projection import synthetic


def staged(built: Built, info: ReleaseInfo | None = None) -> Staged:
    return stage(built.profile, built.storage, built.shards, info or built.release)


def published(built: Built, info: ReleaseInfo | None = None) -> Release:
    made = staged(built, info)
    return publish(built.storage, made, check(built.profile, built.storage, made))


def live(built: Built) -> lance.LanceDataset:
    return open_table(built.storage.lance_uri, LIVE)


# -- content ---------------------------------------------------------------------------------------------


def test_every_column_of_every_row(built: Built) -> None:
    published(built)
    table = live(built).to_table()
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
    assert ReleaseInfo.of_schema(live(built).schema, "here") == built.release


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
    assert live(built).count_rows(filter=f"id = '{built.ids[25]}'") == 0


@pytest.mark.parametrize(
    "caption", ["", "x" * 10_000, "שלום עולם 你好 🏳️‍🌈", "nul \x00 inside", "'; DROP TABLE atlas --\r\n"]
)
def test_any_caption_is_carried_as_it_is(built: Built, caption: str) -> None:
    catalog = built.storage.read_parquet(catalog_name("00000"))
    changed = pl.when(pl.col("id") == built.ids[3]).then(pl.lit(caption)).otherwise("caption").alias("caption")
    built.storage.write_parquet(catalog_name("00000"), catalog.with_columns(changed))
    published(built)
    found = live(built).to_table(columns=["caption"], filter=f"id = '{built.ids[3]}'")
    assert found["caption"].to_pylist() == [caption]


# -- one release after another ---------------------------------------------------------------------------


def test_staging_moves_no_tag(built: Built) -> None:
    first = published(built)
    assert first.replaced is None and tags(built.storage.lance_uri) == {LIVE: 1, "release-00001": 1}
    made = staged(built)
    assert (made.version, made.live) == (2, 1)
    assert live(built).version == 1
    second = publish(built.storage, made, check(built.profile, built.storage, made))
    assert (second.version, second.tag, second.replaced) == (2, "release-00002", 1)
    assert live(built).version == 2


def test_going_back_is_one_step(built: Built) -> None:
    published(built)
    published(built)
    move_live(built.storage, 1)
    assert live(built).version == 1
    with pytest.raises(NotBuiltError):
        move_live(built.storage, 99)
    assert live(built).version == 1


def test_a_failed_check_leaves_live_and_drops_nothing(built: Built) -> None:
    published(built)
    made = staged(built)
    checks = check(built.profile, built.storage, made)
    failed = Check("unique_ids", False, "3 repeated", "0 repeated", "")
    with pytest.raises(DataError, match="unique_ids: found 3 repeated, expected 0 repeated") as refused:
        publish(built.storage, made, [*checks, failed])
    assert "Readers keep the release before" in str(refused.value)
    assert tags(built.storage.lance_uri) == {LIVE: 1, "release-00001": 1}
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
    assert publish(built.storage, made, checks).version == publish(built.storage, made, checks).version == 1
    assert tags(built.storage.lance_uri) == {LIVE: 1, "release-00001": 1}


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
                dataset = live(built)
                ids = dataset.to_table(columns=["id"]).num_rows
                seen.add((ids, dataset.count_rows(), ReleaseInfo.of_schema(dataset.schema, "").rows))
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
from pathlib import Path
from latent_assets.atlas import rows, table
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import ReleaseInfo
from latent_assets.atlas.rows import table_batches
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import release
from latent_assets_tests.projection import synthetic
root, point = sys.argv[1:]
profile, storage = synthetic.profile(root), Storage(root)
shards = [synthetic.names(f"{i:05d}") for i in range(3)]
info = release(profile, storage, shards)
def wait():
    print("here", flush=True)
    time.sleep(600)
if point == "staging":
    whole = rows._shard_columns
    rows._shard_columns = lambda p, s, shard, r: wait() if shard.shard == "00002" else whole(p, s, shard, r)
made = table.stage(profile, storage, shards, info)
if point == "staged":
    wait()
checks = check(profile, storage, made)
if point == "naming":
    table.move_live = lambda *_: wait()
table.publish(storage, made, checks)
"""


@pytest.mark.parametrize("point", ["staging", "staged", "naming"])
def test_a_kill_before_the_tag_moved_leaves_the_old_release(built: Built, point: str) -> None:
    published(built)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, built.storage.root, point], cwd=synthetic.REPOSITORY, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert live(built).version == 1 and live(built).count_rows() == 60
    again = published(built)
    assert live(built).version == again.version > 1
    assert live(built).count_rows() == 60


# -- rows that do not fit together -----------------------------------------------------------------------


def test_a_missing_image_names_shard_and_row_and_commits_nothing(built: Built) -> None:
    published(built)
    with built.storage.writing(tar_name("00001")) as path, path.open("wb") as file:
        tar = TarWriter(file)
        for i in range(21, 40):
            tar.add(f"{built.ids[i]}.png", picture(i))
        tar.close()
    with pytest.raises(DataError, match="Shard 00001: 1 rows have coordinates but are not in the images") as refused:
        staged(built)
    assert built.ids[20] in str(refused.value)
    assert open_table(built.storage.lance_uri, None).version == 1


def test_a_broken_image_in_the_first_shard_is_the_same_clear_error(built: Built) -> None:
    with built.storage.writing(tar_name("00000")) as path, path.open("wb") as file:
        tar = TarWriter(file)
        for i in range(20):
            tar.add(f"{built.ids[i]}.png", picture(i) if i != 4 else b"\x89PNG broken")
        tar.close()
    with pytest.raises(DataError, match=f"image {built.ids[4]} of shard 00000 cannot be decoded"):
        staged(built)
    assert not table_exists(built.storage.lance_uri)


def test_a_row_that_left_the_catalog_is_refused(built: Built) -> None:
    catalog = built.storage.read_parquet(catalog_name("00002"))
    built.storage.write_parquet(catalog_name("00002"), catalog.filter(pl.col("id") != built.ids[50]))
    with pytest.raises(DataError, match="not in the catalog, the first is") as refused:
        staged(built)
    assert built.ids[50] in str(refused.value)


def test_a_missing_shard_is_refused(built: Built) -> None:
    built.storage.delete(tar_name("00002"))
    with pytest.raises(StorageError, match=r"images/00002.tar is not there"):
        staged(built)
    assert not table_exists(built.storage.lance_uri)


# -- size ------------------------------------------------------------------------------------------------


def test_memory_stays_flat_batches_are_bounded(built: Built) -> None:
    """Rows are pulled by the writer shard by shard: the second shard is not read before the first is taken."""
    seen: list[Progress] = []
    with listening(seen.append):
        batches = table_batches(built.profile, built.storage, built.shards, built.release)
        next(batches)
        assert [step.note for step in seen] == ["shard 00000"]
        rest = [batch.num_rows for batch in batches]
    assert rest == [20, 20]
    assert [(step.done, step.total) for step in seen] == [(0, 60), (20, 60), (40, 60), (60, 60)]


def test_a_large_table_gets_an_index_that_finds_the_same(tmp_path: Path) -> None:
    large = build(tmp_path / "root", rows=600, shards=1, spaces=("clip",))
    profile = large.profile.model_copy(
        update={"table": large.profile.table.model_copy(update={"index_above_rows": 500})}
    )
    made = stage(profile, large.storage, large.shards, large.release)
    assert made.indexed
    checks = check(profile, large.storage, made)
    assert all(found.passed for found in checks), checks
    publish(large.storage, made, checks)
    dataset = live(large)
    assert {index.name for index in dataset.describe_indices()} == {"clip_idx", "id_idx"}
    query = {"column": "clip", "q": large.clip[3].astype(np.float32), "k": 10, "metric": "cosine"}
    found = dataset.to_table(columns=["id"], nearest=query | {"nprobes": 32, "refine_factor": 10})
    exact = np.argsort(-(large.clip @ large.clip[3]))[:10]
    assert len(set(found["id"].to_pylist()) & {large.ids[i] for i in exact}) >= 9


def test_progress_reaches_the_listener_of_the_caller(built: Built) -> None:
    seen: list[Progress] = []
    with listening(seen.append):
        staged(built)
    assert [(step.stage, step.done, step.total) for step in seen] == [("atlas_table", n, 60) for n in (0, 20, 40, 60)]


def test_a_disk_that_takes_nothing_is_a_clear_error(built: Built) -> None:
    published(built)
    folder = Path(table_uri(built.storage.lance_uri)) / "data"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(b"in the way of the data folder")
    with pytest.raises(StorageError, match=r"atlas.lance cannot be written .*release before is untouched"):
        staged(built)


# -- cleaning --------------------------------------------------------------------------------------------


def test_cleaning_keeps_live_the_newest_releases_and_young_versions(built: Built) -> None:
    for _ in range(4):
        published(built)
    abandoned = staged(built)
    move_live(built.storage, 1)
    clean(built.storage, keep=2)
    assert tags(built.storage.lance_uri) == {LIVE: 1, "release-00001": 1, "release-00003": 3, "release-00004": 4}
    # nothing is old enough yet: every version can still be opened, also the unpublished one
    assert open_table(built.storage.lance_uri, abandoned.version).count_rows() == 60
    freed = clean(built.storage, keep=1, unpublished_for=timedelta(0))
    assert freed > 0
    assert live(built).count_rows() == 60 and len(live(built).to_table()) == 60
    assert open_table(built.storage.lance_uri, "release-00004").count_rows() == 60
    for dropped in (2, 3):
        with pytest.raises(NotBuiltError):
            open_table(built.storage.lance_uri, dropped)


def test_cleaning_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotBuiltError, match="no atlas table"):
        clean(Storage(str(tmp_path)))


def test_a_damaged_table_is_a_clear_error(built: Built) -> None:
    published(built)
    versions = Path(table_uri(built.storage.lance_uri)) / "_versions"
    for manifest in versions.iterdir():
        manifest.write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"atlas.lance cannot be opened"):
        live(built)
