"""Storage on disk: atomic, explained, and nothing half-written is ever seen. S3 is tested with a real server."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from latent_assets.errors import StorageError
from latent_assets.processes import Process, host_name, this_process
from latent_assets.storage import Storage, fingerprint


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def test_a_failed_write_leaves_the_old_content(storage: Storage) -> None:
    storage.write_bytes("a/b.txt", b"old")
    with pytest.raises(RuntimeError), storage.writing("a/b.txt") as path:
        path.write_bytes(b"half of the n")
        raise RuntimeError("killed")
    assert storage.read_bytes("a/b.txt") == b"old"
    assert storage.list("a") == ["b.txt"]
    assert [path.name for path in Path(storage.uri("a")).iterdir()] == ["b.txt"], "no temporary file is left"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
def test_large_files_are_not_kept_in_memory(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    advice: list[tuple[int, int]] = []

    def refuse(file: int, begin: int, size: int, what: int) -> None:
        advice.append((os.fstat(file).st_size, what))
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    storage.write_bytes("small", b"small")
    storage.write_bytes("large", bytes(2 << 20))
    assert advice == [(2 << 20, os.POSIX_FADV_DONTNEED)]
    assert storage.size("large") == 2 << 20, "a system that does not take the advice stores all the same"


def test_half_written_files_of_dead_processes_are_swept(storage: Storage) -> None:
    storage.write_bytes("a/b.txt", b"whole")
    folder = Path(storage.uri("a"))
    dead = folder / f".partial-{host_name()}+999999999+1-c.txt"
    alive = folder / f".partial-{host_name()}+{os.getpid()}+1-d.txt"
    elsewhere = folder / ".partial-another-host+999999999+1-e.txt"
    forgotten = folder / ".partial-another-host+999999999+1-f.txt"
    for file in (dead, alive, elsewhere, forgotten):
        file.write_bytes(b"half")
    week = time.time() - 8 * 24 * 3600
    os.utime(forgotten, (week, week))
    assert storage.list("a") == ["b.txt"]
    assert storage.sweep() == 2
    assert not dead.exists() and not forgotten.exists()
    assert alive.exists() and elsewhere.exists(), "a process of another host may still be writing"


def test_what_other_containers_left_is_swept_when_they_are_gone(storage: Storage) -> None:
    """The first process of every container has the number 1, which always lives."""
    storage.write_bytes("a/b.txt", b"whole")
    me = this_process()
    boot, namespace, ticks = me.begun.split(".")
    other = Process("f00df00d", 1, f"{boot}.4026599999.77")
    writers = {
        "mine": (me, 3600.0),
        "given again": (Process(me.host, me.number, f"{boot}.{namespace}.{int(ticks) - 1}"), 0.0),
        "gone": (other, 3600.0),
        "just written": (other, 0.0),
        "at work": (Process("cafecafe", 1, f"{boot}.4026588888.99"), 3600.0),
        "another machine": (Process("elsewhere", 1, "0123456789ab.4026599999.5"), 3600.0),
    }
    files = {}
    for name, (writer, idle) in writers.items():
        files[name] = Path(storage.uri("a")) / f".partial-{writer}+1-{name}"
        files[name].write_bytes(b"half")
        then = time.time() - idle
        os.utime(files[name], (then, then))
    asked: list[Process] = []

    def gone(process: Process) -> bool:
        asked.append(process)
        return process.host != "cafecafe"

    assert storage.sweep(gone) == 3
    assert {name for name, file in files.items() if file.exists()} == {"mine", "just written", "at work"}
    assert me not in asked


def test_looking_whether_a_root_can_be_written_leaves_nothing(storage: Storage) -> None:
    left = Path(storage.uri(".partial-probe"))
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a process that was killed")
    storage.check_writable()
    assert not list(Path(storage.root).iterdir()), "the name is always the same"


def test_what_is_being_written_names_host_and_process(storage: Storage) -> None:
    with storage.writing("a/b.txt") as path:
        assert path.name.startswith(f".partial-{host_name()}+{os.getpid()}+")
        path.write_bytes(b"x")


def test_of_many_that_create_a_file_one_succeeds(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda n: storage.create("a/claim", str(n).encode()), range(40)))
    assert created.count(True) == 1
    assert storage.read_bytes("a/claim") == str(created.index(True)).encode()
    assert [path.name for path in Path(storage.uri("a")).iterdir()] == ["claim"], "no temporary file is left"


def test_sizes_tell_what_is_there(storage: Storage) -> None:
    storage.write_bytes("a/b.txt", b"four")
    assert storage.sizes(["a/b.txt", "a/c.txt", "nowhere/d.txt"]) == {
        "a/b.txt": 4,
        "a/c.txt": None,
        "nowhere/d.txt": None,
    }


def test_missing_file_is_explained(storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"catalog/00000.parquet is not there.*status"):
        storage.read_parquet("catalog/00000.parquet")


def test_parquet_round_trip(storage: Storage) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "n": [1, None]})
    storage.write_parquet("x/y.parquet", frame)
    assert storage.read_parquet("x/y.parquet").equals(frame)
    assert storage.read_parquet("x/y.parquet", columns=["n"]).columns == ["n"]


def test_root_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of that path is a file"):
        Storage(str(tmp_path / "file" / "root")).check_writable()


def test_fingerprint_depends_on_every_part_and_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert len({fingerprint("a"), fingerprint("b"), fingerprint("a", None), fingerprint(["a"])}) == 4


def test_another_endpoint_in_the_environment_is_another_filesystem(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec keeps filesystems as long as a process lives; one must not be asked at the address of another."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    found = []
    for port in (1, 2, 1):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        found.append(Storage("s3://bucket/root")._fs)
    assert [each.endpoint_url for each in found] == [f"http://127.0.0.1:{port}" for port in (1, 2, 1)]
    assert found[0] is found[2] is not found[1]
