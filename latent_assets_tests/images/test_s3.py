"""The same on a real S3 server: catalog, tars, ledgers and resuming, with credentials from the environment only."""

from __future__ import annotations

import io
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from latent_assets.catalog.build import build_catalog
from latent_assets.catalog.shards import read_shard
from latent_assets.catalog.source import observe_source
from latent_assets.errors import SourceError, StorageError
from latent_assets.images.download.request import FetchResult
from latent_assets.images.outcome import LedgerRow
from latent_assets.images.shard import shard_files
from latent_assets.images.store import worker_pool
from latent_assets.images.store.journal import Journal
from latent_assets.images.store.parts import part_names, stored_parts
from latent_assets.images.store.tar import read_images
from latent_assets.images.verify import verify_images
from latent_assets.layout import journal_folder, tar_name
from latent_assets.object_store import PatientS3FileSystem
from latent_assets.profile import Source
from latent_assets.storage import Storage
from latent_assets_tests.images.conftest import JPEG, World, links_to
from latent_assets_tests.images.damage import (
    Damage,
    bytes_of_an_image,
    ledger_deleted,
    ledger_overwritten,
    tar_cut_in_the_middle,
    tar_deleted,
    tar_overwritten,
)
from latent_assets_tests.images.site import Site
from latent_assets_tests.s3_server import BUCKET, SECRET, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3_world(world: World, server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A World whose root is on S3."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    PatientS3FileSystem.clear_instance_cache()
    world.root = f"s3://{BUCKET}/{world.folder.name}"
    yield world
    PatientS3FileSystem.clear_instance_cache()


def everything(storage: Storage) -> dict[str, bytes]:
    """Every object below the root."""
    return {name: bytes(storage._fs.cat_file(name)) for name in storage._fs.find(storage.root)}


def test_shard_on_s3(s3_world: World, site: Site) -> None:
    links = links_to(site, 8)
    s3_world.catalog([*links, site.url("/gone")])
    report = s3_world.run()
    assert (report.rows, report.ok, report.written) == (9, 8, True)
    rows = read_shard(s3_world.storage, "00000").filter(~pl.col("url").str.ends_with("/gone"))
    images = dict(read_images(s3_world.storage, "00000"))
    assert list(images) == rows["id"].to_list()
    assert all(Image.open(io.BytesIO(data)).size == (80, 60) for data in images.values())
    assert sorted(name.removeprefix(f"{BUCKET}/{s3_world.folder.name}/") for name in everything(s3_world.storage)) == [
        "catalog/00000.parquet", "catalog/index.parquet", "images/00000.parquet", "images/00000.tar",
    ]  # fmt: skip
    asked = len(site.requests)
    again = s3_world.run()
    assert (again.fetched, again.written, again.version) == (0, False, report.version)
    # a changed caption: new sidecars, from what is stored
    s3_world.catalog([*links, site.url("/gone")], [f"new {n}" for n in range(9)])
    assert (s3_world.run().written, len(site.requests)) == (True, asked)


def test_local_and_s3_give_the_same(s3_world: World, site: Site, tmp_path: Path) -> None:
    links = links_to(site, 5)
    s3_world.catalog(links)
    s3_world.run()
    local = World(tmp_path / "local", dict(s3_world.settings))
    local.folder.mkdir()
    local.catalog(links)
    local.run()
    assert local.storage.read_bytes(tar_name("00000")) == s3_world.storage.read_bytes(tar_name("00000"))


@pytest.mark.parametrize(
    "damage",
    [tar_deleted, tar_cut_in_the_middle, tar_overwritten, bytes_of_an_image, ledger_deleted, ledger_overwritten],
)
def test_damage_on_s3_is_found_and_mended(s3_world: World, site: Site, damage: Damage) -> None:
    s3_world.catalog(links_to(site, 8))
    first = s3_world.run()
    assert shard_files(s3_world.storage, "00000") == ("images/00000.tar", "images/00000.parquet")
    assert verify_images(s3_world.storage, "00000", deep=True).problems == {}
    lost = damage(s3_world.storage, "00000")
    assert len(verify_images(s3_world.storage, "00000").problems) == 1
    asked, due = len(site.requests), 8 if lost is None else len(lost)
    report = s3_world.run(mend=True)
    assert (report.fetched, report.ok, len(site.requests)) == (due, 8, asked + due)
    after = verify_images(s3_world.storage, "00000", deep=True)
    assert (after.problems, after.version) == ({}, first.version)


def test_killed_run_continues_on_s3(s3_world: World, site: Site) -> None:
    s3_world.settings |= {"per_host": 2, "timeout": 60.0}
    s3_world.catalog(links_to(site, 60))
    site.held_after = 40
    s3_world.killed_run(lambda: s3_world.done >= 30)
    site.held_after = None
    assert not s3_world.storage.exists(tar_name("00000")), "no partial object is visible"
    known = Journal(s3_world.storage, "00000").entries()
    assert 30 <= len(known) <= 40
    asked = len(site.requests)
    report = s3_world.run()
    assert (report.rows, report.ok, report.fetched) == (60, 60, 60 - len(known))
    assert len(site.requests) - asked == report.fetched
    assert s3_world.storage.list(journal_folder("00000"), ".jsonl") == []
    assert s3_world.run().fetched == 0


@pytest.mark.parametrize("killed", ["at work", "before it ended its job"])
def test_rows_that_a_lost_worker_took_along_are_fetched_again(
    s3_world: World, site: Site, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    links = links_to(site, 40)
    s3_world.catalog(links)
    monkeypatch.setattr("latent_assets.images.store.store_queue._processors", lambda: 1)  # who ends has all rows
    record, close, recorded = worker_pool.RemoteRecorder.record, worker_pool.RemoteRecorder.close, [0]

    def lose(recorder: worker_pool.RemoteRecorder) -> None:
        if recorder._worker is not None:
            os.kill(recorder._worker._process.pid, signal.SIGKILL)
            recorder._worker._process.wait()

    def losing_record(recorder: worker_pool.RemoteRecorder, results: Sequence[FetchResult]) -> None:
        recorded[0] += len(results)
        record(recorder, results)
        if 10 <= recorded[0] < 1000 and killed == "at work":
            recorded[0] = 1000
            lose(recorder)

    def losing_close(recorder: worker_pool.RemoteRecorder) -> None:
        if recorded[0] < 1000 and killed != "at work":
            recorded[0] = 1000
            lose(recorder)
        close(recorder)

    monkeypatch.setattr(worker_pool.RemoteRecorder, "record", losing_record)
    monkeypatch.setattr(worker_pool.RemoteRecorder, "close", losing_close)
    report = s3_world.run()
    assert (report.rows, report.ok) == (40, 40)
    assert recorded[0] >= 1000 and len(site.requests) > 40
    assert s3_world.run().fetched == 0


def test_journal_is_put_every_few_seconds(s3_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(s3_world.storage, "00000")
    row = LedgerRow(id="a", url="u", outcome="ok", reason="ok", stored_sha256="0")
    journal.add([(row, b"data")])
    assert Journal(s3_world.storage, "00000").entries() == {}
    monkeypatch.setattr("latent_assets.images.store.journal.SEGMENT_SECONDS", 0.0)
    journal.add([(replace(row, id="b"), b"more")])
    assert set(Journal(s3_world.storage, "00000").entries()) == {"a", "b"}


def test_group_of_tars_on_s3(s3_world: World, site: Site) -> None:
    s3_world.shards = {"rows": 10, "max_partitions": 1}
    s3_world.catalog(links_to(site, 25))
    first = s3_world.run()
    assert stored_parts(s3_world.storage, "00000") == part_names("00000", 25, 10)
    assert len(dict(read_images(s3_world.storage, "00000"))) == first.ok == 25
    asked = len(site.requests)
    s3_world.shards = {"rows": 30, "max_partitions": 1}
    second = s3_world.run()
    assert (second.fetched, second.version, len(site.requests)) == (0, first.version, asked)
    assert s3_world.storage.list("images") == ["00000.parquet", "00000.tar"]
    assert s3_world.storage.list("images/00000") == []


def test_sources_on_s3(s3_world: World, site: Site) -> None:
    link = site.add("/a.jpg", JPEG)
    source = Storage(f"s3://{BUCKET}/source-{s3_world.folder.name}")
    source.write_parquet("part-0.parquet", pl.DataFrame({"URL": [link], "TEXT": ["one"]}))
    source.write_bytes("pictures/x/a.jpg", JPEG)
    s3_world.source = Source(path=f"{source.root}/*.parquet")
    before = observe_source(s3_world.profile, s3_world.storage)
    assert (before.files, before.version) == (1, observe_source(s3_world.profile, s3_world.storage).version)
    assert build_catalog(s3_world.profile, s3_world.storage).rows_kept == 1
    source.write_parquet("part-1.parquet", pl.DataFrame({"URL": [f"{link}?2"], "TEXT": ["two"]}))
    assert observe_source(s3_world.profile, s3_world.storage).version != before.version
    assert build_catalog(s3_world.profile, s3_world.storage).added == ("00001",)
    s3_world.root += "-folder"
    s3_world.source = Source(kind="folder", path=f"{source.root}/pictures")
    assert build_catalog(s3_world.profile, s3_world.storage).rows_kept == 1
    assert s3_world.run().ok == 1
    s3_world.source = Source(path=f"s3://{BUCKET}/nothing/*.parquet")
    with pytest.raises(SourceError, match=r"nothing at `source\.path`"):
        observe_source(s3_world.profile, s3_world.storage)


def test_credentials_appear_nowhere(
    s3_world: World, site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        s3_world.catalog([site.add("/a.jpg", JPEG)])
        report = s3_world.run()
        s3_world.storage.write_json("manifests/x/y.json", {"report": repr(report), "storage": repr(s3_world.storage)})
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("latent_assets"))
    assert SECRET not in ours
    assert not [name for name, content in everything(s3_world.storage).items() if SECRET.encode() in content]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0c8d")
    PatientS3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="credentials") as refused:
        s3_world.storage.check_writable()
    assert "wrong-secret-0c8d" not in str(refused.value)
