"""Reading embedding files: rows matched by id between the two models, samples drawn by a hash of the id.

What comes out is ordered and complete; what the columns mean for the map is in `features`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from latent_assets.embeddings.store import ShardEmbeddings, read_column, read_ids
from latent_assets.errors import DataError
from latent_assets.storage import Storage


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard that every model of the profile has embedded, in the order of the first file.

    `clip_rows`, `vae_rows`: int64 positions of each row in its file, None for a model that is not used.
    `unmatched`: rows that only one of the two files holds; they are left out.
    """

    embeddings: ShardEmbeddings
    ids: list[str]
    clip_rows: np.ndarray | None
    vae_rows: np.ndarray | None
    unmatched: int

    def read_clip(self, storage: Storage, chosen: np.ndarray | None = None) -> np.ndarray | None:
        """CLIP vectors float16 [n, d] of these rows, or of the positions `chosen` among them."""
        return self._read(storage, self.embeddings.clip, "vector", self.clip_rows, chosen)

    def read_vae(self, storage: Storage, column: str, chosen: np.ndarray | None = None) -> np.ndarray | None:
        """A column of the VAE file, float16 [n, k]: `latent`, `pooled` or `random`."""
        return self._read(storage, self.embeddings.vae, column, self.vae_rows, chosen)

    def _read(
        self, storage: Storage, name: str | None, column: str, rows: np.ndarray | None, chosen: np.ndarray | None
    ) -> np.ndarray | None:
        if name is None or rows is None:
            return None
        wanted = rows if chosen is None else rows[chosen]
        order = np.argsort(wanted, kind="stable")
        values = np.empty_like(read := read_column(storage, name, column, wanted[order]))
        values[order] = read
        self._refuse_broken(name, column, values, chosen)
        return values

    def _refuse_broken(self, name: str, column: str, values: np.ndarray, chosen: np.ndarray | None) -> None:
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            first = broken[0] if chosen is None else chosen[broken[0]]
            raise DataError(
                f"{name}: `{column}` has NaN or infinite values in {len(broken)} rows, the first is {self.ids[first]}. "
                f"{_encode_again(self.embeddings, name)}"
            )


def read_shard_rows(storage: Storage, shard: ShardEmbeddings) -> ShardRows:
    """Match the rows of a shard's embedding files by id. Raises DataError when an id occurs twice in one file."""
    clip_ids = _unique_ids(storage, shard, shard.clip)
    vae_ids = _unique_ids(storage, shard, shard.vae)
    if clip_ids is None or vae_ids is None:
        ids = clip_ids if vae_ids is None else vae_ids
        if ids is None:
            raise DataError(f"Shard {shard.shard} has no embeddings: the profile names neither a CLIP model nor a VAE.")
        every = np.arange(len(ids))
        return ShardRows(shard, ids, every if vae_ids is None else None, every if clip_ids is None else None, 0)
    if clip_ids == vae_ids:
        every = np.arange(len(clip_ids))
        return ShardRows(shard, clip_ids, every, every, 0)
    vae_at = {row_id: position for position, row_id in enumerate(vae_ids)}
    pairs = [(position, vae_at[row_id]) for position, row_id in enumerate(clip_ids) if row_id in vae_at]
    clip_rows, vae_rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    ids = [clip_ids[position] for position in clip_rows]
    return ShardRows(shard, ids, clip_rows, vae_rows, len(clip_ids) + len(vae_ids) - 2 * len(ids))


def _unique_ids(storage: Storage, shard: ShardEmbeddings, name: str | None) -> list[str] | None:
    if name is None:
        return None
    ids = read_ids(storage, name)
    repeated = len(ids) - len(set(ids))
    if repeated:
        first = next(row_id for row_id, count in Counter(ids).items() if count > 1)
        raise DataError(f"{name}: {repeated} rows repeat an id, the first is {first}. {_encode_again(shard, name)}")
    return ids


def _encode_again(shard: ShardEmbeddings, name: str) -> str:
    stage = "clip_embeddings" if name == shard.clip else "vae_latents"
    manifest = f"manifests/{stage}/{shard.shard}.json"
    return f"Encode shard {shard.shard} again: remove {manifest}, then run `latent-assets build`."


@dataclass(frozen=True)
class Sample:
    """Rows chosen from many shards: for each shard the sorted positions of its chosen rows."""

    shards: tuple[ShardRows, ...]
    chosen: tuple[np.ndarray, ...]

    @property
    def ids(self) -> list[str]:
        return [rows.ids[i] for rows, positions in zip(self.shards, self.chosen, strict=True) for i in positions]

    def read_clip(self, storage: Storage) -> np.ndarray | None:
        """CLIP vectors float16 [n, d] of the sample, in the order of `ids`."""
        return _stack([rows.read_clip(storage, at) for rows, at in zip(self.shards, self.chosen, strict=True)])

    def read_vae(self, storage: Storage, column: str) -> np.ndarray | None:
        """A VAE column float16 [n, k] of the sample, in the order of `ids`."""
        return _stack([rows.read_vae(storage, column, at) for rows, at in zip(self.shards, self.chosen, strict=True)])


def _stack(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def draw(shards: Sequence[ShardRows], rows: int, seed: int) -> Sample:
    """Choose at most `rows` rows by the smallest hash of their ids: the same rows whatever the shards' order is.

    Raises DataError when an id is in two shards.
    """
    keys = [
        np.array([xxhash.xxh64_intdigest(i.encode(), seed) for i in shard.ids], dtype=np.uint64) for shard in shards
    ]
    _refuse_doubles(shards, keys)
    everything = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    if len(everything) <= rows:
        return Sample(tuple(shards), tuple(np.arange(len(key)) for key in keys))
    limit = np.partition(everything, rows - 1)[rows - 1]
    return Sample(tuple(shards), tuple(np.flatnonzero(key <= limit) for key in keys))


def _refuse_doubles(shards: Sequence[ShardRows], keys: Sequence[np.ndarray]) -> None:
    everything = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    values, counts = np.unique(everything, return_counts=True)
    if len(values) == len(everything):
        return
    doubled = set(values[counts > 1].tolist())
    places: dict[str, list[str]] = {}
    for shard, key in zip(shards, keys, strict=True):
        for position in np.flatnonzero(np.isin(key, list(doubled))):
            places.setdefault(shard.ids[position], []).append(shard.embeddings.shard)
    # two ids may share a hash; only an id that is there twice is an error
    for row_id, found_in in places.items():
        if len(found_in) > 1:
            raise DataError(
                f"Row {row_id} is in the shards {', '.join(found_in)}: ids must be unique over the atlas. Make the "
                "catalog anew: remove manifests/laion_metadata/all.json, then run `latent-assets build`."
            )
