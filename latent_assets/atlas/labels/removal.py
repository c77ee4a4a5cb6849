"""Taking rows out of labels. Clusters stay what they are; they are described anew by what is left (`build`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.atlas.labels.store import labelled_shards, read_clusters, write_clusters
from latent_assets.layout import LABELS, clusters_name, labels_folder, labels_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage


def drop_rows(storage: Storage, ids: Collection[str]) -> int:
    """Take rows out of the clusters of all labels; how many that were. A file that cannot be read is removed.

    Names and representatives are those of before until the labels are described anew, or removed (`drop_others`).
    """
    dropped = 0
    for made in storage.folders(LABELS):
        for shard in labelled_shards(storage, made):
            try:
                frame = read_clusters(storage, made, shard)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError):
                storage.delete(clusters_name(made, shard))
                continue
            kept = frame.filter(~pl.col("id").is_in(list(ids)))
            dropped += frame.height - kept.height
            if kept.height < frame.height:
                write_clusters(storage, made, shard, kept)
    return dropped


def drop_others(storage: Storage, keep: str | None) -> None:
    """Remove all labels but those of the fingerprint `keep`."""
    for made in storage.folders(LABELS):
        if made != keep:
            storage.delete(labels_folder(made))


def move_labels(storage: Storage, made: str, to: str) -> None:
    """Give labels another fingerprint: they are made from other parents now."""
    for file in list(storage.files(labels_folder(made))):
        storage.move(file.name, f"{labels_folder(to)}/{file.name.removeprefix(f'{labels_folder(made)}/')}")
    storage.delete(labels_folder(made))


def are_whole(storage: Storage, made: str, shards: Collection[str]) -> bool:
    """Whether labels have a file for each of the shards."""
    return storage.exists(labels_name(made)) and set(shards) <= set(labelled_shards(storage, made))
