"""The default daemon and the run it started are killed while images are placed: afterwards each is there once."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from latent_assets.defs import tags
from latent_assets.defs.instance import instance_home, limit_pools, open_instance
from latent_assets.generated import inbox
from latent_assets.generated.table import GeneratedTable
from latent_assets.processes import Process
from latent_assets.storage import Storage
from latent_assets_tests.conftest import Built
from latent_assets_tests.e2e.dagster_ui import serving_ui, wait_until
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.e2e.test_generated import picture

FILES, LATE, CORRUPT = 320, 6, 2


def drop(root: Path, name: str, data: bytes) -> str:
    """The SHA-256 of a file that was put into the inbox a minute ago."""
    file = root / "generated" / "inbox" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    os.utime(file, (time.time() - 60,) * 2)
    return hashlib.sha256(data).hexdigest()


def rows(storage: Storage) -> Counter[str]:
    """How often each image is in the table."""
    table = GeneratedTable(storage.lance_uri).open()
    found = [] if table is None else table.search().select(["id"]).limit(None).to_arrow()["id"].to_pylist()
    return Counter(found)


def kill(processes: Iterable[psutil.Process]) -> None:
    """As `kill -9` does."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_daemon_and_a_killed_run_lose_and_double_nothing(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.profile.root, tmp_path / "root")
    profile = built.profile.model_copy(update={"root": str(tmp_path / "root")})
    file, storage = write_profile(profile, tmp_path / "profile.toml"), Storage(profile.root)
    with small_atlas(profile) as atlas:
        limit_pools(atlas.instance, profile)
    ids = {drop(tmp_path / "root", f"{seed}.png", picture(seed)) for seed in range(FILES)}
    broken = {drop(tmp_path / "root", f"broken {seed}.png", picture(seed)[:60]) for seed in range(CORRUPT)}
    with serving_ui(str(instance_home(profile)), str(file), daemon=True):
        # taken, noted, and being placed: the worst of moments
        wait_until(lambda: inbox.accepted_names(storage) and rows(storage), 300)
        everybody = psutil.Process().children(recursive=True)
        kill(everybody)
        with open_instance(profile) as instance:
            (run,) = instance.get_runs(dg.RunsFilter(job_name="small__place_generated"))
        assert run.status is not dg.DagsterRunStatus.SUCCESS
        working = Process.parse(run.tags[tags.PROCESS])
        assert working is not None and working.number in {process.pid for process in everybody}
    assert inbox.accepted_names(storage) and 0 < len(rows(storage)) < FILES, "the run was not killed in the middle"
    ids |= {drop(tmp_path / "root", f"late {seed}.png", picture(1_000 + seed)) for seed in range(LATE)}
    with serving_ui(str(instance_home(profile)), str(file), daemon=True):
        wait_until(lambda: len(rows(storage)) == FILES + LATE and not inbox.accepted_names(storage), 300)
    assert rows(storage) == Counter(ids)
    assert {item.key.partition(".")[0] for item in inbox.quarantined(storage)} == broken
    assert not list(storage.files("generated/inbox"))
