"""The inbox on S3: dropped there, taken once, placed, put aside; with a process that dies in between."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latent_assets.atlas.checks import check
from latent_assets.atlas.release import publish, stage
from latent_assets.generated import inbox
from latent_assets.generated.intake import take_in
from latent_assets.generated.projecting import pending
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import build
from latent_assets_tests.generated.placement.calibrated import file_of, scene
from latent_assets_tests.s3_server import BUCKET, s3_server

FILES, CORRUPT = 24, 3


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/inbox"


@pytest.fixture
def profile(bucket: str, tmp_path: Path) -> Profile:
    """A published atlas of its own in the bucket."""
    built = build(f"{bucket}/{tmp_path.name}", rows=60, n_epochs=20)
    made = stage(built.profile, built.storage, built.shards, built.release)
    publish(built.storage, made, check(built.profile, built.storage, made))
    return built.profile


def files() -> dict[str, bytes]:
    """Names and bytes; the first ones are no images, the last one is there twice."""
    found = {f"folder {n % 3}/{n:03} \N{FOX FACE}.png": file_of(scene(n)) for n in range(FILES)}
    found |= {name: data[:40] for name, data in list(found.items())[:CORRUPT]}
    return found | {"again.png": list(found.values())[-1]}


def drop(storage: Storage) -> dict[str, bytes]:
    dropped = files()
    for name, data in dropped.items():
        storage.write_bytes(f"{inbox.INBOX}/{name}", data)
    return dropped


def take(profile: Profile) -> Any:
    storage = Storage(profile.root)
    return take_in(profile, storage, inbox.ready(storage))


def originals(storage: Storage) -> set[str]:
    return {Path(file.name).stem for file in storage.files("generated/images")}


def test_what_lies_in_a_bucket_is_taken_once_and_the_rest_put_aside(profile: Profile) -> None:
    storage = Storage(profile.root)
    dropped = drop(storage)
    digests = {hashlib.sha256(data).hexdigest() for data in list(dropped.values())[CORRUPT:]}
    assert len(inbox.ready(storage)) == len(dropped)
    taken = take(profile)
    assert {row["id"] for row in taken.rows} == digests == originals(storage)
    assert (taken.new, taken.again, len(taken.quarantined)) == (FILES - CORRUPT, 1, CORRUPT)
    assert list(storage.files(inbox.INBOX)) == []
    for row_id in digests:
        assert hashlib.sha256(storage.read_bytes(f"generated/images/{row_id}.png")).hexdigest() == row_id
    batch = inbox.write_batch(storage, [])
    assert inbox.read_batch(storage, batch) == [] and not pending(profile, storage).batch
    assert len(inbox.restore(storage)) == CORRUPT == len(inbox.ready(storage))
    again = take(profile)
    assert (again.new, again.again, len(again.quarantined)) == (0, 0, CORRUPT)


def _take_and_die(root: str, profile: Profile, step: str, after: int) -> None:
    """Take what is in the inbox; the process is killed at the `after`-th call of a step of the inbox."""
    original, calls = getattr(inbox, step), [0]

    def dying(*arguments: Any) -> Any:
        found = original(*arguments)
        calls[0] += 1
        if calls[0] == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(inbox, step, dying)
    take(profile)
    sys.exit(0)


@pytest.mark.parametrize(("step", "after"), [("read", 10), ("quarantine", 2), ("accept", 1), ("remove", 7)])
def test_a_process_that_is_killed_loses_and_doubles_nothing(profile: Profile, step: str, after: int) -> None:
    storage = Storage(profile.root)
    dropped = drop(storage)
    digests = {hashlib.sha256(data).hexdigest() for data in list(dropped.values())[CORRUPT:]}
    process = multiprocessing.get_context("spawn").Process(
        target=_take_and_die, args=(profile.root, profile, step, after)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    fresh = Storage(profile.root)
    take(profile)
    assert originals(fresh) == digests and list(fresh.files(inbox.INBOX)) == []
    noted = [row["id"] for _, rows in inbox.accepted(fresh) for row in rows]
    assert set(noted) == digests
    assert len(inbox.quarantined(fresh)) == CORRUPT
