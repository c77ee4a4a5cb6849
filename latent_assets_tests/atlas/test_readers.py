"""Readers while releases are published: twenty that follow `live` throughout ten publishes and three rollbacks."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from latent_assets.atlas.release import prune, rollback
from latent_assets.atlas.table import LIVE, tags
from latent_assets.client import Atlas, QueryError
from latent_assets.errors import NotBuiltError
from latent_assets.layout import catalog_name
from latent_assets_tests.atlas.built import Built, change_caption, published, release

READERS = 20


def stamped(built: Built, number: int) -> int:
    """Publish a release in which every row of every shard says the release's number; its version."""
    for shard in built.shards:
        name = catalog_name(shard.shard)
        frame = built.storage.read_parquet(name)
        built.storage.write_parquet(name, frame.with_columns(caption=pl.lit(f"of release {number}")))
    return published(built, release(built.profile, built.storage, built.shards, f"{number:032x}")).version


@pytest.mark.slow
def test_twenty_readers_see_whole_releases_through_publishes_and_rollbacks(built: Built) -> None:
    fingerprints = {stamped(built, 0): f"{0:032x}"}
    stop, failures = threading.Event(), []
    seen: list[set[str]] = [set() for _ in range(READERS)]
    answers = [0] * READERS

    def read(number: int, atlas: Atlas) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            try:
                row = built.ids[rng.integers(60)]
                hits = atlas.neighbors(row, k=20)
                captions = {hit.caption for hit in hits}
                frame = atlas.to_polars(["id", "caption"])
                if len(captions) != 1 or len(hits) != 20:
                    failures.append(f"a search mixes releases: {captions}")
                if frame["caption"].n_unique() != 1 or sorted(frame["id"]) != sorted(built.ids):
                    failures.append("a scan mixes releases")
                pinned = atlas.current()
                if pinned.row(row).caption != pinned.neighbors(row, k=1)[0].caption:
                    failures.append("a pinned release changes")
                seen[number].add(pinned.info.fingerprint)
                answers[number] += 1
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")
                return

    shared = Atlas.open(built.storage.root, follow=True)
    # some share one client, as threads of a server do; others have their own
    readers = [
        threading.Thread(
            target=read, args=(n, shared if n % 2 else Atlas.open(built.storage.root, follow=True)), daemon=True
        )
        for n in range(READERS)
    ]
    for reader in readers:
        reader.start()
    versions = list(fingerprints)
    for number in range(1, 11):
        versions.append(stamped(built, number))
        fingerprints[versions[-1]] = f"{number:032x}"
        if number in (3, 6, 9):
            rollback(built.storage, versions[-2])
            prune(built.storage, keep=1)  # a minute-old release is young: somebody reads it
            time.sleep(1.0)
    time.sleep(2.0)
    stop.set()
    for reader in readers:
        reader.join(60)
    assert failures == []
    assert min(answers) >= 3, answers
    last = fingerprints[tags(built.storage.lance_uri)[LIVE]]
    assert all(last in found for found in seen), "whoever follows sees the last release, too"
    assert len(set().union(*seen)) >= 8
    assert len(tags(built.storage.lance_uri)) == 12


def test_a_client_that_follows_sees_a_new_release_and_one_that_does_not_stays(built: Built) -> None:
    first = published(built)
    follows, stays = Atlas.open(built.storage.root, follow=True), Atlas.open(built.storage.root)
    pinned = follows.current()
    change_caption(built, 5, "changed")
    second = published(built)
    deadline = time.monotonic() + 10
    while follows.version != second.version:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert follows.row(built.ids[5]).caption == "changed"
    assert stays.version == pinned.version == first.version
    assert stays.row(built.ids[5]).caption == pinned.row(built.ids[5]).caption != "changed"
    assert [(found.version, found.live) for found in follows.releases()] == [(4, True), (2, False)]
    started = time.perf_counter()
    rollback(built.storage, first.version)
    assert time.perf_counter() - started < 1.0
    while follows.version != first.version:
        assert time.monotonic() < deadline + 10
        time.sleep(0.05)
    with pytest.raises(QueryError, match="follow a tag"):
        Atlas.open(built.storage.root, 1, follow=True)


def test_a_client_that_follows_goes_on_when_its_release_is_taken_away(built: Built) -> None:
    published(built)
    follows, stays = Atlas.open(built.storage.root, follow=True), Atlas.open(built.storage.root)
    for shard in built.shards:
        change_caption(built, int(shard.shard) * 20, "changed")
    published(built)
    follows._looked = time.monotonic() + 3600  # it has not looked yet when its release goes
    prune(built.storage, keep=1, younger_than=timedelta(0))
    assert len(follows.to_polars(["id", "caption"])) == 60 and follows.row(built.ids[0]).caption == "changed"
    with pytest.raises((OSError, RuntimeError, ValueError, NotBuiltError)):
        stays.to_polars()


def test_a_long_scan_ends_well_while_old_releases_are_dropped(built: Built) -> None:
    """What was `live` until just now is kept however many releases came after: it may still be read."""
    published(built)
    scan = Atlas.open(built.storage.root)._table.search().select(["id", "thumbnail"]).limit(None).to_batches(4)
    read = [next(scan)]
    for number in range(4):
        change_caption(built, 25, f"caption {number}")
        published(built)
        prune(built.storage, keep=1)
    read += list(scan)
    assert sorted(row for batch in read for row in batch["id"].to_pylist()) == sorted(built.ids)
    assert "release-00002" in tags(built.storage.lance_uri)
