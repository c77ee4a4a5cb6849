"""Thumbnails of a shard in one file, each with the id of its image: any of them is one range request away."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from latent_assets.errors import DataError
from latent_assets.layout import sprites_name
from latent_assets.storage import Storage, fingerprint

MAGIC, FORMAT = b"LASP", 1
ID_BYTES = 16
_HEADER = 16


def pack_key(version: str, ids: np.ndarray, chosen: np.ndarray) -> str:
    """Key of a shard's thumbnails: their data version, the rows' ids (uint8 [n, 16]) and which of them have one."""
    import xxhash

    return fingerprint("sprites", FORMAT, version, xxhash.xxh3_128_hexdigest(ids.tobytes() + chosen.tobytes()))


def write_pack(storage: Storage, key: str, ids: np.ndarray, chosen: np.ndarray, files: Iterable[bytes]) -> None:
    """Write thumbnails of a shard. ids: uint8 [n, 16]; chosen: bool [n], rows with one; files: one for every row."""
    with storage.writing(sprites_name(key)) as path, path.open("wb") as out:
        at = _HEADER + 4 * (len(ids) + 1)
        out.write(b"\0" * at)
        offsets = np.zeros(len(ids) + 1, np.uint64)
        rows = 0
        for row, data in enumerate(files):
            offsets[row] = at
            if chosen[row] and data:
                at += out.write(ids[row].tobytes()) + out.write(data)
            rows += 1
        offsets[rows:] = at
        if rows != len(ids):
            raise DataError(f"{rows} thumbnails for {len(ids)} rows: build the table again.")
        if at >= 1 << 32:
            raise DataError(f"Thumbnails of a shard have {at:,} bytes; set fewer `shards.rows` in the profile.")
        out.seek(0)
        with_one = int((np.diff(offsets) > 0).sum())
        out.write(MAGIC + np.array([FORMAT, len(ids), with_one], "<u4").tobytes() + offsets.astype("<u4").tobytes())


def read_pack(storage: Storage, key: str) -> list[tuple[bytes, bytes] | None]:
    """(id, file) of every row of a pack, None for rows without. Raises DataError for what is not one."""
    data = storage.read_bytes(sprites_name(key))
    if data[:4] != MAGIC or len(data) < _HEADER:
        raise DataError(f"{sprites_name(key)} is not a file of thumbnails: build the tiles again.")
    version, rows, with_one = np.frombuffer(data, "<u4", 3, 4).tolist()
    ends = _HEADER + 4 * (rows + 1)
    offsets: Any = np.frombuffer(data[:ends], "<u4", offset=_HEADER).tolist() if len(data) >= ends else []
    if version != FORMAT or len(offsets) != rows + 1 or offsets[0] != ends or offsets[-1] != len(data):
        raise DataError(f"{sprites_name(key)} is cut off or of another format: build the tiles again.")
    entries = [
        (data[a : a + ID_BYTES], data[a + ID_BYTES : b]) if b > a else None for a, b in itertools.pairwise(offsets)
    ]
    if sum(entry is not None for entry in entries) != with_one:
        raise DataError(f"{sprites_name(key)} has not the {with_one} thumbnails it says: build the tiles again.")
    return entries
