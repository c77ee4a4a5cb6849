"""What differs between two releases: rows, models, settings, quality, and how far rows moved on the maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.history import ReleaseSummary
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import open_table
from latent_assets.projection.drift import Drift, measure_drift

_SHOWN = 20  # ids that are named
_NO_SETTING = "not set"


@dataclass(frozen=True)
class ReleaseDifference:
    """From release `before` to release `after`. Rows are told apart by id.

    same_rows: whether both hold the very same rows, by their content hash; None where a card does not say.
    added_ids, removed_ids: at most 20 of them, sorted.
    models: name -> digest before and after, of those that differ; packages, settings: the same of what else differs.
    quality: space -> measure -> before and after, of fitted rows; placed_quality: of rows placed among them. drift: by
    space, of spaces that both have. floor: how far two fits like the later one lie from each other by chance, by space,
    where its maps continue those of the earlier one.
    """

    before: str
    after: str
    same_rows: bool | None
    rows: tuple[int, int]
    added: int
    removed: int
    added_ids: tuple[str, ...]
    removed_ids: tuple[str, ...]
    models: Mapping[str, tuple[str, str]]
    packages: Mapping[str, tuple[str, str]]
    settings: Mapping[str, tuple[Any, Any]]
    quality: Mapping[str, Mapping[str, tuple[float | None, float | None]]]
    placed_quality: Mapping[str, Mapping[str, tuple[float | None, float | None]]]
    drift: Mapping[str, Drift]
    floor: Mapping[str, Drift]


def difference(lance_uri: str, before: ReleaseSummary, after: ReleaseSummary) -> ReleaseDifference:
    """Compare two releases; ids and places of both are read, nothing else of their rows."""
    old, new = before.info, after.info
    shared = [space for space in old.spaces if space in new.spaces]
    first, second = _places(lance_uri, before.version, shared), _places(lance_uri, after.version, shared)
    added = second.join(first, on="id", how="anti")["id"].sort()
    removed = first.join(second, on="id", how="anti")["id"].sort()
    both = first.join(second, on="id", how="inner", suffix=" after")
    return ReleaseDifference(
        before=before.tag,
        after=after.tag,
        same_rows=old.content == new.content if old.content and new.content else None,
        rows=(first.height, second.height),
        added=len(added),
        removed=len(removed),
        added_ids=tuple(added.head(_SHOWN)),
        removed_ids=tuple(removed.head(_SHOWN)),
        models=_changed({n: m.digest for n, m in old.models.items()}, {n: m.digest for n, m in new.models.items()}),
        packages=_changed(old.packages, new.packages),
        settings=_changed(_flat(old), _flat(new)),
        quality=_quality(old.quality, new.quality),
        placed_quality=_quality(old.placed_quality, new.placed_quality),
        drift={
            space: measure_drift(_matrix(first, space), _matrix(both, space), _matrix(both, space, " after"))
            for space in shared
            if both.height
        },
        floor={space: Drift(**values) for space, values in new.floor.items()} if new.continues == before.tag else {},
    )


def _places(lance_uri: str, version: int, spaces: list[str]) -> pl.DataFrame:
    columns = ["id", *(f"{PLACE}{space}" for space in spaces)]
    found: pa.Table = open_table(lance_uri, version).search().select(columns).limit(None).to_arrow()
    frame = pl.from_arrow(found)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _matrix(frame: pl.DataFrame, space: str, suffix: str = "") -> np.ndarray:
    values: np.ndarray = frame[f"{PLACE}{space}{suffix}"].to_numpy().reshape(-1, 3)
    return values


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (before.get(key, _NO_SETTING), after.get(key, _NO_SETTING))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _flat(info: ReleaseInfo) -> dict[str, Any]:
    """Everything that was set: tables of the profile as `table.key`, each model's table too."""
    tables = {**info.settings, **{f"models.{name}": model.spec for name, model in info.models.items()}}
    found: dict[str, Any] = {}
    for name, values in tables.items():
        if isinstance(values, dict):
            found |= {f"{name}.{key}": value for key, value in values.items()}
        else:
            found[name] = values
    return found


def _quality(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """space -> measure -> before and after, whichever of the two has it."""
    none: Mapping[str, Any] = {}
    return {
        space: {
            measure: (old.get(space, none).get(measure), new.get(space, none).get(measure))
            for measure in dict.fromkeys((*old.get(space, none), *new.get(space, none)))
        }
        for space in dict.fromkeys((*old, *new))
    }
