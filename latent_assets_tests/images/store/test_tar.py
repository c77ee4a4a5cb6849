"""Tars as files: what is written of them when, and what is found in damaged ones."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from latent_assets.errors import DataError
from latent_assets.images.store.tar import TarWriter, index_members, read_members

SIZE = 1 << 20


def written(path: Path, files: dict[str, bytes]) -> bytes:
    """A tar of these files."""
    with path.open("wb", buffering=0) as file, TarWriter(file) as tar:
        for name, data in files.items():
            tar.add(name, data)
        tar.close()
    return path.read_bytes()


def test_image_that_is_shorter_than_known_is_no_part_of_a_tar(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"twelve bytes")
    with (
        (tmp_path / "source").open("rb") as source,
        (tmp_path / "tar").open("wb", buffering=0) as file,
        TarWriter(file) as tar,
        pytest.raises(DataError, match=r"a\.jpg is cut short"),
    ):
        tar.copy("a.jpg", source.fileno(), 4, 9)


def _cached(path: Path) -> int:
    """How many of the megabytes of a file are in the page cache."""
    found = 0
    with path.open("rb", buffering=0) as file:
        for offset in range(0, path.stat().st_size - 4096, SIZE):
            try:
                found += bool(os.preadv(file.fileno(), [bytearray(4096)], offset, os.RWF_NOWAIT))
            except BlockingIOError:
                continue
    return found


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system does not tell what is in its page cache")
def test_what_the_disk_has_of_a_tar_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        (tmp_path / "probe").write_bytes(bytes(3 * SIZE))
        with (tmp_path / "probe").open("rb+", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if _cached(tmp_path / "probe"):
            pytest.skip("this file system is in memory")
    except OSError as error:
        pytest.skip(f"this file system does not tell: {error}")
    monkeypatch.setattr("latent_assets.images.store.tar._SYNC_EVERY", SIZE)
    with (tmp_path / "tar").open("wb", buffering=0) as file, TarWriter(file) as tar:
        for number in range(24):
            tar.add(f"{number}.jpg", bytes(SIZE))
            if tar._syncing is not None:
                tar._syncing.result()  # the disk keeps up, however slow it is
        tar.close()
        assert _cached(tmp_path / "tar") <= 6


def test_tar_is_read_by_others(tmp_path: Path) -> None:
    files = {f"{number}.jpg": os.urandom(number * 100) for number in range(20)}
    with tarfile.open(fileobj=io.BytesIO(written(tmp_path / "tar", files))) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == files  # type: ignore[union-attr]


def test_index_of_a_whole_tar(tmp_path: Path) -> None:
    files = {f"{number}.jpg": os.urandom(number * 100) for number in range(20)}
    data = written(tmp_path / "tar", files)
    index = index_members(io.BytesIO(data))
    assert (index.problem, index.bytes) == ("", len(data))
    assert {name: data[offset : offset + size] for name, (offset, size) in index.members.items()} == files
    empty = index_members(io.BytesIO(written(tmp_path / "tar", {})))
    assert (empty.members, empty.problem) == ({}, "")


@pytest.mark.parametrize("cut", range(0, 5 * 1024 + 1024, 256))
def test_whatever_is_cut_off_is_noticed(tmp_path: Path, cut: int) -> None:
    data = written(tmp_path / "tar", {f"{number}.jpg": bytes([number]) * 512 for number in range(5)})
    assert len(data) == 6 * 1024
    index = index_members(io.BytesIO(data[:cut]))
    assert index.problem
    assert list(index.members) == [f"{number}.jpg" for number in range(cut // 1024)][:5]
    with pytest.raises(DataError):
        list(read_members(io.BytesIO(data[: cut if cut < 5 * 1024 else 5 * 1024])))


@pytest.mark.parametrize("header", range(5))
def test_files_behind_a_damaged_header_are_found(tmp_path: Path, header: int) -> None:
    data = bytearray(written(tmp_path / "tar", {f"{number}.jpg": bytes([number]) * 512 for number in range(5)}))
    data[header * 1024 + 3] ^= 1
    index = index_members(io.BytesIO(bytes(data)))
    assert list(index.members) == [f"{number}.jpg" for number in range(5) if number != header]
    assert f"no header at byte {header * 1024}" in index.problem
    with pytest.raises(DataError, match="damaged"):
        list(read_members(io.BytesIO(bytes(data))))
