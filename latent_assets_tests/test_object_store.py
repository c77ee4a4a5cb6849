"""S3 that goes away for a while, on a real server: calls wait for it, and say in the end where it should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latent_assets import object_store
from latent_assets.errors import StorageError
from latent_assets.object_store import PatientS3FileSystem
from latent_assets.storage import Storage
from latent_assets_tests.s3_server import BUCKET, S3Server, restartable_s3_server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with restartable_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    PatientS3FileSystem.clear_instance_cache()
    return running


@contextmanager
def outage(server: S3Server, seconds: float = 3.0) -> Iterator[None]:
    """The server is down for some seconds from now on, and then starts."""
    server.stop()
    later = threading.Timer(seconds, server.start)
    later.start()
    try:
        yield
    finally:
        later.join()


@pytest.mark.slow
def test_every_call_waits_for_a_server_that_comes_back(server: S3Server) -> None:
    storage = Storage(f"s3://{BUCKET}/calls")
    frame = pl.DataFrame({"number": np.arange(1000)})
    storage.write_parquet("folder/a.parquet", frame)
    storage.write_bytes("folder/b", b"b" * 100_000)
    reader = storage.open("folder/b")
    calls = {
        "exists": lambda: storage.exists("folder/b"),
        "list": lambda: {"a.parquet", "b"} <= set(storage.list("folder")),  # c and d come and go beside it
        "read": lambda: storage.read_parquet("folder/a.parquet").equals(frame),
        "range": lambda: reader.read(10) == b"b" * 10,
        "write": lambda: storage.write_bytes("folder/c", b"c") is None and storage.read_bytes("folder/c") == b"c",
        "create": lambda: storage.create("folder/d", b"d") and not storage.create("folder/d", b"e"),
        "delete": lambda: storage.delete("folder/c") is None and not storage.exists("folder/c"),
    }
    found: dict[str, object] = {}

    def call(name: str) -> None:
        try:
            found[name] = calls[name]()
        except BaseException as error:
            found[name] = error

    threads = [threading.Thread(target=call, args=(name,)) for name in calls]
    with outage(server):
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        assert found == {}, "there is nobody to answer"
        for thread in threads:
            thread.join(90)
    assert found == dict.fromkeys(calls, True)


@pytest.mark.slow
def test_a_table_is_written_while_the_server_restarts(server: S3Server) -> None:
    import lancedb
    import pyarrow as pa

    from latent_assets.atlas.table import table_options

    uri = f"s3://{BUCKET}/tables"
    options = table_options(uri)
    table = lancedb.connect(uri, storage_options=options).create_table("t", pa.table({"x": [1]}))
    with outage(server):
        table.add(pa.table({"x": [2]}))
        assert lancedb.connect(uri, storage_options=options).open_table("t").count_rows() == 2


def test_a_server_that_stays_away_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(object_store, "PATIENCE", 8.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://nobucket/small/manifests cannot be reached.*AWS_ENDPOINT_URL"):
        Storage("s3://nobucket/small").exists("manifests")
    assert time.monotonic() - began > 7
    assert caplog.text.count("S3 does not answer") == 1, "who waits is told why"


@pytest.mark.slow
def test_wrong_credentials_are_said_at_once(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    PatientS3FileSystem.clear_instance_cache()
    began = time.monotonic()
    with pytest.raises(StorageError, match="credentials"):
        Storage(f"s3://{BUCKET}/calls").read_bytes("folder/a.parquet")
    assert time.monotonic() - began < 20
    PatientS3FileSystem.clear_instance_cache()
