"""The journal: what is whole in it counts, whatever happened while it was written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.catalog.shards import read_shard
from latent_assets.errors import StorageError
from latent_assets.images.outcome import LedgerRow
from latent_assets.images.store.journal import Journal
from latent_assets.layout import journal_folder
from latent_assets_tests.images.conftest import World, links_to
from latent_assets_tests.images.site import Site


def test_torn_journal_loses_only_its_last_row(world: World, site: Site) -> None:
    world.catalog(links_to(site, 4))
    ids = read_shard(world.storage, "00000")["id"].to_list()
    journal = Journal(world.storage, "00000")
    for key in ids[:3]:
        row = LedgerRow(id=key, url="u", outcome="ok", reason="ok", stored_sha256="0", stored_bytes=4)
        journal.add([(row, b"data")])
    journal.close()
    folder = Path(world.storage.uri(journal_folder("00000")))
    (lines,) = folder.glob("*.jsonl")
    whole = lines.read_bytes()
    lines.write_bytes(whole[:-20])
    assert set(Journal(world.storage, "00000").entries()) == set(ids[:2])
    for damaged in (b"\0" * 30, b'{"no": "row"}', b"[1, 2]", b'[{"of another version": 1}, 0, 4]'):
        first, second, third = whole.splitlines(keepends=True)
        lines.write_bytes(first + damaged + b"\n" + second + third)
        assert set(Journal(world.storage, "00000").entries()) == set(ids[:3])
    first, second, third = whole.splitlines(keepends=True)
    lines.write_bytes(first + b"[1\n" + second + b"2,3]\n" + third)
    assert set(Journal(world.storage, "00000").entries()) == set(ids[:3]), "not what two damaged ones make of it"
    lines.write_bytes(whole)
    (data,) = folder.glob("*.data")
    data.write_bytes(data.read_bytes()[:-1])
    assert set(Journal(world.storage, "00000").entries()) == set(ids[:2])


def test_half_written_image_does_not_shift_those_after_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(world.storage, "00000")

    def row(number: int) -> LedgerRow:
        return LedgerRow(id=f"{number:032x}", url="u", outcome="ok", reason="ok", stored_sha256="0")

    journal.add([(row(0), b"zero")])
    with monkeypatch.context() as patch:
        patch.setattr("latent_assets.images.store.journal.os.writev", _disk_with_room_for(0))
        with pytest.raises(StorageError, match="is full"):
            journal.add([(row(1), b"one"), (row(2), b"two")])
    journal.add([(row(3), b"three"), (row(4), b"four")])
    journal.close()
    entries = Journal(world.storage, "00000").entries()
    found = {
        int(key, 16): world.storage.read_bytes(entry.place.name)[entry.place.offset :][: entry.place.size]
        for key, entry in entries.items()
        if entry.place
    }
    assert found == {0: b"zero", 3: b"three", 4: b"four"}


def test_segment_that_cannot_be_begun_does_not_shift_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(world.storage, "00000")
    real, refusals = os.open, [OSError(errno.ENOSPC, "No space left on device")]

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(".jsonl") and refusals:
            raise refusals.pop()
        return real(path, flags, mode)

    def row(number: int) -> LedgerRow:
        return LedgerRow(id=f"{number:032x}", url="u", outcome="ok", reason="ok", stored_sha256="0")

    handles = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr("latent_assets.images.store.journal.os.open", opened)
        with pytest.raises(StorageError, match="is full"):
            journal.add([(row(1), b"one")])
        journal.add([(row(2), b"second")])
    journal.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    (entry,) = Journal(world.storage, "00000").entries().values()
    assert entry.place is not None and (entry.place.offset, entry.place.size) == (0, 6)
    assert world.storage.read_bytes(entry.place.name) == b"second"


def _disk_with_room_for(writes: int) -> Callable[[int, list[bytes]], int]:
    """`os.writev` on a disk that is full after so many calls; the one that fails leaves two bytes behind."""
    real, left = os.writev, [writes]

    def writev(handle: int, pieces: list[bytes]) -> int:
        left[0] -= 1
        if left[0] < 0:
            real(handle, [bytes(pieces[0][:2])])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, pieces)

    return writev
