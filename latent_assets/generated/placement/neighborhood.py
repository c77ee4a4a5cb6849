"""The rows of a release around an image, in every space, in groups of near-duplicates.

Each embedding's own search proposes rows; every space orders all of them by its exact distance. Nothing here says how
usual a distance is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.resident import matrix
from latent_assets.atlas.table import nearest
from latent_assets.generated.placement.background import background_columns
from latent_assets.generated.placement.correlation import FINE, Picture
from latent_assets.generated.placement.groups import alike, distances_to, near_duplicates
from latent_assets.generated.placement.placed import Neighbour
from latent_assets.images.decode.image import decode_image

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.atlas.card import ReleaseInfo
    from latent_assets.atlas.resident import Resident
    from latent_assets.projection.model import MapModel

_NEIGHBORS = 48  # rows that are looked at around an image, near-duplicates of one another among them
_MORE = 16  # asked for beyond that: equal distances are ordered by id, which a search does not do
_FACTS = ("id", "caption", "category", "url", "source_url")
_OPTIONAL = ("aesthetic", "licence", "attribution")
_PICTURES = 4_096  # decoded thumbnails that are kept: 16 KiB each


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

    def without(self, left_out: np.ndarray) -> Near:
        """Without some of the rows, bool [n]: as if the release did not have them."""
        kept = np.flatnonzero(~left_out)
        groups = np.unique(self.groups[kept], return_inverse=True)[1]
        rows = [self.rows[int(row)] for row in kept]
        return Near(rows, self.distances[kept], self.similarities[kept], groups, self.own[kept])

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.unique(self.groups, return_index=True)[1]


class Neighborhoods:
    """Finds the neighbours of images in a release. `radii`: by embedding, within which rows are near-duplicates.

    resident: the release in memory, where it is small enough; the answers are the same.
    """

    def __init__(
        self,
        table: LanceTable,
        info: ReleaseInfo,
        model: MapModel,
        radii: Mapping[str, float],
        resident: Resident | None = None,
    ) -> None:
        self._table, self._info, self._model, self._radii, self._resident = table, info, model, radii, resident
        self._columns = told_columns(table)
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._keeping = threading.Lock()

    def around(self, vectors: Mapping[str, np.ndarray], without: str | None = None) -> dict[str, Near]:
        """By space the neighbours of an image with these features of its embeddings, float [d].

        `without`: the id of a row that is left out. The order does not change when an index is built anew.
        """
        rows, candidates = self._candidates(vectors, without)
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

    def pictures(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Picture]:
        """The thumbnails of rows found here as `Picture`s, by id; those that were asked for last are kept."""
        wanted = {row["id"]: row["at"] for row in rows}
        with self._keeping:
            found = {row_id: self._pictures[row_id] for row_id in wanted if row_id in self._pictures}
        missing = {row_id: at for row_id, at in wanted.items() if row_id not in found}
        found |= {row_id: Picture(decode_image(file), FINE) for row_id, file in self._thumbnails(missing).items()}
        with self._keeping:
            for row_id, picture in found.items():
                self._pictures[row_id] = picture
                self._pictures.move_to_end(row_id)
            while len(self._pictures) > _PICTURES:
                self._pictures.popitem(last=False)
        return found

    def _thumbnails(self, wanted: Mapping[str, int]) -> dict[str, bytes]:
        """Files by id, of rows by id and place in the table."""
        if self._resident is not None:
            return {row_id: self._resident.thumbnail(at) for row_id, at in wanted.items()}
        if not wanted:
            return {}
        taken = self._table.take_row_ids(sorted(wanted.values())).select(["id", "thumbnail"]).to_arrow()
        return dict(zip(taken["id"].to_pylist(), taken["thumbnail"].to_pylist(), strict=True))

    def _candidates(
        self, vectors: Mapping[str, np.ndarray], without: str | None
    ) -> tuple[list[Mapping[str, Any]], dict[str, np.ndarray]]:
        """What the search of each embedding finds, each row once: what is told of it, with its place in the table as
        `at`, and the vectors of all by embedding."""
        count = _NEIGHBORS + _MORE + (without is not None)
        names = list(self._model.features)
        if self._resident is not None:
            held = self._resident
            every = np.concatenate([held.nearest(name, vectors[name], count)[0] for name in names])
            left_out = held.position(without) if without is not None else None
            chosen = [at for at in dict.fromkeys(every.tolist()) if at != left_out]
            rows: list[Mapping[str, Any]] = [{**held.row(at), "at": at} for at in chosen]
            return rows, {name: held.vectors[name][chosen] for name in names}
        tables = []
        for name in names:
            search = nearest(self._table, name, self._info.metrics[name], vectors[name], count)
            search = search.select([*self._columns, *names, "_distance"]).with_row_id(True)
            tables.append(search.to_arrow().drop_columns(["_distance"]))
        found = pa.concat_tables(tables)
        first = {row_id: row for row, row_id in reversed(list(enumerate(found["id"].to_pylist()))) if row_id != without}
        found = found.take(sorted(first.values()))
        told = found.select([*self._columns, "_rowid"]).rename_columns([*self._columns, "at"])
        return told.to_pylist(), {name: matrix(found[name]) for name in names}

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


def told_columns(table: LanceTable) -> list[str]:
    """The columns that are told of a neighbour."""
    return list(dict.fromkeys([*_FACTS, *background_columns(table)]))


def rows_of(table: LanceTable, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Columns of the rows `ids` of a release that are there, in the order of `ids`."""
    every = table.search().select(["id"]).limit(None).to_arrow()["id"].combine_chunks()
    at = pc.index_in(pa.array(ids, pa.string()), value_set=every).drop_null()
    found = table.take_offsets(at.to_pylist()).select(list(dict.fromkeys(["id", *columns]))).to_arrow()
    # what is taken comes in the order of the table
    order = pc.index_in(every.take(at), value_set=found["id"].combine_chunks())
    return found.take(order).select(list(columns))
