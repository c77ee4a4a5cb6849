"""Storage on disk: atomic, explained, and nothing half-written is ever seen. S3 is tested with a real server."""

import os
from pathlib import Path

import polars as pl
import pytest

from latent_assets.errors import StorageError
from latent_assets.storage import Manifest, Storage, fingerprint


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
    dead = Path(storage.uri("a/.partial-999999999-1-c.txt"))
    dead.write_bytes(b"half")
    alive = Path(storage.uri(f"a/.partial-{os.getpid()}-1-d.txt"))
    alive.write_bytes(b"half")
    assert storage.list("a") == ["b.txt"]
    assert storage.sweep() == 1
    assert not dead.exists() and alive.exists()


def test_manifest_makes_an_artefact_exist_and_clears_its_failure(storage: Storage) -> None:
    storage.note_failure("stage", "00001", ValueError("broken picture"))
    assert storage.failures("stage")["00001"].error == "ValueError: broken picture"
    assert storage.manifests("stage") == {}
    written = storage.commit(Manifest("stage", "00001", "f", "v", 3, details={"x": [1]}))
    assert storage.manifest("stage", "00001") == written and written.created > 0
    assert storage.failures("stage") == {}


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
