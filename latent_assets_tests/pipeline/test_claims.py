"""Claims: one holder at a time, others wait, the dead are taken over from; on disk and on a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from latent_assets.errors import StorageError
from latent_assets.pipeline.claims import Claims, Holder
from latent_assets.storage import Storage, host_name
from latent_assets_tests.s3_server import BUCKET, s3_server

HOLD = """
import sys, time
from latent_assets.pipeline.claims import Claims
from latent_assets.storage import Storage
with Claims(Storage(sys.argv[1])).holding(sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""

APPEND = """
import sys, time
from latent_assets.pipeline.claims import Claims
from latent_assets.storage import Storage
storage = Storage(sys.argv[1])
claims = Claims(storage)
for _ in range(int(sys.argv[2])):
    with claims.holding("counter"):
        count = int(storage.read_bytes("count")) if storage.exists("count") else 0
        time.sleep(0.01)
        storage.write_bytes("count", str(count + 1).encode())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A root on disk, and one on S3."""
    if request.param == "disk":
        yield Storage(str(tmp_path / "root"))
        return
    for name, value in request.getfixturevalue("environment").items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield Storage(f"s3://{BUCKET}/{tmp_path.name}")
    s3fs.S3FileSystem.clear_instance_cache()


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_what_several_processes_do_under_a_claim_is_never_mixed(storage: Storage) -> None:
    processes = [start(APPEND, storage.root, "5") for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert storage.read_bytes("count") == b"15"
    assert storage.list("claims/counter") == [], "nothing is left of a claim that was let go"


def test_who_waits_is_told_for_whom_and_gives_up_in_time(storage: Storage) -> None:
    process = start(HOLD, storage.root, "umap_model/all", "60")
    assert process.stdout and process.stdout.readline() == "held\n"
    told: list[Holder] = []
    try:
        claims, said = Claims(storage, wait=0.5), f"umap_model/all is being made by process {process.pid} on"
        with pytest.raises(StorageError, match=said) as refused, claims.holding("umap_model/all", told.append):
            raise AssertionError("held by two")
        assert "LATENT_ASSETS_WAIT" in str(refused.value)
        assert told and told[0].process == process.pid and told[0].host == host_name()
        with Claims(storage, wait=0.5).holding("umap_model/other"):
            pass  # another artefact is free
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_is_taken_over_from_at_once(storage: Storage) -> None:
    process = start(HOLD, storage.root, "x/1", "60")
    assert process.stdout and process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    with Claims(storage, wait=20).holding("x/1"):
        holder = Claims(storage).holder("x/1")
        assert holder is not None and holder.process == os.getpid()
    assert time.monotonic() - started < 15, "the lease of another host's process is a minute"
    assert Claims(storage).holder("x/1") is None


def test_a_silent_holder_of_another_host_is_taken_over_from_after_its_lease(storage: Storage) -> None:
    foreign = b'{"token": "t", "host": "another-host", "process": 1, "begun": "", "since": 1.0, "beat": 3}'
    assert storage.create("claims/x/1/000000001.json", foreign)
    patient = Claims(storage, lease=60, wait=0.3)
    with pytest.raises(StorageError, match="process 1 on another-host"), patient.holding("x/1"):
        raise AssertionError("its lease has not ended")
    with Claims(storage, lease=0.5, wait=20).holding("x/1"):
        assert storage.list("claims/x/1") == ["000000002.json"]


def test_a_holder_that_renews_is_waited_for(storage: Storage) -> None:
    """It counts as alive for as long as it says so, however short the lease is against its work."""
    order: list[str] = []
    held = threading.Event()

    def hold() -> None:
        with Claims(storage, lease=1.0).holding("x/1"):
            held.set()
            time.sleep(2.5)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    with Claims(storage, lease=1.0, wait=30).holding("x/1"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_number_that_a_later_process_got_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    earlier = f'{{"token": "t", "host": "{host_name()}", "process": {os.getpid()}, "begun": "long ago", "since": 1.0}}'
    assert storage.create("claims/x/1/000000001.json", earlier.encode())
    with Claims(storage, wait=5).holding("x/1"):
        pass
