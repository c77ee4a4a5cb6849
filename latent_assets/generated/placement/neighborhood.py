"""The rows of a release around an image, in every space, in groups of near-duplicates.

Each embedding's own search proposes rows; every space orders all of them by its exact distance. Nothing here says how
usual a distance is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.table import nearest
from latent_assets.generated.placement.background import background_columns
from latent_assets.generated.placement.groups import alike, distances_to, near_duplicates
from latent_assets.generated.placement.placed import Neighbour

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.atlas.card import ReleaseInfo
    from latent_assets.projection.model import MapModel

_NEIGHBORS = 48  # rows that are looked at around an image, near-duplicates of one another among them
_MORE = 16  # asked for beyond that: equal distances are ordered by id, which a search does not do
_FACTS = ("id", "caption", "category", "url", "source_url")
_OPTIONAL = ("aesthetic", "licence", "attribution")


@dataclass(frozen=True)
class Near:
    """Neighbours of an image in one space, nearest first: their columns, distances and similarities float64 [n], and
    groups of near-duplicates int64 [n], numbered in order of appearance. own: bool [n], which are near-duplicates of
    the image itself."""

    rows: Sequence[Mapping[str, Any]]
    distances: np.ndarray
    similarities: np.ndarray
    groups: np.ndarray
    own: np.ndarray

    def leaders(self, count: int) -> list[Mapping[str, Any]]:
        """The nearest member of each of the first groups."""
        return [self.rows[row] for row in self._firsts[:count]]

    def neighbours(self, count: int) -> tuple[Neighbour, ...]:
        """The first groups."""
        sizes = np.bincount(self.groups, minlength=1)
        return tuple(
            Neighbour(
                similarity=float(self.similarities[row]),
                distance=float(self.distances[row]),
                group_size=int(sizes[self.groups[row]]),
                **{name: self.rows[row][name] for name in _FACTS},
                **{name: self.rows[row].get(name) for name in _OPTIONAL},
            )
            for row in self._firsts[:count]
        )

    def others(self) -> Near:
        """Without the image's own near-duplicates."""
        kept = np.flatnonzero(~self.own)
        groups = np.unique(self.groups[kept], return_inverse=True)[1]
        rows = [self.rows[int(row)] for row in kept]
        return Near(rows, self.distances[kept], self.similarities[kept], groups, self.own[kept])

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.unique(self.groups, return_index=True)[1]


class Neighborhoods:
    """Finds the neighbours of images in a release. `radii`: by embedding, within which rows are near-duplicates."""

    def __init__(self, table: LanceTable, info: ReleaseInfo, model: MapModel, radii: Mapping[str, float]) -> None:
        self._table, self._info, self._model, self._radii = table, info, model, radii
        self._columns = list(dict.fromkeys([*_FACTS, *background_columns(table)]))

    def around(self, vectors: Mapping[str, np.ndarray], without: str | None = None) -> dict[str, Near]:
        """By space the neighbours of an image with these features of its embeddings, float [d].

        `without`: the id of a row that is left out. The order does not change when an index is built anew.
        """
        found = self._candidates(vectors, without)
        rows = found.select([*self._columns, "_rowid"]).to_pylist()
        candidates = {name: matrix(found[name]) for name in self._model.features}
        query = {name: np.asarray(vectors[name])[None] for name in self._model.features}
        ids = np.array([row["id"] for row in rows])
        same, own = alike(candidates, candidates, self._radii), alike(candidates, query, self._radii)[:, 0]
        near = {}
        for recipe in self._model.recipes:
            points = recipe.features(candidates)
            distances = distances_to(recipe.features(query)[0], points, recipe.metric)
            order = np.lexsort((ids, distances))[:_NEIGHBORS]
            near[recipe.space] = Near(
                [rows[row] for row in order],
                distances[order],
                self._similarities(recipe.space, distances[order]),
                near_duplicates(same[np.ix_(order, order)]),
                own[order],
            )
        return near

    def thumbnails(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """The pictures of rows found here, by id."""
        wanted = sorted({row["_rowid"] for row in rows})
        if not wanted:
            return {}
        taken = self._table.take_row_ids(wanted).select(["id", "thumbnail"]).to_arrow()
        return dict(zip(taken["id"].to_pylist(), taken["thumbnail"].to_pylist(), strict=True))

    def _candidates(self, vectors: Mapping[str, np.ndarray], without: str | None) -> pa.Table:
        """What the search of each embedding finds, each row once."""
        count = _NEIGHBORS + _MORE + (without is not None)
        tables = []
        for name in self._model.features:
            search = nearest(self._table, name, self._info.metrics[name], vectors[name], count)
            search = search.select([*self._columns, *self._model.features, "_distance"]).with_row_id(True)
            tables.append(search.to_arrow().drop_columns(["_distance"]))
        found = pa.concat_tables(tables)
        ids = found["id"].to_pylist()
        first = {row_id: row for row, row_id in reversed(list(enumerate(ids))) if row_id != without}
        return found.take(sorted(first.values()))

    def _similarities(self, space: str, distances: np.ndarray) -> np.ndarray:
        """1 for equal features; the cosine, or 1 - d^2 / D^2 (`placed.Neighbour`)."""
        return 1.0 - (distances if self._metrics[space] == "cosine" else distances**2 / self._typical[space])

    @cached_property
    def _metrics(self) -> dict[str, str]:
        return {recipe.space: recipe.metric for recipe in self._model.recipes}

    @cached_property
    def _typical(self) -> dict[str, float]:
        """By space the mean squared distance of two fitted images."""
        return {space: placer.typical for space, placer in self._model.placers.items()}


def rows_of(table: LanceTable, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Columns of the rows `ids` of a release that are there, in the order of `ids`."""
    every = table.search().select(["id"]).limit(None).to_arrow()["id"].combine_chunks()
    at = pc.index_in(pa.array(ids, pa.string()), value_set=every).drop_null()
    found = table.take_offsets(at.to_pylist()).select(list(dict.fromkeys(["id", *columns]))).to_arrow()
    # what is taken comes in the order of the table
    order = pc.index_in(every.take(at), value_set=found["id"].combine_chunks())
    return found.take(order).select(list(columns))


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as an array [n, d]."""
    values = column.combine_chunks()
    found: np.ndarray = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, values.type.list_size)
    return found
