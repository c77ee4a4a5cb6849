"""What is known of releases: who moved `live` when, the hash of their rows, what differs, what two publishers do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from latent_assets.atlas import history
from latent_assets.atlas.card import ModelInfo
from latent_assets.atlas.checks import check
from latent_assets.atlas.content import digest_rows
from latent_assets.atlas.difference import difference
from latent_assets.atlas.history import find_release, last_move, moves, note_move, release_before, releases
from latent_assets.atlas.release import dropped_by, prune, publish, rollback
from latent_assets.atlas.table import LIVE, tags
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import RELEASES
from latent_assets.projection.drift import measure_drift
from latent_assets_tests.atlas.built import Built, change_caption, move_places, published, release, staged
from latent_assets_tests.projection import synthetic


def test_every_move_is_kept_with_who_and_when(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENT_ASSETS_USER", "ada")
    before = datetime.now(UTC)
    published(built)
    published(built)
    rollback(built.storage, 2)
    found = moves(built.storage)
    assert [(m.action, m.before, m.version, m.who) for m in found] == [
        ("publish", None, 2, "ada"),
        ("publish", 2, 4, "ada"),
        ("rollback", 4, 2, "ada"),
    ]
    assert [m.number for m in found] == [1, 2, 3] and before <= found[0].at <= found[2].at <= datetime.now(UTC)


def test_a_release_is_found_by_tag_number_and_live(built: Built) -> None:
    with pytest.raises(NotBuiltError, match="no atlas table"):
        releases(built.storage.lance_uri)
    published(built)
    with pytest.raises(NotBuiltError, match="no release before"):
        release_before(built.storage.lance_uri)
    published(built)
    uri = built.storage.lance_uri
    assert [r.version for r in releases(uri)] == [4, 2]
    assert {find_release(uri, name).version for name in ("live", "4", "release-00004")} == {4}
    assert release_before(uri).version == 2
    with pytest.raises(NotBuiltError, match=r"no release 7. There are: release-00004 \(live\), release-00002"):
        find_release(uri, "7")


def test_a_card_says_who_made_it_with_what(built: Built) -> None:
    info = published(built).info
    assert info.made_by and info.packages["pylance"] and info.packages["python"] == sys.version.split()[0]
    assert info.settings["projection"]["n_neighbors"] == built.profile.projection.n_neighbors
    assert "root" not in info.settings


# -- the hash of the rows --------------------------------------------------------------------------------


def test_the_same_rows_have_the_same_hash_in_other_files_and_shards(built: Built) -> None:
    first = published(built).info
    again = staged(built, release(built.profile, built.storage, built.shards, "b" * 32)).release
    assert again.content == first.content
    built.storage.delete("lance")
    anew = staged(built).release
    assert anew.content == first.content
    change_caption(built, 5, "changed")
    changed = staged(built).release
    assert changed.content != first.content
    move_places(built, "00001")
    assert staged(built).release.content not in (first.content, changed.content)


def test_a_digest_sees_every_value_and_no_order() -> None:
    ids = pa.array([f"{n:032x}" for n in range(4)])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float16)), 2)
    rows = pa.table({"text": ["a", "bc", None, ""], "n": pa.array([0, 1, None, 3], pa.int32()), "v": vectors})
    known = digest_rows(ids, rows)
    order = pa.array([2, 0, 3, 1])
    assert digest_rows(ids.take(order), rows.take(order)) == known
    assert digest_rows(ids, rows.append_column("shard", pa.array(["x"] * 4))) == known
    others = [
        rows.set_column(0, "text", pa.array(["ab", "c", None, ""])),
        rows.set_column(0, "text", pa.array(["a", "bc", "", ""])),
        rows.set_column(0, "text", pa.array(["a", "bc", "", None])),
        rows.set_column(1, "n", pa.array([0, 1, 0, 3], pa.int32())),
        rows.set_column(2, "v", pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1, 9, dtype=np.float16)), 2)),
    ]
    digests = {digest_rows(ids, other) for other in others}
    assert len(digests | {known, digest_rows(ids.take(order), rows)}) == len(others) + 2


# -- differences -----------------------------------------------------------------------------------------


def test_a_difference_says_rows_models_settings_and_drift(built: Built) -> None:
    first = published(built)
    move_places(built, "00001")
    model = ModelInfo("other-clip", "2" * 32, {**built.release.models["clip"].spec, "batch_size": 7})
    info = replace(
        release(built.profile, built.storage, built.shards[1:]),
        models={**built.release.models, "clip": model},
        quality={"clip": {"trustworthiness": 0.5}},
    )
    second = published(replace(built, embeddings=built.embeddings[1:]), info)
    uri = built.storage.lance_uri
    found = difference(uri, find_release(uri, first.tag), find_release(uri, second.tag))
    assert (found.rows, found.added, found.removed, found.same_rows) == ((60, 40), 0, 20, False)
    assert found.removed_ids == tuple(sorted(built.ids[:20])) and found.added_ids == ()
    assert found.models == {"clip": ("1" * 32, "2" * 32)}
    assert found.settings == {"models.clip.batch_size": (built.release.models["clip"].spec["batch_size"], 7)}
    assert found.quality["clip"]["trustworthiness"] == (built.release.quality["clip"]["trustworthiness"], 0.5)
    # half of the rows that are in both moved by 5 map units along each axis
    assert found.drift["clip"].moved == 0.5 and found.drift["vae"].moved == 0.0
    assert found.drift["clip"].p95 == pytest.approx(found.drift["clip"].most, rel=1e-6) and found.drift["clip"].most > 0
    back = difference(uri, find_release(uri, second.tag), find_release(uri, first.tag))
    assert (back.added, back.removed) == (20, 0) and back.added_ids == found.removed_ids
    same = difference(uri, find_release(uri, first.tag), find_release(uri, first.tag))
    assert same.same_rows is True and not same.settings and not same.models and not same.added


def test_drift_is_a_share_of_the_diameter() -> None:
    rng = np.random.default_rng(1)
    cube = rng.uniform(0, 1, (20_000, 3))
    moved = cube[:1000].copy()
    moved[:100, 0] += 0.2
    found = measure_drift(cube, cube[:1000], moved)
    assert found.moved == pytest.approx(0.1) and found.median == 0.0
    assert found.most == pytest.approx(0.2 / np.sqrt(3), rel=0.02) == found.p95


# -- what is kept ----------------------------------------------------------------------------------------


def test_a_release_that_was_live_until_just_now_is_kept(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age counts from when it was replaced, not from when it was made: that is how long somebody may read it."""
    for _ in range(4):
        published(built)
    assert dropped_by(built.storage, keep=1) == {}
    assert dropped_by(built.storage, keep=1, younger_than=timedelta(0)) == {n: f"release-{n:05d}" for n in (2, 4, 6)}
    week = timedelta(days=7)
    old = {n: datetime.now(UTC) - week for n in (2, 4, 6, 8)}
    monkeypatch.setattr("latent_assets.atlas.release.version_times", lambda uri: old)
    # made a week ago, replaced just now
    assert dropped_by(built.storage, keep=1) == {}
    left = {2: datetime.now(UTC) - week, 4: datetime.now(UTC) - timedelta(days=3), 6: datetime.now(UTC)}
    monkeypatch.setattr("latent_assets.atlas.release.superseded", lambda storage: left)
    assert set(dropped_by(built.storage, keep=1)) == {2, 4}
    prune(built.storage, keep=1)
    assert tags(built.storage.lance_uri) == {LIVE: 8, "release-00006": 6, "release-00008": 8}


