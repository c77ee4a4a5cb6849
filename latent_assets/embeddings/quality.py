"""Checks of the files of this room: what must hold before anything is made from them.

A check reads what it judges, and tells of a file that is missing, cut short or garbage instead of raising.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from PIL import Image

from latent_assets.embeddings.store import column_batches, read_id_array, read_width, thumbnail_batches
from latent_assets.errors import LatentAssetsError
from latent_assets.layout import latents_name
from latent_assets.profile import Table
from latent_assets.spaces import Embedding
from latent_assets.storage import Storage

_UNIT = 2e-3  # float16 rounding of a unit vector's length
_SAMPLED = 256
# what a file that is missing, cut short or no Arrow file raises, at whatever place
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, LatentAssetsError)

Problems = dict[str, str]


def embedding_problems(
    storage: Storage,
    embedding: Embedding,
    name: str,
    rows: int | None = None,
    ids: Sequence[str] | None = None,
    deep: bool = True,
) -> tuple[Problems, dict[str, float]]:
    """What is wrong with a shard's files of `embedding` (`rows`, `values`: what was found), and statistics.

    `name` is the storage name of the features. Expects distinct ids, as many as `rows` and equal to the set `ids`
    where these are known; the same in the file of latents; in every column finite values, and vectors of length 1, or
    (of what is not of unit length) no whole embedding that is all zero. Without `deep` only the ids are read. Never
    raises for what is in the files. The statistics are those of the whole embedding, else of its first feature.
    """
    files = [name] if embedding.whole is None else [name, latents_name(name)]
    rows_of: dict[str, list[str]] = {}
    for file in files:
        try:
            rows_of[file] = _ids(storage, file)
        except UNREADABLE as error:
            return {"rows": f"{file} cannot be read ({_said(error)})"}, {}
    found = rows_of[name]
    problems = row_problems(name, found, rows, ids)
    if any(others != found for others in rows_of.values()):
        problems.setdefault("rows", f"{files[-1]} has other rows than {name}")
    if not deep:
        return problems, {}
    statistics: dict[str, float] = {}
    # what the statistics are of comes first
    for column in dict.fromkeys((embedding.whole, *embedding.features)):
        if column is None:
            continue
        file = latents_name(name) if column == embedding.whole else name
        try:
            read_width(storage, file, column)  # the column is there, also when there are no rows
            judged = _Column(column == embedding.whole, embedding.unit)
            for batch in column_batches(storage, file, column):
                judged.add(batch)
        except UNREADABLE as error:
            problems.setdefault("values", f"{file}: `{column}` cannot be read ({_said(error)})")
            continue
        if said := judged.problem(found):
            problems.setdefault("values", f"{file}: `{column}` has {said}")
        statistics = statistics or judged.statistics()
    return problems, statistics


@dataclass
class _Column:
    """What is seen of a column while its batches pass."""

    is_whole: bool
    unit: bool
    norms: list[np.ndarray] = field(default_factory=list)
    infinite: list[int] = field(default_factory=list)
    rows: int = 0
    total: float = 0.0
    square: float = 0.0
    count: int = 0
    smallest: float = np.inf
    largest: float = -np.inf

    def add(self, batch: np.ndarray) -> None:
        values = batch.astype(np.float32)
        finite = np.isfinite(values).all(axis=1)
        self.infinite += (self.rows + np.flatnonzero(~finite)).tolist()
        self.rows += len(values)
        good = values[finite]
        self.norms.append(np.linalg.norm(good, axis=1))
        self.total += float(good.sum(dtype=np.float64))
        self.square += float((good**2).sum(dtype=np.float64))
        self.count += good.size
        self.smallest = min(self.smallest, float(good.min(initial=np.inf)))
        self.largest = max(self.largest, float(good.max(initial=-np.inf)))

    def problem(self, ids: Sequence[str]) -> str:
        """What must not be, in words; "" when all is well."""
        if self.rows != len(ids):
            return f"{self.rows} rows for {len(ids)} ids"
        if self.infinite:
            return f"values that are not finite in {len(self.infinite)} rows, the first is {ids[self.infinite[0]]}"
        norms = self._norms()
        if self.unit and (wrong := int((np.abs(norms - 1) > _UNIT).sum())):
            return f"values off the unit sphere in {wrong} rows"
        if self.is_whole and not norms.all():
            return f"values that are all zero in {int((norms == 0).sum())} rows"
        return ""

    def _norms(self) -> np.ndarray:
        return np.concatenate(self.norms) if self.norms else np.zeros(0, np.float32)

    def statistics(self) -> dict[str, float]:
        if not self.count:
            return {}
        mean = self.total / self.count
        found = {
            "mean norm": float(self._norms().mean()),
            "mean": mean,
            "standard deviation": max(0.0, self.square / self.count - mean * mean) ** 0.5,
            "smallest": self.smallest,
            "largest": self.largest,
        }
        return {key: round(value, 5) for key, value in found.items() if np.isfinite(value)}


def thumbnail_problems(
    storage: Storage,
    name: str,
    settings: Table,
    rows: int | None = None,
    ids: Sequence[str] | None = None,
    deep: bool = False,
) -> Problems:
    """What is wrong with a shard's thumbnails (`rows`, `values`: what was found; {} when all is well).

    Expects distinct ids, as many as `rows` and equal to the set `ids` where these are known, and for each a picture of
    at most `thumbnail_size` pixels a side in the profile's format. 256 of them, evenly chosen, are decoded, with
    `deep` all. Never raises for what is in the file.
    """
    try:
        found = _ids(storage, name)
        problems = row_problems(name, found, rows, ids)
        step = 1 if deep else max(1, len(found) // _SAMPLED)
        broken: list[str] = []
        position = 0
        for batch in thumbnail_batches(storage, name):
            files = batch.column("thumbnail")
            for row in range(-position % step, len(files), step):
                if said := _picture_problem(files[row].as_py(), settings):
                    broken.append(f"{found[position + row]} {said}")
            position += len(files)
    except UNREADABLE as error:
        return {"rows": f"{name} cannot be read ({_said(error)})"}
    if position != len(found):
        problems.setdefault("rows", f"{name} has {position} thumbnails for {len(found)} ids")
    if broken:
        problems["values"] = f"{name} has {len(broken)} thumbnails that cannot be shown, the first: {broken[0]}"
    return problems


def _picture_problem(data: bytes | None, settings: Table) -> str:
    try:
        image = Image.open(io.BytesIO(data or b""), formats=[settings.thumbnail_format])
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"({error})"
    if max(image.size) > settings.thumbnail_size:
        return f"is {image.width} x {image.height}, more than {settings.thumbnail_size} pixels"
    return ""


def row_problems(
    name: str, found: Sequence[str], rows: int | None = None, ids: Sequence[str] | None = None
) -> Problems:
    """`rows` when the ids of a file are not distinct, not as many as expected, or not the expected ones."""
    distinct = set(found)
    expected = len(ids) if rows is None and ids is not None else rows
    if len(distinct) != len(found) or expected not in (None, len(found)):
        wanted = "as many" if expected is None else f"{expected} rows"
        return {"rows": f"{name} has {len(found)} rows, {len(distinct)} of them distinct; expected {wanted}"}
    if ids is not None and (missing := set(ids) - distinct):
        return {"rows": f"{name} lacks {len(missing)} of the rows it should have, one of them {min(missing)}"}
    return {}


def _ids(storage: Storage, name: str) -> list[str]:
    array = read_id_array(storage, name)
    array.validate(full=True)
    if array.null_count:
        raise ValueError("an id is null")
    found: list[str] = array.to_pylist()
    return found


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
