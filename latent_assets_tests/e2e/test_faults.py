"""What goes wrong on real machines: processes killed in every stage, full and read-only disks, bad files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lance
import polars as pl
import pytest

from latent_assets.defs.partitions import asset_key
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile

STAGES = [
    "laion_metadata",
    "shard_catalog",
    "image_shards",
    "vae_latents",
    "embedding_manifest",
    "umap_model",
    "umap_projection",
    "atlas_labels",
    "atlas_table",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "latent_assets.cli", *arguments]


def build_until(stage: str, profile: Path, root: Path) -> int:
    """Run a build and kill it, with no chance to clean up, in `stage`: when its first artefact is there, or at once
    when it makes but one."""
    process = subprocess.Popen(command("build", "-p", str(profile)), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            if " of 3 to do" in line:
                wait_for(lambda: any((root / "manifests" / stage).glob("*.json")), process)
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    return process.wait(120)


@pytest.mark.slow
def test_killed_in_every_stage_nothing_is_lost_or_doubled(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery
) -> None:
    profile = small_profile(fetch={"concurrency": 4, "per_host": 4})
    file = write_profile(profile, tmp_path / "profile.toml")
    gallery.delay = 0.05
    for stage in STAGES:
        assert build_until(stage, file, Path(profile.root)) == -signal.SIGKILL, f"the build ended before {stage}"
    done = subprocess.run(command("build", "--json", "-p", str(file)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = pl.from_arrow(lance.dataset(f"{profile.root}/lance/atlas.lance", version="live").to_table())
    assert isinstance(rows, pl.DataFrame)
    assert rows.height == 60 and rows["id"].n_unique() == 60
    assert set(rows["url"]) == {gallery.url(name) for name in gallery.files}
    for shard in ("00000", "00001", "00002"):
        ledger = pl.read_parquet(f"{profile.root}/images/{shard}.parquet")
        assert ledger.height == 20 and ledger["id"].n_unique() == 20
    fetched = Counter(gallery.requests)
    assert set(fetched) == set(gallery.files)
    assert sum(fetched.values()) <= 60 + 4, "only rows in flight are fetched again"
    status = subprocess.run(command("status", "--json", "-p", str(file)), capture_output=True, text=True, check=True)
    assert json.loads(status.stdout)["current"] is True
    leftovers = [path for path in Path(profile.root).rglob("*") if ".partial-" in path.name]
    assert leftovers == []
    with small_atlas(profile) as atlas:
        unfinished = [run for run in atlas.instance.get_runs() if not run.is_finished]
        assert unfinished == [], "killed runs do not stay `started` in the UI"
        for stage in (name for name, row in atlas.lineage.stages.items() if row.sharded):
            recorded = atlas.instance.get_materialized_partitions(asset_key(profile, stage))
            assert recorded == {"00000", "00001", "00002"}, "what a killed run finished is recorded by the next"


@pytest.mark.slow
def test_killed_during_the_fetch_only_rows_without_an_outcome_are_fetched(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery
) -> None:
    profile = small_profile(fetch={"concurrency": 2, "per_host": 2})
    file = write_profile(profile, tmp_path / "profile.toml")
    gallery.delay = 0.2
    process = subprocess.Popen(command("build", "-p", str(file)), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(gallery.requests) >= 12, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    before = Counter(gallery.requests)
    gallery.delay = 0.0
    done = subprocess.run(command("build", "-p", str(file)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = Counter(gallery.requests) - before
    repeated = set(again) & set(before)
    assert len(repeated) <= 2, f"fetched twice although their outcome was known: {sorted(repeated)}"
    assert set(gallery.requests) == set(gallery.files)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    import time

    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the build ended early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_an_interrupt_stops_the_build_and_says_so(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery
) -> None:
    file = write_profile(small_profile(fetch={"concurrency": 1, "per_host": 1}), tmp_path / "profile.toml")
    gallery.delay = 0.3
    process = subprocess.Popen(command("build", "-p", str(file)), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(gallery.requests) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "What is finished is kept" in said
    assert len(gallery.requests) < 60, "no further shard was begun"
    assert "vae_latents" not in said


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own, mounted for the block."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lance may hold a file of it open a moment longer
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "message"),
    [("250k", "is full"), ("640k", r"No space left on device.* Make room")],
    ids=["images", "table"],
)
def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(
    small_profile: Callable[..., Profile], tmp_path: Path, size: str, message: str
) -> None:
    with small_disk(tmp_path / "disk", f"size={size}") as disk:
        profile = small_profile(root=str(disk / "root"))
        with small_atlas(profile) as atlas:
            results = atlas.build()
            failed = {stage: result.failed for stage, result in results.items() if result.failed}
            assert failed, f"{size} cannot hold the atlas"
            assert any(re.search(message, why) for shards in failed.values() for why in shards.values()), failed
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            results = atlas.build()
            assert not any(result.failed for result in results.values())
        rows = lance.dataset(f"{profile.root}/lance/atlas.lance", version="live").to_table(columns=["id"])
        assert len(set(rows["id"].to_pylist())) == rows.num_rows == 60


def test_a_read_only_root_is_refused_at_once(small_profile: Callable[..., Profile], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m,ro") as disk:
        file = write_profile(small_profile(root=str(disk / "root")), tmp_path / "profile.toml")
        done = subprocess.run(command("build", "-p", str(file)), capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "read-only" in done.stderr and "root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_builds_at_once_wait_for_each_other(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery
) -> None:
    """Both end well, and every artefact is made by one of them."""
    profile = small_profile()
    file = write_profile(profile, tmp_path / "profile.toml")
    gallery.delay = 0.02
    builds = [subprocess.Popen(command("build", "-p", str(file)), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [build.communicate(timeout=300)[1] for build in builds]
    finally:
        for build in builds:
            build.kill()
    assert [build.returncode for build in builds] == [0, 0], said
    assert Counter(gallery.requests) == Counter(list(gallery.files)), "no image was fetched by both"
    rows = pl.from_arrow(lance.dataset(f"{profile.root}/lance/atlas.lance", version="live").to_table())
    assert isinstance(rows, pl.DataFrame) and rows.height == rows["id"].n_unique() == 60
    tags = lance.dataset(f"{profile.root}/lance/atlas.lance").tags.list()
    assert sorted(tags) == ["live", "release-00002"], "one release, not two of the same"


def test_a_build_gives_up_in_time_and_names_the_process_that_it_waited_for(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latent_assets.pipeline.lineage import Lineage

    profile = small_profile()
    file = write_profile(profile, tmp_path / "profile.toml")
    with Lineage(profile).claims.holding("laion_metadata/all"):
        monkeypatch.setenv("LATENT_ASSETS_WAIT", "1")
        done = subprocess.run(command("build", "-p", str(file)), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"is being made by process {os.getpid()} on" in done.stderr


def test_bad_images_are_accounted_for_and_the_rest_is_built(
    small_profile: Callable[..., Profile], gallery: Gallery
) -> None:
    names = sorted(gallery.files)
    whole = gallery.files[names[0]]
    gallery.files |= {names[0]: whole[: len(whole) // 2], names[1]: b"", names[2]: b"<html>no image</html>"}
    gallery.statuses[names[3]] = 404
    captions: dict[str, str | None] = {names[4]: "x" * 10_000, names[5]: "猫が窓辺で眠っている", names[6]: "قطة 🐈"}
    gallery.write([*names, names[7]], lambda name: captions.get(name, f"a picture of {name}"))
    profile = small_profile()
    with small_atlas(profile) as atlas:
        results = atlas.build()
        assert not any(result.failed for result in results.values()), {k: r.failed for k, r in results.items()}
        metadata = atlas.lineage.manifests.get("laion_metadata")
        assert metadata and dict(metadata.details["funnel"])["duplicate_url"] == 1
        outcomes: Counter[str] = Counter()
        for manifest in atlas.lineage.manifests.all("image_shards").values():
            outcomes.update(manifest.details["reasons"])
        assert outcomes.total() == 60 and outcomes["ok"] == 56
        rows = pl.from_arrow(lance.dataset(f"{profile.root}/lance/atlas.lance", version="live").to_table())
        assert isinstance(rows, pl.DataFrame)
        by_url = {row["url"]: row["caption"] for row in rows.iter_rows(named=True)}
        assert rows.height == 56
        for name, caption in captions.items():
            assert by_url[gallery.url(name)] == caption, "captions are kept whole"


def test_a_third_of_the_links_dead(small_profile: Callable[..., Profile], gallery: Gallery) -> None:
    dead = sorted(gallery.files)[::3]
    gallery.statuses |= {name: 404 for name in dead}
    with small_atlas(small_profile()) as atlas:
        results = atlas.build()
        assert not any(result.failed for result in results.values())
        assert sum(manifest.rows for manifest in atlas.lineage.manifests.all("image_shards").values()) == 40
        table = atlas.lineage.manifests.get("atlas_table")
        assert table and table.rows == 40


@pytest.mark.parametrize("kind", ["empty", "columns", "types", "not parquet"])
def test_metadata_that_cannot_be_used(small_profile: Callable[..., Profile], gallery: Gallery, kind: str) -> None:
    frame = pl.read_parquet(gallery.metadata)
    if kind == "empty":
        frame.head(0).write_parquet(gallery.metadata)
    elif kind == "columns":
        frame.drop("URL").write_parquet(gallery.metadata)
    elif kind == "types":
        frame.with_columns(URL=pl.lit(b"\xff\xfe").cast(pl.Binary)).write_parquet(gallery.metadata)
    else:
        gallery.metadata.write_bytes(b"PAR1 but not really")
    with small_atlas(small_profile()) as atlas:
        results = atlas.build()
        why = results["laion_metadata"].failed["all"]
        assert "SourceError" in why and (kind == "empty" or "metadata.parquet" in why), why
        assert "needs" in results["atlas_table"].failed["all"]


def test_retry_fetches_the_named_failures_only(small_profile: Callable[..., Profile], gallery: Gallery) -> None:
    from latent_assets.defs.build import Builder
    from latent_assets.pipeline.lineage import Lineage

    names = sorted(gallery.files)
    gallery.statuses |= {names[0]: 404, names[1]: 404, names[2]: 403}
    profile = small_profile()
    with small_atlas(profile) as atlas:
        atlas.build()
        del gallery.statuses[names[0]], gallery.statuses[names[1]]
        requests = len(gallery.requests)
        atlas.build()
        assert len(gallery.requests) == requests, "nothing is fetched again without being asked"
        lineage = Lineage(profile)
        builder = Builder(lineage, atlas.instance)
        results = {result.stage: result for result in builder.build(retry=["http_not_found"])}
        assert not any(result.failed for result in results.values())
        assert sorted(gallery.requests[requests:]) == names[:2]
        table = lineage.manifests.get("atlas_table")
        assert table and table.rows == 59
