"""Labels of an atlas: clusters are found or taken as they were, described by their rows, named, and stored."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from latent_assets.atlas.labels.clustering import FITTED, Clusters, find_clusters
from latent_assets.atlas.labels.identity import give_ids, shared_rows
from latent_assets.atlas.labels.naming import Tree, name_clusters
from latent_assets.atlas.labels.rows import Captions, MapRows, read_captions, read_map_rows
from latent_assets.atlas.labels.store import (
    LEVELS,
    Label,
    SpaceLabels,
    ancestors,
    labelled_shards,
    read_clusters,
    read_labels,
    write_clusters,
    write_labels,
)
from latent_assets.atlas.schema import CLUSTER
from latent_assets.errors import LatentAssetsError
from latent_assets.layout import clusters_name, labels_name
from latent_assets.progress import report
from latent_assets.storage import Storage, fingerprint

_SETTLED = 5  # times that the middle of a cluster is looked for among the nearer half of its rows


@dataclass(frozen=True)
class LabelReport:
    """What was made. version: hash of all of it. shards: by shard, hash of its rows' clusters. clusters: by space, how
    many of each level. unclustered: by space, share of the rows in none. kept: by space, clusters that were there
    before. seconds: by space."""

    version: str
    rows: int
    shards: dict[str, str]
    clusters: dict[str, list[int]]
    unclustered: dict[str, float]
    kept: dict[str, int]
    seconds: dict[str, float]
    files: tuple[str, ...]


def make_labels(
    storage: Storage,
    made: str,
    projection: str,
    shards: Sequence[str],
    spaces: Sequence[str],
    before: str | None = None,
    boilerplate: Sequence[str] = (),
) -> LabelReport:
    """Cluster the maps `projection` over `shards`, name the clusters and store them under the fingerprint `made`.

    before: fingerprint of the labels whose ids clusters keep where they persist; what cannot be read of them is passed
    over. boilerplate: further words that name nothing. Raises StorageError when coordinates or captions are not there.
    """
    rows = read_map_rows(storage, projection, shards, spaces)
    captions = read_captions(storage, rows, boilerplate)
    found: dict[str, tuple[Clusters, list[str]]] = {}
    seconds: dict[str, float] = {}
    kept: dict[str, int] = {}
    sample = rows.sample(FITTED)
    for number, space in enumerate(spaces):
        report("atlas_labels", number, len(spaces), "spaces", f"clusters of {space}")
        started = time.monotonic()
        clusters = find_clusters(rows.places[space], sample)
        ids = give_ids(space, clusters.tree, _first(clusters, rows), *_before(storage, before, space, clusters, rows))
        found[space], kept[space] = (clusters, ids.ids), ids.kept
        seconds[space] = round(time.monotonic() - started, 2)
    described = _write(storage, made, rows, captions, found)
    return _report(storage, made, rows, described, kept, seconds)


def describe_anew(
    storage: Storage,
    made: str,
    projection: str,
    shards: Sequence[str],
    spaces: Sequence[str],
    boilerplate: Sequence[str] = (),
) -> LabelReport:
    """Describe and name clusters by the rows that their files list now: some of them were taken out.

    Rows of `made` that have no place any more are no rows of it. Clusters keep their ids; those without rows go.
    """
    before = read_labels(storage, made)
    rows = read_map_rows(storage, projection, shards, spaces)
    captions = read_captions(storage, rows, boilerplate)
    schema = {"id": pl.String, **{f"{CLUSTER}{space}": pl.String for space in spaces}}
    parts = [read_clusters(storage, made, shard).cast(schema) for shard in shards]  # type: ignore[arg-type]
    listed = pl.concat([pl.DataFrame(schema=schema), *parts])
    of_rows = rows.ids.to_frame().join(listed, on="id", how="left", maintain_order="left")
    found: dict[str, tuple[Clusters, list[str]]] = {}
    for space in spaces:
        ids = [label.id for label in before[space].labels]
        number = {identity: at for at, identity in enumerate(ids)}
        tree = Tree(
            [label.level for label in before[space].labels],
            [number[label.parent] if label.parent else -1 for label in before[space].labels],
        )
        of = of_rows[f"{CLUSTER}{space}"].replace_strict(number, default=-1, return_dtype=pl.Int32).to_numpy()
        found[space] = (Clusters(tree, of), ids)
    described = _write(storage, made, rows, captions, found)
    return _report(storage, made, rows, described, {}, {})


def _first(clusters: Clusters, rows: MapRows) -> list[str]:
    """The smallest id among the rows of each cluster, those of its parts among them."""
    frame = pl.DataFrame({"cluster": clusters.of, "id": rows.ids}).group_by("cluster").agg(pl.col("id").min())
    found = dict(frame.iter_rows())
    for number in reversed(range(len(clusters.tree.level))):
        parent = clusters.tree.parent[number]
        if parent >= 0:
            found[parent] = min(found.get(parent, found[number]), found[number])
    return [found[number] for number in range(len(clusters.tree.level))]


def _before(
    storage: Storage, before: str | None, space: str, clusters: Clusters, rows: MapRows
) -> tuple[pl.DataFrame, Mapping[str, Sequence[str | None]]]:
    """Rows that clusters share with those of before, and the lines of those."""
    empty = pl.DataFrame(schema={"now": pl.Int32, "before": pl.String, "rows": pl.UInt32})
    if before is None:
        return empty, {}
    column = f"{CLUSTER}{space}"
    try:
        lines = ancestors(read_labels(storage, before)[space].labels)
        parts = [read_clusters(storage, before, shard) for shard in labelled_shards(storage, before)]
        old = pl.concat([part.select("id", cluster=pl.col(column).cast(pl.String)) for part in parts])
    except (LatentAssetsError, KeyError, OSError, ValueError, pl.exceptions.PolarsError):
        return empty, {}  # of another profile, pruned or damaged: clusters are new then
    now = pl.DataFrame({"id": rows.ids, "cluster": clusters.of})
    return shared_rows(now, old), lines


# -- describing ----------------------------------------------------------------------------------------


def _write(
    storage: Storage,
    made: str,
    rows: MapRows,
    captions: Captions,
    found: Mapping[str, tuple[Clusters, list[str]]],
) -> dict[str, SpaceLabels]:
    """Describe the clusters of all spaces, and store them and who is in them."""
    described: dict[str, SpaceLabels] = {}
    columns: dict[str, pl.Series] = {"id": rows.ids}
    for space, (clusters, ids) in found.items():
        report("atlas_labels", len(described), len(found), "spaces", f"names of {space}")
        described[space] = _described(clusters, ids, rows.places[space], rows.ids, captions)
        named = pl.Series([*ids, None], dtype=pl.String)
        columns[f"{CLUSTER}{space}"] = named.gather(np.where(clusters.of < 0, len(ids), clusters.of))
    every = pl.DataFrame(columns)
    for shard, at, end in _slices(rows):
        write_clusters(storage, made, shard, every[at:end])
    write_labels(storage, made, described)
    return described


def _slices(rows: MapRows) -> list[tuple[str, int, int]]:
    ends = np.cumsum([0, *(count for _, count in rows.shards)]).tolist()
    return [(shard, at, end) for (shard, _), (at, end) in zip(rows.shards, pairwise(ends), strict=True)]


def _described(
    clusters: Clusters, ids: Sequence[str], places: np.ndarray, row_ids: pl.Series, captions: Captions
) -> SpaceLabels:
    tree = clusters.tree
    names = name_clusters(tree, pl.DataFrame({"cluster": clusters.of, "caption": captions.of}), captions.terms, LEVELS)
    labels: list[Label] = []
    unclustered = []
    for level in range(1, LEVELS + 1):
        of = tree.ancestor(level)[clusters.of]
        unclustered.append(int((of < 0).sum()))
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(tree.level) + 1))
        for number in [at for at, found in enumerate(tree.level) if found == level]:
            mine = order[bounds[number] : bounds[number + 1]]
            if not len(mine):
                continue
            centre, radius, nearest = middle(places[mine])
            parent = tree.parent[number]
            x, y, z = centre.tolist()
            labels.append(
                Label(
                    id=ids[number],
                    level=level,
                    parent=ids[parent] if parent >= 0 else None,
                    name=", ".join(names[number]) or _otherwise(captions.categories.gather(mine), ids[number]),
                    words=names[number],
                    rows=len(mine),
                    centre=(x, y, z),
                    radius=radius,
                    representative=min(row_ids.gather(mine[nearest]).to_list()),
                )
            )
    labels.sort(key=lambda label: (label.level, -label.rows, label.id))
    return SpaceLabels(len(places), tuple(unclustered), tuple(labels))


def middle(places: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Where rows float32 [n, 3] are densest, float64 [3]; how far the nearer half of them is from there; the positions
    of the rows that are nearest to it.

    The mean of the nearer half, and again that of the half that is nearer to it: a crescent's middle lies in it.
    """
    wide = places.astype(np.float64)
    centre = np.median(wide, axis=0)
    half = (len(wide) + 1) // 2
    for _ in range(_SETTLED):
        away = np.linalg.norm(wide - centre, axis=1)
        centre = wide[np.argsort(away, kind="stable")[:half]].mean(axis=0)
    away = np.linalg.norm(wide - centre, axis=1)
    return centre, float(np.partition(away, half - 1)[half - 1]), np.flatnonzero(away == away.min())


def _otherwise(categories: pl.Series, identity: str) -> str:
    """What a cluster is called whose captions say nothing: its commonest category, else its id."""
    counted = categories.drop_nulls().value_counts(sort=False).sort(["count", "category"], descending=[True, False])
    return str(counted["category"][0]) if counted.height else f"#{identity}"


def _report(
    storage: Storage,
    made: str,
    rows: MapRows,
    described: Mapping[str, SpaceLabels],
    kept: dict[str, int],
    seconds: dict[str, float],
) -> LabelReport:
    shards = {
        shard: hashlib.sha256(read_clusters(storage, made, shard).write_csv().encode()).hexdigest()[:32]
        for shard, _ in rows.shards
    }
    levels = range(1, LEVELS + 1)
    return LabelReport(
        version=fingerprint({space: asdict(each) for space, each in described.items()}, shards),
        rows=len(rows),
        shards=shards,
        clusters={
            space: [sum(label.level == level for label in each.labels) for level in levels]
            for space, each in described.items()
        },
        unclustered={space: round(each.loose, 4) for space, each in described.items()},
        kept=kept,
        seconds=seconds,
        files=(labels_name(made), *(clusters_name(made, shard) for shard, _ in rows.shards)),
    )
