"""Clusters in tiles: a column for each level of each map, and the entries of `{space}/labels.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from latent_assets.atlas.labels.store import LEVELS, Label, SpaceLabels, ancestors
from latent_assets.atlas.schema import CLUSTER
from latent_assets.atlas.tiles.rows import Codes


def column_name(space: str, level: int) -> str:
    """The column of the clusters of a level."""
    return f"{CLUSTER}{space}_{level}"


def label_entries(labels: SpaceLabels) -> list[dict[str, Any]]:
    """The labels as the viewer reads them, coarse ones first, those of a level by their rows. `code` is that of the
    cluster in the column of its level."""
    codes = _codes_of(labels)
    return [
        {
            "id": label.id,
            "level": label.level,
            "parent": label.parent,
            "code": codes[label.level][label.id],
            "text": label.name,
            "position": list(label.centre),
            "radius": label.radius,
            "rows": label.rows,
            "image": label.representative,
        }
        for label in labels.labels
    ]


def write_clusters(
    write: Callable[[str, bytes], None], clusters: Mapping[str, Codes], labels: Mapping[str, SpaceLabels]
) -> list[dict[str, Any]]:
    """Write a column for each level of each map, two bytes a row; returns their entries of `tiles.json`.

    A row is in the finest cluster that it has up to the level: what is not parted further stands in finer columns, too.
    """
    columns = []
    for space, found in clusters.items():
        own = labels.get(space)
        lines = ancestors(own.labels) if own is not None else {}
        if own is None or not lines:
            continue
        codes = _codes_of(own)
        for level in range(1, LEVELS + 1):
            of_value = [0]
            for identity, _ in found.values:
                upto = [each for each in lines.get(identity, ())[:level] if each is not None]
                of_value.append(codes[level][upto[-1]] if upto else 0)
            values = np.array(of_value)[found.codes].astype("<u2")
            name = column_name(space, level)
            listed = sorted(codes[level], key=codes[level].__getitem__)
            counts = np.bincount(values, minlength=len(listed) + 1)[1:].tolist()
            write(f"columns/{name}.bin", values.tobytes())
            write(f"columns/{name}.json", _json(list(zip(listed, counts, strict=True))))
            columns.append({"name": name, "kind": "cluster", "values": len(listed), "space": space, "level": level})
    return columns


def _codes_of(labels: SpaceLabels) -> dict[int, dict[str, int]]:
    """By level, the code of each cluster in its column: of those up to the level, those with the most rows first."""
    order = sorted(labels.labels, key=_by_rows)
    return {
        level: {label.id: code for code, label in enumerate([each for each in order if each.level <= level], 1)}
        for level in range(1, LEVELS + 1)
    }


def _by_rows(label: Label) -> tuple[int, int, str]:
    return -label.rows, label.level, label.id


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n").encode()
