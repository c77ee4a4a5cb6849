"""What must hold of labels: their tree, and that rows are in the clusters that count them. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl

from latent_assets.atlas.labels.store import Label, SpaceLabels, ancestors, read_clusters, read_labels
from latent_assets.atlas.schema import CLUSTER
from latent_assets.errors import LatentAssetsError
from latent_assets.storage import Storage


def label_problems(storage: Storage, made: str, shards: Sequence[str], spaces: Sequence[str]) -> dict[str, str]:
    """What is wrong with the labels `made` (`labels`, `rows`: what was found; {} when all is well).

    Never raises for what is in the files.
    """
    try:
        found = read_labels(storage, made)
        missing = [space for space in spaces if space not in found]
    except (LatentAssetsError, OSError) as error:
        return {"labels": str(error)}
    if missing:
        return {"labels": f"the space {missing[0]} has no labels"}
    problems: dict[str, str] = {}
    for space in spaces:
        if problem := problem_of(found[space].labels):
            problems.setdefault("labels", f"{space}: {problem}")
    try:
        every = pl.concat([read_clusters(storage, made, shard) for shard in shards]) if shards else None
    except (LatentAssetsError, OSError, ValueError, pl.exceptions.PolarsError) as error:
        return problems | {"rows": str(error).splitlines()[0][:200]}
    for space in spaces if every is not None and not problems else ():
        assert every is not None
        if problem := _problem_of_rows(found[space], every, f"{CLUSTER}{space}"):
            problems.setdefault("rows", f"{space}: {problem}")
    return problems


def problem_of(labels: Sequence[Label]) -> str:
    """What is wrong with the tree of a map's labels; "" when nothing is."""
    known = {label.id: label for label in labels}
    if len(known) < len(labels):
        return "two clusters have the same id"
    for label in labels:
        parent = known.get(label.parent) if label.parent is not None else None
        if label.parent is not None and (parent is None or parent.level >= label.level or parent.rows < label.rows):
            return f"{label.id} ({label.name}) has no parent that it can be part of"
        if not label.name or not label.rows or label.level < 1:
            return f"{label.id} has no name, no rows or no level"
    return ""


def _problem_of_rows(space: SpaceLabels, rows: pl.DataFrame, column: str) -> str:
    if rows.height != space.rows or rows["id"].n_unique() != rows.height:
        return f"{rows['id'].n_unique()} rows are listed, {space.rows} have labels"
    lines = ancestors(space.labels)
    counted: Counter[str] = Counter()
    for cluster, count in rows[column].drop_nulls().value_counts().iter_rows():
        if cluster not in lines:
            return f"{count} rows are in the cluster {cluster}, which is not there"
        counted.update({each: count for each in lines[cluster] if each is not None})
    for label in space.labels:
        if counted[label.id] != label.rows:
            return f"{label.id} ({label.name}) has {counted[label.id]} rows, not {label.rows}"
    of = dict(
        rows.filter(pl.col("id").is_in([label.representative for label in space.labels]))["id", column].iter_rows()
    )
    for label in space.labels:
        if label.id not in lines.get(of.get(label.representative) or "", ()):
            return f"the image that stands for {label.id} ({label.name}) is not in it"
    return ""
