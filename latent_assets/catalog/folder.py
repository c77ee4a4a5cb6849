"""A directory of images as a source: each image a row, sidecars its caption, folders its category (`categories`).

Sidecars are `NAME.json`, `NAME.txt` and, per directory, `metadata.csv` or `metadata.jsonl` with a column
`file_name`. The images themselves are not read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import polars as pl

from latent_assets.catalog.categories import folder_categories
from latent_assets.catalog.sidecars import catalog_frame, catalog_values, file_hash, read_json, read_text
from latent_assets.catalog.source import IMAGE_SUFFIXES, SourceFile, local_copy, read_range
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Source

_TABLES = ("metadata.csv", "metadata.jsonl")
_BATCH = 10_000


def folder_rows(source: Source, files: list[SourceFile]) -> Iterator[pl.DataFrame]:
    """One row per image among `files`, in batches of CATALOG_SCHEMA. Raises SourceError when there is no image."""
    by_name = {file.name: file for file in files}
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise SourceError(
            f"There is no image below `source.path` = {source.path}: it needs files ending in "
            f"{', '.join(IMAGE_SUFFIXES)} (found {len(files)} other files)."
        )
    tables = _tables(files)
    category = folder_categories(file.name for file in images)
    for batch in _batches(images):
        yield catalog_frame(_row(source, file, by_name, tables, category(file.name)) for file in batch)


def _row(
    source: Source,
    file: SourceFile,
    by_name: dict[str, SourceFile],
    tables: dict[str, dict[str, Any]],
    category: str | None,
) -> dict[str, Any]:
    path = PurePosixPath(file.name)
    values: dict[str, Any] = {"url": file.name, "category": category}
    values |= catalog_values(source, tables.get(file.name, {}))
    if text := by_name.get(str(path.with_suffix(".txt"))):
        values["caption"] = read_text(read_range(text.path, 0, -1)) or values.get("caption")
    if described := by_name.get(str(path.with_suffix(".json"))):
        values |= catalog_values(source, read_json(read_range(described.path, 0, -1), described.path))
    # what a sidecar claims of the file is replaced by what the file says
    return {**values, "name": file.name, "path": file.name, "source_hash": file_hash(file.bytes, file.mark)}


def _tables(files: list[SourceFile]) -> dict[str, dict[str, Any]]:
    """Name of an image -> its line in the `metadata.csv` or `metadata.jsonl` of a directory above it."""
    lines: dict[str, dict[str, Any]] = {}
    for file in files:
        folder, _, name = file.name.rpartition("/")
        if name.lower() not in _TABLES:
            continue
        with local_copy(file) as path:
            try:
                frame = pl.read_csv(path, infer_schema=False) if name.lower().endswith(".csv") else pl.read_ndjson(path)
            except pl.exceptions.PolarsError as error:
                raise SourceError(f"{file.path} cannot be read ({error}): correct it or take it away.") from error
        if "file_name" not in frame.columns:
            raise SourceError(
                f"{file.path} has the columns {', '.join(frame.columns)}: it needs `file_name`, the path of an image "
                "relative to it."
            )
        for row in frame.iter_rows(named=True):
            if row["file_name"]:
                lines[str(PurePosixPath(folder) / str(row["file_name"]))] = row
    return lines


def _batches(files: list[SourceFile]) -> Iterator[list[SourceFile]]:
    for start in range(0, len(files), _BATCH):
        yield files[start : start + _BATCH]
