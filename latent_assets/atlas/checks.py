"""What must be true of a staged release before readers see it. Reads the staged version, changes nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from latent_assets.atlas.dataset import open_table
from latent_assets.atlas.schema import FIELDS
from latent_assets.profile import Profile
from latent_assets.storage import Storage

if TYPE_CHECKING:
    from latent_assets.atlas.table import Staged

_NORM_TOLERANCE = 5e-3  # float16 rounding of a unit vector stays well below
_THUMBNAIL_PIXELS = 96
_SAMPLED = 256
_SEARCHED = 8
_ID = "^[0-9a-f]{32}$"


@dataclass(frozen=True)
class Check:
    """One statement about a release, what was found and what was expected, as text."""

    name: str
    passed: bool
    found: str
    expected: str
    description: str


def check(profile: Profile, storage: Storage, staged: Staged) -> list[Check]:
    """Check a staged release. Vectors are read in batches; thumbnails and searches are sampled."""
    dataset = open_table(storage.lance_uri, staged.version)
    ids = dataset.to_table(columns=["id"])["id"]
    sample = np.unique(np.linspace(0, len(ids) - 1, _SAMPLED).astype(int)).tolist() if len(ids) else []
    return [
        _rows(len(ids), staged.release.rows),
        _unique(ids),
        _well_formed(ids),
        _required(dataset),
        *_vectors(dataset, staged),
        _thumbnails(dataset, sample, profile),
        *([_search(dataset, sample[:: max(1, len(sample) // _SEARCHED)])] if "clip" in staged.release.dims else []),
    ]


def _rows(found: int, expected: int) -> Check:
    return Check(
        "row_count", found == expected > 0, f"{found}", f"{expected}, more than 0", "One row for each placed row."
    )


def _unique(ids: pa.ChunkedArray) -> Check:
    doubled = len(ids) - pc.count_distinct(ids, mode="all").as_py()
    return Check("unique_ids", doubled == 0, f"{doubled} repeated", "0 repeated", "No id is there twice.")


def _well_formed(ids: pa.ChunkedArray) -> Check:
    odd = ids.filter(pc.invert(pc.fill_null(pc.match_substring_regex(ids, _ID), False)))
    found = f"{len(odd)} others" + (f", the first {odd[0].as_py()!r}" if len(odd) else "")
    return Check("well_formed_ids", not len(odd), found, "0 others", "Every id is 32 hexadecimal digits.")


def _required(dataset: lance.LanceDataset) -> Check:
    required = [field.name for field in FIELDS if not field.nullable and field.name in dataset.schema.names]
    counts = {name: dataset.count_rows(filter=f"{name} IS NULL") for name in required}
    missing = {name: count for name, count in counts.items() if count}
    return Check("required_values", not missing, _count(missing), "no rows", "Columns that must have a value do.")


def _vectors(dataset: lance.LanceDataset, staged: Staged) -> list[Check]:
    """Finite vectors and coordinates, unit clip vectors."""
    broken: dict[str, int] = {}
    off = 0.0
    names = [*staged.release.dims, *(f"xyz_{space}" for space in staged.release.spaces)]
    for batch in dataset.to_batches(columns=names):
        for name, values in _matrices(batch, names):
            finite = np.isfinite(values).all(axis=1)
            broken[name] = broken.get(name, 0) + int((~finite).sum())
            if name == "clip" and finite.any():
                norms = np.linalg.norm(values[finite].astype(np.float64), axis=1)
                off = max(off, float(np.abs(norms - 1.0).max()))
    bad_vectors = {name: broken[name] for name in staged.release.dims if broken.get(name)}
    bad_coords = {name: count for name, count in broken.items() if name.startswith("xyz_") and count}
    checks = [
        Check("finite_vectors", not bad_vectors, _count(bad_vectors), _count({}), "No vector has NaN or infinity."),
        Check(
            "finite_coordinates", not bad_coords, _count(bad_coords), _count({}), "Every row has a place on each map."
        ),
    ]
    if "clip" in staged.release.dims:
        text = "CLIP vectors have length 1."
        checks.append(
            Check("unit_norm", off <= _NORM_TOLERANCE, f"off by {off:.5f}", f"at most {_NORM_TOLERANCE}", text)
        )
    return checks


def _count(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} rows in {name}" for name, count in rows.items()) or "no rows"


def _matrices(batch: pa.RecordBatch, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        column = batch.column(name)
        yield name, column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _thumbnails(dataset: lance.LanceDataset, sample: list[int], profile: Profile) -> Check:
    """Decode a sample of the thumbnails."""
    limit = min(profile.table.thumbnail_size, _THUMBNAIL_PIXELS)
    problems = []
    rows = dataset.take(sample, columns=["id", "thumbnail"]).to_pylist() if sample else []
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
    return Check("thumbnails", not problems, found, f"0 broken, at most {limit} px", "A sample of thumbnails decodes.")


def _search(dataset: lance.LanceDataset, sample: list[int]) -> Check:
    """Vector search on the staged version finds what it is asked for."""
    lost = 0
    for row in dataset.take(sample, columns=["id", "clip"]).to_pylist():
        query = {
            "column": "clip",
            "q": np.asarray(row["clip"], np.float16),
            "k": 1,
            "metric": "cosine",
            "refine_factor": 10,
        }
        found = dataset.to_table(columns=["id", "_distance"], nearest=query, disable_scoring_autoprojection=True)
        # equal pictures may answer for each other
        lost += not (found.num_rows and found["_distance"][0].as_py() < 1e-2)
    return Check(
        "search", lost == 0, f"{lost} of {len(sample)} lost", "0 lost", "A row's own vector finds a row at distance 0."
    )
