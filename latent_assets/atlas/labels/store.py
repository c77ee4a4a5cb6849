"""Labels as files: what a cluster is called and where it lies, and which cluster each row of a shard belongs to.

labels/{fingerprint}/labels.json
labels/{fingerprint}/rows/{shard}.parquet      id string; cluster_{space} string: the finest cluster, null for none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import clusters_name, labels_folder, labels_name
from latent_assets.storage import Storage

FORMAT = 1
LEVELS = 3


@dataclass(frozen=True)
class Label:
    """A cluster of a map and its name.

    id: 8 hexadecimal digits, kept from release to release while most of its rows stay together. level: 1 is the
    coarsest, 3 the finest. parent: the cluster of a coarser level that it is part of, None where it is part of none.
    name: words that its captions have and others have not. words: the same one by one, the most telling first. rows:
    images in it, those of its parts among them. centre: where its rows are densest, map units. radius: half of its rows
    are within it, map units. representative: id of the image next to the centre.
    """

    id: str
    level: int
    parent: str | None
    name: str
    words: tuple[str, ...]
    rows: int
    centre: tuple[float, float, float]
    radius: float
    representative: str


@dataclass(frozen=True)
class SpaceLabels:
    """The labels of a map, level by level, most rows first. rows: of the map. unclustered: by level, rows that belong
    to none of its clusters."""

    rows: int
    unclustered: tuple[int, ...]
    labels: tuple[Label, ...]

    @property
    def loose(self) -> float:
        """Share of the rows that are in no cluster at all."""
        inside = sum(label.rows for label in self.labels if label.parent is None)
        return 1.0 - inside / self.rows if self.rows else 0.0


def write_labels(storage: Storage, fingerprint: str, spaces: Mapping[str, SpaceLabels]) -> None:
    """Store the labels of all spaces."""
    listed = {name: asdict(space) for name, space in spaces.items()}
    storage.write_json(labels_name(fingerprint), {"format": FORMAT, "spaces": listed})


def read_labels(storage: Storage, fingerprint: str) -> dict[str, SpaceLabels]:
    """What `write_labels` stored. Raises NotBuiltError when it is not there, DataError for anything else."""
    name = labels_name(fingerprint)
    if not storage.exists(name):
        raise NotBuiltError(f"{storage.uri(name)} is not there: the maps have no labels. Run `latent-assets build`.")
    try:
        found = storage.read_json(name)
        return {space: _space(values) for space, values in found["spaces"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{storage.uri(name)} cannot be read as labels ({error}): run `latent-assets verify`, then build again."
        ) from error


def _space(values: Mapping[str, Any]) -> SpaceLabels:
    known = {each.name for each in fields(Label)}
    labels = []
    for label in values["labels"]:
        own = {key: value for key, value in label.items() if key in known}
        labels.append(Label(**{**own, "words": tuple(own["words"]), "centre": tuple(own["centre"])}))
    return SpaceLabels(values["rows"], tuple(values["unclustered"]), tuple(labels))


def write_clusters(storage: Storage, fingerprint: str, shard: str, clusters: pl.DataFrame) -> None:
    """Store the clusters of a shard's rows: `id`, and `cluster_{space}` for each space."""
    storage.write_parquet(clusters_name(fingerprint, shard), clusters)


def read_clusters(storage: Storage, fingerprint: str, shard: str) -> pl.DataFrame:
    """What `write_clusters` stored. Raises NotBuiltError or StorageError when it is not there."""
    name = clusters_name(fingerprint, shard)
    if not storage.exists(name):
        raise NotBuiltError(f"{storage.uri(name)} is not there: run `latent-assets build`.")
    return storage.read_parquet(name)


def labelled_shards(storage: Storage, fingerprint: str) -> list[str]:
    """The shards whose rows have clusters."""
    names = storage.list(f"{labels_folder(fingerprint)}/rows", ".parquet")
    return [name.removesuffix(".parquet") for name in names]


def ancestors(labels: Iterable[Label]) -> dict[str, tuple[str | None, ...]]:
    """For each cluster the one of every level that it is or is part of, the coarsest first; None for none."""
    known = {label.id: label for label in labels}
    found: dict[str, tuple[str | None, ...]] = {}
    for label in known.values():
        line: list[str | None] = [None] * LEVELS
        at: Label | None = label
        while at is not None:
            line[at.level - 1] = at.id
            at = known[at.parent] if at.parent is not None else None
        found[label.id] = tuple(line)
    return found
