"""Power cuts: what of a folder is on the disk for sure, and what it is when only that is left.

A `Disk` records what is flushed while it watches. On Linux, where mounting is allowed, `loop_disk` is a file system of
its own whose power can really be cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Disk:
    """What was flushed: files as they were then, by inode, and the names that folders had then."""

    files: dict[int, tuple[int, int]] = field(default_factory=dict)
    folders: dict[str, dict[str, int]] = field(default_factory=dict)

    def flushed(self, file: int) -> None:
        """An open file or folder is on the disk as it is now."""
        path = Path(f"/proc/self/fd/{file}").readlink()
        if path.is_dir():
            self.folders[str(path)] = _names(path)
        else:
            self.files[os.fstat(file).st_ino] = _state(os.fstat(file))

    def lost(self, folder: Path) -> list[str]:
        """Files in `folder`, and below, of which a power cut now could leave nothing: relative paths, sorted."""
        return sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not self._is_safe(path)
        )

    def _is_safe(self, path: Path) -> bool:
        found = path.stat()
        if self.files.get(found.st_ino) != _state(found):
            return False
        for part in (path, *path.parents):
            known = self.folders.get(str(part.parent))
            if known is None:
                return part != path  # above what was made while the disk was watched
            if known.get(part.name) != part.stat().st_ino:
                return False
        return True

    def cut(self, folder: Path) -> list[str]:
        """Do to a folder what a power cut may do: what is not safe has no bytes any more. Says which files."""
        lost = self.lost(folder)
        for name in lost:
            os.truncate(folder / name, 0)
        return lost


def _names(folder: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(folder)}


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A record of everything that this process flushes during a test."""
    watched = Disk()

    def recorded(flush: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            flush(file)
            watched.flushed(file if isinstance(file, int) else file.fileno())

        return call

    monkeypatch.setattr(os, "fsync", recorded(os.fsync))
    monkeypatch.setattr(os, "fdatasync", recorded(os.fdatasync))
    return watched


@contextmanager
def loop_disk(folder: Path, megabytes: int = 64) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file system in a file: where it is mounted, and what cuts its power (and switches it on again)."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    made = shutil.which("mkfs.ext4") and not subprocess.run(["mkfs.ext4", "-q", str(image)], check=False).returncode

    def mount() -> bool:
        # nothing is written by itself for five minutes
        command = ["mount", "-o", "loop,commit=300", str(image), str(mounted)]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    def cut() -> None:
        kept = folder / "kept.img"
        shutil.copyfile(image, kept)  # what the file system had given to its device by now
        subprocess.run(["umount", str(mounted)], check=True)
        kept.replace(image)
        assert mount()

    if not made or not mount():
        pytest.skip("mounting a file system needs root and mkfs.ext4")
    try:
        yield mounted, cut
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