# -- two at once -----------------------------------------------------------------------------------------

PUBLISHER = """
import sys, time
from pathlib import Path
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import publish, stage
from latent_assets.storage import Storage
from latent_assets.projection.drift import measure_drift
from latent_assets_tests.atlas.built import contents, release
from latent_assets_tests.projection import synthetic
root, gate = sys.argv[1:]
profile, storage = synthetic.profile(root), Storage(root)
shards = contents(storage, [synthetic.names(f"{i:05d}") for i in range(3)])
made = stage(profile, storage, shards, release(profile, storage, shards))
checks = check(profile, storage, made)
print("ready", flush=True)
while not Path(gate).exists():
    time.sleep(0.001)
try:
    publish(storage, made, checks)
    print(f"published {made.version}", flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


def test_of_two_publishers_one_wins_and_the_other_says_why(built: Built, tmp_path: Path) -> None:
    published(built)
    gate = tmp_path / "gate"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, built.storage.root, str(gate)],
            cwd=synthetic.REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LATENT_ASSETS_USER": name},
        )
        for name in ("ada", "grace")
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    gate.touch()
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    won = [number for number, text in enumerate(said) if text.startswith("published")]
    assert len(won) == 1, said
    winner, loser = ("ada", "grace")[won[0]], said[1 - won[0]]
    version = int(said[won[0]].split()[1])
    assert loser.startswith("DataError: Nothing is published") and f"{winner} moved it to version {version}" in loser
    assert tags(built.storage.lance_uri)[LIVE] == version
    assert [m.version for m in moves(built.storage)] == [2, version]


def test_versions_staged_at_the_same_time_are_whole_each(built: Built) -> None:
    """Rows are a version and their indexes another: what comes between is noticed, and the version made again."""
    published(built)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: staged(built), range(2)))
    assert len({one.version for one in made}) == 2
    for one in made:
        assert all(found.passed for found in check(built.profile, built.storage, one))


def test_what_was_staged_before_another_publish_is_not_published(built: Built) -> None:
    published(built)
    slow, quick = staged(built), staged(built)
    publish(built.storage, quick, check(built.profile, built.storage, quick))
    with pytest.raises(DataError, match=r"moved it to version 6 \(publish"):
        publish(built.storage, slow, check(built.profile, built.storage, slow))
    assert tags(built.storage.lance_uri)[LIVE] == quick.version


def test_a_move_whose_process_was_killed_stops_nobody(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    published(built)
    note_move(built.storage, "publish", 7, 2)  # and then it is killed
    made = staged(built)
    checks = check(built.profile, built.storage, made)
    with pytest.raises(DataError, match="version 7"):  # for all we know it is about to move the tag
        publish(built.storage, made, checks)
    monkeypatch.setattr(history.Process, "has_ended", lambda process: True)
    assert publish(built.storage, made, checks).version == made.version
    note_move(built.storage, "publish", 9, made.version)
    monkeypatch.undo()
    monkeypatch.setattr(history, "_MAKES_WITHIN", timedelta(seconds=0.1))
    time.sleep(0.2)
    rollback(built.storage, 2)
    assert tags(built.storage.lance_uri)[LIVE] == 2


def test_a_note_whose_bytes_were_lost_stands_in_nobodys_way(built: Built) -> None:
    """As a power cut leaves it, on a file system that kept the name."""
    published(built)
    (note,) = built.storage.list(RELEASES, ".json")
    os.truncate(built.storage.uri(f"{RELEASES}/{note}"), 0)
    assert moves(built.storage) == [] and last_move(built.storage) is None
    change_caption(built, 3, "another caption")
    made = published(built)
    assert [(move.number, move.before, move.version) for move in moves(built.storage)] == [(2, 2, made.version)]
