"""The picture of maps with their labels, for the person who looks at a build."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latent_assets.atlas.labels.rows import read_map_rows
from latent_assets.atlas.labels.store import Label, ancestors, read_clusters, read_labels
from latent_assets.atlas.schema import CLUSTER
from latent_assets.plots import Region, region_picture
from latent_assets.storage import Storage

_DRAWN = 20_000


def labels_picture(storage: Storage, made: str, projection: str, shards: Sequence[str], spaces: Sequence[str]) -> bytes:
    """PNG: one panel per space, each row in the colour of its coarse cluster, the names of clusters over them."""
    import polars as pl

    labels = read_labels(storage, made)
    rows = read_map_rows(storage, projection, shards, spaces)
    clusters = pl.concat([read_clusters(storage, made, shard) for shard in shards])
    every = rows.ids.to_frame().join(clusters, on="id", how="left", maintain_order="left")
    drawn = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _DRAWN)).astype(np.int64))
    places = {space: rows.places[space][drawn] for space in spaces}
    regions, of = {}, {}
    for space in spaces:
        lines = ancestors(labels[space].labels)
        tops = {identity: next(each for each in line if each is not None) for identity, line in lines.items()}
        number = {label.id: at for at, label in enumerate(_tops(labels[space].labels))}
        found = every[f"{CLUSTER}{space}"].gather(drawn)
        of[space] = np.array([number[tops[each]] if each else -1 for each in found])
        regions[space] = [Region(label.name, label.centre, label.rows) for label in labels[space].labels]
    captions = {
        space: f"{len(each.labels)} clusters, {1 - each.loose:.0%} of the images in them"
        for space, each in labels.items()
    }
    return region_picture(places, of, regions, captions, total=len(rows))


def _tops(labels: Sequence[Label]) -> list[Label]:
    return sorted((label for label in labels if label.parent is None), key=lambda label: (-label.rows, label.id))
