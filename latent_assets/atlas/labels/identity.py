"""Ids of clusters: those of the labels before, where most of the rows are together still; new ones elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash

from latent_assets.atlas.labels.naming import Tree

_DIGITS = 8
_SAME = 0.5  # of the rows of both that must be in both (Jaccard), among rows that were there before and are now


@dataclass(frozen=True)
class Ids:
    """ids: of each cluster. kept: how many of them clusters had before."""

    ids: list[str]
    kept: int


def shared_rows(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """How many rows, among those of both, each pair of clusters has: `now`, `before`, `rows`.

    now: `id` of the row, `cluster` its number. before: `id`, `cluster` the id of the one it was in, null for none.
    """
    return now.join(before.select("id", before="cluster"), on="id").group_by(now="cluster", before="before").len("rows")


def give_ids(
    space: str,
    tree: Tree,
    first: Sequence[str],
    shared: pl.DataFrame,
    lines: Mapping[str, Sequence[str | None]],
) -> Ids:
    """An id for each cluster.

    first: for each cluster the smallest id of its rows, from which a new id is made. shared: sums of `shared_rows`.
    lines: for each cluster of before the one of every level that it is or was part of. A cluster is compared with those
    of its own level.
    """
    ids = [""] * len(tree.level)
    for level in sorted(set(tree.level)):
        for number, identity in _same(tree, level, shared, lines).items():
            ids[number] = identity
    kept = sum(bool(identity) for identity in ids)
    taken = {*lines, *ids}
    for number, identity in enumerate(ids):
        salt = 0
        while not identity:
            text = f"{space}/{tree.level[number]}/{first[number]}/{salt}"
            made = f"{xxhash.xxh64_intdigest(text.encode()):016x}"[:_DIGITS]
            identity, salt = ("" if made in taken else made), salt + 1
        ids[number] = identity
        taken.add(identity)
    return Ids(ids, kept)


def _same(tree: Tree, level: int, shared: pl.DataFrame, lines: Mapping[str, Sequence[str | None]]) -> dict[int, str]:
    """Clusters of a level that are those of before: number -> id; at most one for each, the most alike first."""
    up = tree.ancestor(level)
    old = {identity: line[level - 1] for identity, line in lines.items()}
    pairs = (
        pl.DataFrame(
            {
                "now": up[shared["now"].to_numpy().astype(np.int64)],
                "before": pl.Series([old.get(each) for each in shared["before"].to_list()], dtype=pl.String),
                "rows": shared["rows"],
            }
        )
        .group_by("now", "before")
        .agg(pl.col("rows").sum())
    )
    of_now = {row[0]: row[1] for row in pairs.group_by("now").agg(pl.col("rows").sum()).iter_rows()}
    of_before = {row[0]: row[1] for row in pairs.group_by("before").agg(pl.col("rows").sum()).iter_rows()}
    alike = [
        (rows / (of_now[now] + of_before[before] - rows), now, before)
        for now, before, rows in pairs.iter_rows()
        if now >= 0 and before is not None
    ]
    found: dict[int, str] = {}
    for share, now, before in sorted(alike, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if share >= _SAME and now not in found and before not in found.values():
            found[now] = before
    return found
