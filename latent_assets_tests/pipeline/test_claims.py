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

from latent_assets import processes
from latent_assets.errors import StorageError
from latent_assets.object_store import PatientS3FileSystem
from latent_assets.pipeline.claims import Claims, Holder
from latent_assets.processes import Process, host_name, this_process
from latent_assets.storage import Storage
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
    PatientS3FileSystem.clear_instance_cache()
    yield Storage(f"s3://{BUCKET}/{tmp_path.name}")
    PatientS3FileSystem.clear_instance_cache()


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


# -- who works below a root ------------------------------------------------------------------------------

PRESENT = """
import sys, time
from latent_assets.pipeline.claims import Claims
from latent_assets.processes import this_process
from latent_assets.storage import Storage
with Claims(Storage(sys.argv[1]), lease=4.0).present():
    print(this_process(), flush=True)
    time.sleep(60)
"""


def test_a_process_of_another_container_is_gone_when_it_says_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which processes can be seen is all that differs between containers of one machine."""
    claims = Claims(storage, lease=4.0)
    child = subprocess.Popen(
        [sys.executable, "-c", PRESENT, storage.root], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert child.stdout is not None
    process = Process.parse(child.stdout.readline().strip())
    assert process is not None and not claims.gone(process)
    # from here on, nothing of it can be seen but its claim
    monkeypatch.setattr(Process, "has_ended", lambda self: None if self == process else False)
    time.sleep(6)
    assert not claims.gone(process), "it renews its claim"
    child.kill()
    child.wait()
    time.sleep(6)
    assert claims.gone(process)
    with claims.present():
        assert len(storage.list("claims/present")) == 1, "what it left is removed"
    assert storage.list("claims/present") == []


def test_identity_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    assert Process.parse(str(me)) == me and me.has_ended() is False
    boot, namespace, ticks = me.begun.split(".")

    def other(host: str = me.host, number: int = me.number, begun: str = me.begun) -> bool | None:
        return Process(host, number, begun).has_ended()

    assert other(number=999_999_999) is True
    assert other(begun=f"{boot}.{namespace}.1") is True, "the number was given again"
    assert other(host="renamed") is False, "the machine has another name since"
    assert other(begun=f"{boot}.4026599999.{ticks}") is None, "another container"
    assert other(host="elsewhere", begun=f"0123456789ab.{namespace}.{ticks}") is None, "another machine"
    assert Process.parse(f"{me.host}:{os.getpid()}") == Process(me.host, os.getpid(), ""), "of earlier versions"
    assert Process.parse(f"{me.host}:999999999").has_ended() is True  # type: ignore[union-attr]
    assert Process.parse("") is Process.parse("nonsense") is None
    monkeypatch.setattr(processes, "_OF_THE_MACHINE", namespace)
    assert other(begun=f"0123456789ab.{namespace}.{ticks}") is True, "this machine was started anew"


def test_temporary_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path))
    script = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from latent_assets.processes import temporary_folder
with temporary_folder() as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    with processes.temporary_folder() as mine:
        assert left.exists() and mine.parent == left.parent and mine.parent.stat().st_mode & 0o077 == 0
    child.kill()
    child.wait()
    with processes.temporary_folder() as mine:
        assert [folder.name for folder in mine.parent.iterdir()] == [mine.name]
    assert not list(mine.parent.iterdir())
