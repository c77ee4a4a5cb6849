"""What must be true of a release: before readers see it, and as long as they do. Reads the version, changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from latent_assets import spaces as registered
from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.fragments import table_files
from latent_assets.atlas.indexes import missing_indexes
from latent_assets.atlas.recall import LEAST_RECALL, make_probes, recall
from latent_assets.atlas.schema import PLACE, table_fields
from latent_assets.atlas.table import LIVE, brief, matching, nearest, open_table
from latent_assets.errors import LatentAssetsError
from latent_assets.profile import Profile
from latent_assets.storage import Storage

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.atlas.release import Staged

_NORM_TOLERANCE = 5e-3  # float16 rounding of a unit vector stays well below
_THUMBNAIL_PIXELS = 96
_SAMPLED = 256
_SEARCHED = 8
_BATCH_ROWS = 8_192
_ID = "^[0-9a-f]{32}$"


@dataclass(frozen=True)
class Check:
    """One statement about a release, what was found and what was expected, as text."""

    name: str
    passed: bool
    found: str
    expected: str
    description: str


def check(profile: Profile, storage: Storage, staged: Staged, empty: bool = False) -> list[Check]:
    """Check a staged release. Vectors are read in batches; thumbnails and searches are sampled.

    `empty`: a release without rows is what the caller wants when it expects none. Data that cannot be read is a
    failed check, not an error.
    """
    return _checked(profile, storage, staged.version, staged.release, empty)


def check_live(profile: Profile, storage: Storage) -> list[Check]:
    """Check the release that readers see now, against what it says of itself.

    A table that cannot be opened is one failed check, `data_files`. Never raises for what is found.
    """
    try:
        table = open_table(storage.lance_uri, LIVE)
        release = ReleaseInfo.of_schema(table.schema, storage.lance_uri)
    except LatentAssetsError as error:
        return [_data_files_check([str(error)], 0)]
    return _checked(profile, storage, int(table.version), release, empty=release.rows == 0)


def _checked(profile: Profile, storage: Storage, version: int, release: ReleaseInfo, empty: bool) -> list[Check]:
    table = open_table(storage.lance_uri, version)
    rows = table.count_rows()
    sample = np.unique(np.linspace(0, rows - 1, _SAMPLED).astype(int)).tolist() if rows else []
    searched = sample[:: max(1, len(sample) // _SEARCHED)]
    unit = [name for name in release.dims if (row := registered.embeddings().get(name)) and row.unit]
    ids = _Ids(table)
    vectors = _Vectors(table, release, unit)
    checks = [
        _data_files(storage, version),
        _readable(_ROWS, lambda: _rows(len(ids.read()), release.rows, empty)),
        _readable(_UNIQUE, lambda: _unique(ids.read())),
        _readable(_WELL_FORMED, lambda: _well_formed(ids.read())),
        _readable(_REQUIRED, lambda: _required(table)),
        _readable(_FINITE, vectors.finite),
        _readable(_PLACED, vectors.placed),
    ]
    if unit:
        checks.append(_readable(_UNIT, vectors.unit_length))
    checks.append(_readable(_THUMBNAILS, lambda: _thumbnails(table, sample, profile)))
    if release.dims:
        checks.append(_readable(_SEARCH, lambda: _search(table, searched, release)))
    checks.append(_readable(_INDEXES, lambda: _indexes(table, release, sample)))
    if release.search:
        checks.append(_readable(_RECALL, lambda: _recall(table, release)))
    return checks


# name and meaning of each check
_FILES = ("data_files", "Every data file of the version is there with all its bytes.")
_ROWS = ("row_count", "One row for each placed row.")
_UNIQUE = ("unique_ids", "No id is there twice.")
_WELL_FORMED = ("well_formed_ids", "Every id is 32 hexadecimal digits.")
_REQUIRED = ("required_values", "Columns that must have a value do.")
_FINITE = ("finite_vectors", "No vector has NaN or infinity.")
_PLACED = ("finite_coordinates", "Every row has a place on each map.")
_UNIT = ("unit_norm", "Vectors that should have length 1 do.")
_THUMBNAILS = ("thumbnails", "A sample of thumbnails decodes.")
_SEARCH = ("search", "A row's own vector finds a row at distance 0.")
_INDEXES = ("indexes", "Ids, captions and filters are answered by indexes that have every row.")
_RECALL = ("search_recall", "Searches through an index find the ten nearest that comparing with every row finds.")

Found = tuple[bool, str, str]


def _readable(what: tuple[str, str], look: Callable[[], Found]) -> Check:
    """The check of what `look` finds; when the data cannot be read, a failed one that says so."""
    name, description = what
    try:
        passed, found, expected = look()
    except (OSError, ValueError, RuntimeError) as error:
        passed, found, expected = False, f"cannot be read ({brief(error)})", "readable data"
    return Check(name, bool(passed), found, expected, description)


def _data_files(storage: Storage, version: int) -> Check:
    files = table_files(storage, version)
    problems = [
        f"{file.name} is not there" if file.size is None else f"{file.name} has {file.size} of {file.expected} bytes"
        for file in files
        if not file.sound
    ]
    return _data_files_check(problems, len(files))


def _data_files_check(problems: Sequence[str], files: int) -> Check:
    found = f"{len(problems)} damaged: {'; '.join(problems[:3])}" if problems else f"{files} files"
    return Check(_FILES[0], not problems, found, "all files whole", _FILES[1])


class _Ids:
    """The column of ids, read once."""

    def __init__(self, table: LanceTable) -> None:
        self._table = table
        self._ids: pa.ChunkedArray | None = None

    def read(self) -> pa.ChunkedArray:
        if self._ids is None:
            self._ids = self._table.search().select(["id"]).to_arrow()["id"]
        return self._ids


def _rows(found: int, expected: int, empty: bool) -> Found:
    if empty and expected == 0:
        return found == 0, f"{found}", "0"
    return found == expected > 0, f"{found}", f"{expected}, more than 0"


def _unique(ids: pa.ChunkedArray) -> Found:
    doubled = len(ids) - pc.count_distinct(ids, mode="all").as_py()
    return doubled == 0, f"{doubled} repeated", "0 repeated"


def _well_formed(ids: pa.ChunkedArray) -> Found:
    odd = ids.filter(pc.invert(pc.fill_null(pc.match_substring_regex(ids, _ID), False)))
    found = f"{len(odd)} others" + (f", the first {odd[0].as_py()!r}" if len(odd) else "")
    return not len(odd), found, "0 others"


def _required(table: LanceTable) -> Found:
    present = set(table.schema.names)
    required = [field.name for field in table_fields() if not field.nullable and field.name in present]
    counts = {name: table.count_rows(f"{name} IS NULL") for name in required}
    missing = {name: count for name, count in counts.items() if count}
    return not missing, _count(missing), "no rows"


class _Vectors:
    """Vectors and coordinates, read once in batches: which are not finite, how far lengths are off 1."""

    def __init__(self, table: LanceTable, release: ReleaseInfo, unit: Sequence[str]) -> None:
        self._table, self._unit = table, unit
        self._names = [*release.dims, *(f"{PLACE}{space}" for space in release.spaces)]
        self._broken: dict[str, int] | None = None
        self._off = 0.0

    def _read(self) -> dict[str, int]:
        if self._broken is None:
            broken = dict.fromkeys(self._names, 0)
            for batch in self._table.search().select(self._names).to_batches(_BATCH_ROWS):
                for name, values in _matrices(batch, self._names):
                    finite = np.isfinite(values).all(axis=1)
                    broken[name] += int((~finite).sum())
                    if name in self._unit and finite.any():
                        norms = np.linalg.norm(values[finite].astype(np.float32), axis=1)
                        self._off = max(self._off, float(np.abs(norms - 1.0).max()))
            self._broken = broken
        return self._broken

    def finite(self) -> Found:
        bad = {name: count for name, count in self._read().items() if count and not name.startswith(PLACE)}
        return not bad, _count(bad), _count({})

    def placed(self) -> Found:
        bad = {name: count for name, count in self._read().items() if count and name.startswith(PLACE)}
        return not bad, _count(bad), _count({})

    def unit_length(self) -> Found:
        self._read()
        return self._off <= _NORM_TOLERANCE, f"off by {self._off:.5f}", f"at most {_NORM_TOLERANCE}"


def _count(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} rows in {name}" for name, count in rows.items()) or "no rows"


def _matrices(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        column = batch.column(name)
        yield name, column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _thumbnails(table: LanceTable, sample: list[int], profile: Profile) -> Found:
    """Decode a sample of the thumbnails."""
    limit = min(profile.table.thumbnail_size, _THUMBNAIL_PIXELS)
    problems = []
    rows = _take(table, sample, ["id", "thumbnail"])
    for row in rows:
        try:
            image = Image.open(io.BytesIO(row["thumbnail"] or b""))
            image.load()
        except (OSError, ValueError, SyntaxError) as error:
            problems.append(f"{row['id']} {error}")
            continue
        if max(image.size) > limit:
            problems.append(f"{row['id']} is {image.width} x {image.height}")
    found = f"{len(problems)} of {len(rows)} broken" + (f", the first: {problems[0]}" if problems else "")
    return not problems, found, f"0 broken, at most {limit} px"


def _search(table: LanceTable, sample: list[int], release: ReleaseInfo) -> Found:
    """Vector search on the version finds what it is asked for."""
    lost = 0
    asked = 0
    for row in _take(table, sample, list(release.dims)):
        for name, metric in release.metrics.items():
            search = nearest(table, name, metric, row[name], 1, release.probes(name))
            found = search.select(["id", "_distance"]).to_arrow()
            # equal pictures may answer for each other
            lost += not (found.num_rows and found["_distance"][0].as_py() < 1e-2)
            asked += 1
    return lost == 0, f"{lost} of {asked} lost", "0 lost"


def _indexes(table: LanceTable, release: ReleaseInfo, sample: list[int]) -> Found:
    """All are there, and a row is found through each: by its id, words and letters of its caption, and what filters."""
    missing = missing_indexes(table, release)
    if missing:
        return False, f"missing: {', '.join(missing)}", "all"
    lost = []
    for row in _take(table, sample[-1:], ["id", "caption", "category", "aesthetic"]):
        asked = {"id": f"id = '{row['id']}'"}
        if row["caption"]:
            asked["caption"] = f"contains(caption, {_quoted(row['caption'][:40])})"
            matching(table, row["caption"], 1).select(["id", "_score"]).to_arrow()
        if row["category"]:
            asked["category"] = f"category = {_quoted(row['category'])}"
        if row["aesthetic"] is not None and np.isfinite(row["aesthetic"]):
            asked["aesthetic"] = f"aesthetic BETWEEN {row['aesthetic'] - 1e-3} AND {row['aesthetic'] + 1e-3}"
        lost += [name for name, where in asked.items() if not table.count_rows(where)]
    found = f"not found by {', '.join(lost)}" if lost else f"{len(table.list_indices())} indexes"
    return not lost, found, "a row is found by each"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _recall(table: LanceTable, release: ReleaseInfo) -> Found:
    """Measured anew, with other questions than those that the number of lists was chosen by."""
    probes = make_probes(table, release.metrics, seed=1)
    found = {name: recall(table, name, probe, release.probes(name)) for name, probe in probes.items()}
    said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return all(value >= LEAST_RECALL for value in found.values()), said, f"at least {LEAST_RECALL} of 10"


def _take(table: LanceTable, rows: list[int], columns: list[str]) -> list[dict[str, Any]]:
    found = table.take_offsets(rows).select(columns).to_arrow() if rows else None
    return [] if found is None else list(found.to_pylist())
