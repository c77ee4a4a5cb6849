"""Ways in which what is stored of a shard gets damaged, on any storage."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

from latent_assets.images.store.tar import TarWriter, index_members
from latent_assets.layout import ledger_name, tar_name
from latent_assets.storage import Storage

# damages a part; returns the ids of rows whose image is lost by it, None for all
Damage = Callable[[Storage, str], set[str] | None]


def members(storage: Storage, part: str) -> dict[str, tuple[int, int]]:
    """name -> (offset, size) of the files in a part's tar, in order."""
    return index_members(io.BytesIO(storage.read_bytes(tar_name(part)))).members


def garbage(size: int) -> bytes:
    """The same bytes every time."""
    return random.Random(size).randbytes(size)


def tar_deleted(storage: Storage, part: str) -> None:
    storage.delete(tar_name(part))


def tar_cut_in_the_middle(storage: Storage, part: str) -> set[str]:
    data = storage.read_bytes(tar_name(part))
    storage.write_bytes(tar_name(part), data[: len(data) // 2])
    return {
        name.removesuffix(".jpg")
        for name, (offset, size) in index_members(io.BytesIO(data)).members.items()
        if name.endswith(".jpg") and offset + size > len(data) // 2
    }


def tar_without_its_end(storage: Storage, part: str) -> set[str]:
    storage.write_bytes(tar_name(part), storage.read_bytes(tar_name(part))[:-1024])
    return set()


def tar_overwritten(storage: Storage, part: str) -> None:
    storage.write_bytes(tar_name(part), garbage(len(storage.read_bytes(tar_name(part)))))


def tar_empty(storage: Storage, part: str) -> None:
    storage.write_bytes(tar_name(part), b"")


def tar_with_a_hole(storage: Storage, part: str) -> set[str]:
    """The second image, its header and the end of the first sidecar before it are zeros."""
    data = bytearray(storage.read_bytes(tar_name(part)))
    name, (offset, size) = [item for item in members(storage, part).items() if item[0].endswith(".jpg")][1]
    data[offset - 700 : offset + size - 10] = bytes(690 + size)
    storage.write_bytes(tar_name(part), bytes(data))
    return {name.removesuffix(".jpg")}


def bytes_of_an_image(storage: Storage, part: str) -> set[str]:
    """One byte within the last image: every header is in order."""
    data = bytearray(storage.read_bytes(tar_name(part)))
    name, (offset, size) = [item for item in members(storage, part).items() if item[0].endswith(".jpg")][-1]
    data[offset + size // 2] ^= 0xFF
    storage.write_bytes(tar_name(part), bytes(data))
    return {name.removesuffix(".jpg")}


def sidecar_garbage(storage: Storage, part: str) -> set[str]:
    data = bytearray(storage.read_bytes(tar_name(part)))
    offset, size = next(place for name, place in members(storage, part).items() if name.endswith(".json"))
    data[offset : offset + size] = garbage(size)
    storage.write_bytes(tar_name(part), bytes(data))
    return set()


def tar_of_another_shard(storage: Storage, part: str) -> None:
    """A whole tar, but of other rows."""
    with storage.writing(tar_name(part)) as path, path.open("wb", buffering=0) as file, TarWriter(file) as tar:
        for suffix, data in (("jpg", b"image"), ("txt", b"text"), ("json", b"{}")):
            tar.add(f"{'f' * 32}.{suffix}", data)
        tar.close()


def ledger_deleted(storage: Storage, part: str) -> set[str]:
    storage.delete(ledger_name(part))
    return set()


def ledger_overwritten(storage: Storage, part: str) -> set[str]:
    storage.write_bytes(ledger_name(part), garbage(len(storage.read_bytes(ledger_name(part)))))
    return set()


def ledger_cut(storage: Storage, part: str) -> set[str]:
    data = storage.read_bytes(ledger_name(part))
    storage.write_bytes(ledger_name(part), data[: len(data) // 2])
    return set()


def ledger_damaged_inside(storage: Storage, part: str) -> set[str]:
    """The footer is in order, the columns are not."""
    data = storage.read_bytes(ledger_name(part))
    storage.write_bytes(ledger_name(part), data[:4] + garbage(400) + data[404:])
    return set()


def ledger_of_something_else(storage: Storage, part: str) -> set[str]:
    storage.write_parquet(ledger_name(part), storage.read_parquet(ledger_name(part)).select("id", "url"))
    return set()


# what a look at names, sizes and headers finds, and what only reading finds
PLAIN_DAMAGE: tuple[Damage, ...] = (
    tar_deleted,
    tar_cut_in_the_middle,
    tar_without_its_end,
    tar_overwritten,
    tar_empty,
    tar_with_a_hole,
    tar_of_another_shard,
    ledger_deleted,
    ledger_overwritten,
    ledger_cut,
    ledger_damaged_inside,
    ledger_of_something_else,
)
HIDDEN_DAMAGE: tuple[Damage, ...] = (bytes_of_an_image, sidecar_garbage)
OF_LEDGERS = frozenset(damage for damage in PLAIN_DAMAGE if damage.__name__.startswith("ledger"))
