"""Cleaning: which versions and files go, which stay; and tables that are not there or damaged."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from latent_assets.atlas.checks import check_live
from latent_assets.atlas.release import prepare, prune, rollback
from latent_assets.atlas.table import LIVE, open_table, table_uri, tags
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import (
    Built,
    change_caption,
    data_files,
    live,
    move_places,
    published,
    staged,
)


def test_cleaning_keeps_live_the_newest_releases_and_young_versions(built: Built) -> None:
    for _ in range(4):
        published(built)
    abandoned = staged(built)
    rollback(built.storage, 2)
    prune(built.storage, keep=2)
    # nothing is old enough yet: every version can still be opened, also the unpublished one
    assert tags(built.storage.lance_uri) == {LIVE: 2, **{f"release-{n:05d}": n for n in (2, 4, 6, 8)}}
    assert open_table(built.storage.lance_uri, abandoned.version).count_rows() == 60
    freed = prune(built.storage, keep=1, younger_than=timedelta(0))
    assert freed > 0
    assert tags(built.storage.lance_uri) == {LIVE: 2, "release-00002": 2, "release-00008": 8}
    assert live(built).count_rows() == 60 and len(live(built).to_arrow()) == 60
    assert open_table(built.storage.lance_uri, "release-00008").count_rows() == 60
    for dropped in (4, 6):
        with pytest.raises(NotBuiltError):
            open_table(built.storage.lance_uri, dropped)


def test_what_a_kept_release_needs_is_never_removed(built: Built) -> None:
    """Files are shared by versions: pruning removes what only dropped ones have, and going back still works."""
    truth = []
    for number in range(4):
        change_caption(built, 25, f"caption {number}")
        for shard in built.shards:
            move_places(built, shard.shard)
        published(built)
        truth.append(live(built).to_arrow().to_pylist())
    before = data_files(built)
    freed = prune(built.storage, keep=2, younger_than=timedelta(0))
    gone = sorted(set(before) - set(data_files(built)))
    # of the first two releases: the rows of the changed shard and all places; the other shards' rows serve all four
    assert sorted(name.split(".")[1] for name in gone) == ["coords"] * 6 + ["rows"] * 2
    assert freed >= sum(len(before[name]) for name in gone)
    assert tags(built.storage.lance_uri) == {LIVE: 8, "release-00006": 6, "release-00008": 8}
    for version in (6, 8, 6):
        rollback(built.storage, version)
        assert live(built).to_arrow().to_pylist() == truth[version // 2 - 1]
        assert all(found.passed for found in check_live(built.profile, built.storage))


def test_files_of_a_killed_build_go_in_time(built: Built) -> None:
    published(built)
    prepare(built.storage, built.shards[0], built.release, {})
    left = [name for name in data_files(built) if name.startswith("00000.")]
    assert len(left) == 4
    prune(built.storage, younger_than=timedelta(0))
    assert len(data_files(built)) == 8  # it may be another build's work
    week_ago = time.time() - 8 * 24 * 3600
    for name in data_files(built):
        os.utime(Path(table_uri(built.storage.lance_uri)) / "data" / name, (week_ago, week_ago))
    prune(built.storage, younger_than=timedelta(0))
    assert len(data_files(built)) == 6
    assert live(built).to_arrow()["id"].to_pylist() == built.ids


def test_cleaning_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotBuiltError, match="no atlas table"):
        prune(Storage(str(tmp_path)))


def test_a_damaged_table_is_a_clear_error(built: Built) -> None:
    published(built)
    versions = Path(table_uri(built.storage.lance_uri)) / "_versions"
    for manifest in versions.iterdir():
        manifest.write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"atlas.lance cannot be opened"):
        live(built)
