"""A directory of images as a source: each image a row, sidecars its caption, folders its category (`categories`).

Sidecars are `NAME.json`, `NAME.txt`, `NAME.cls` and, per directory, a table `metadata.csv`, `metadata.jsonl` or
`metadata.parquet` with a column `file_name`. The images themselves are not read here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from latent_assets.catalog.categories import folder_categories
from latent_assets.catalog.lists import CsvReader, json_batches, opened_list
from latent_assets.catalog.names import path_of_name, whole
from latent_assets.catalog.sidecars import (
    LONGEST_SIDECAR,
    SIDECARS,
    Sidecars,
    catalog_frame,
    catalog_values,
    described,
    file_hash,
    folded,
    is_image,
    key_of,
)
from latent_assets.catalog.source import IMAGE_SUFFIXES, SourceFile, local_copy, read_range
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.catalog.findings import Findings
    from latent_assets.profile import Source

_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_BATCH = 10_000


def folder_rows(source: Source, files: list[SourceFile], findings: Findings) -> Iterator[pl.DataFrame]:
    """One row per image among `files`, in batches of CATALOG_SCHEMA. Raises SourceError when there is no image.

    What is neither an image nor describes one is told to `findings`, when the last batch was taken.
    """
    images = [file for file in files if is_image(file.name)]
    if not images:
        raise SourceError(
            f"There is no image below `source.path` = {source.path}: it needs files ending in "
            f"{', '.join(IMAGE_SUFFIXES)} (found {len(files)} other files)."
        )
    reader = _FolderReader(source, files, images, findings)
    for start in range(0, len(images), _BATCH):
        yield catalog_frame(reader.row(file) for file in images[start : start + _BATCH])
    reader.finish()


class _FolderReader:
    def __init__(self, source: Source, files: list[SourceFile], images: list[SourceFile], findings: Findings) -> None:
        self._source, self._findings = source, findings
        names = [file.name for file in images]
        self._category = folder_categories(names)
        self._sidecars: Sidecars[SourceFile] = Sidecars(names)
        tables = []
        for file in files:
            if file.name.rpartition("/")[2].lower() in _TABLES:
                tables.append(file)
            elif key_of(file.name)[1] in SIDECARS:
                self._sidecars.add(file.name, file)
            elif not is_image(file.name):
                findings.not_an_image(file.name)
        self._lines = _table_lines(tables, _Lookup(names), findings)

    def row(self, file: SourceFile) -> dict[str, Any]:
        values: dict[str, Any] = {"url": file.name, "category": self._category(file.name)}
        if line := self._lines.get(file.name):
            values |= catalog_values(self._source, line[1], line[0], self._findings)
        sidecars = self._sidecars.of(file.name)
        found = {extension: data for extension, place in sidecars.items() if (data := self._read(place)) is not None}
        values |= described(self._source, found, lambda extension: _place(sidecars, extension), self._findings)
        # what a sidecar claims of the file is replaced by what the file says
        facts = {"name": file.name, "path": path_of_name(file.name), "source_hash": file_hash(file.bytes, file.mark)}
        return {**values, **facts}

    def finish(self) -> None:
        for name in self._sidecars.unused():
            self._findings.not_an_image(name)

    def _read(self, place: SourceFile) -> bytes | None:
        try:
            data = read_range(place.path, 0, LONGEST_SIDECAR + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            self._findings.note("sidecars cannot be opened and were left out", 1, f"{place.path}, {reason}")
            return None
        if len(data) > LONGEST_SIDECAR:
            self._findings.note(f"sidecars of more than {LONGEST_SIDECAR:,} bytes were left out", 1, place.path)
            return None
        return data


def _place(sidecars: dict[str, SourceFile], extension: str) -> str:
    return whole(sidecars[extension].path) if extension in sidecars else ""


class _Lookup:
    """Finds the image that a table means, whichever way it writes the name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name: name for name in names}
        self._alike: dict[str, str] = {}

    def __call__(self, written: str) -> str | None:
        for name in (written, written.replace("\\", "/")):
            if (found := self._names.get(posixpath.normpath(name))) is not None:
                return found
        if not self._alike:
            # composed or decomposed letters (macOS), what is no UTF-8, capitals: rarer, and looked at last
            self._alike = {folded(name): name for name in sorted(self._names, reverse=True)}
        return self._alike.get(folded(posixpath.normpath(written.replace("\\", "/"))))


def _table_lines(
    tables: list[SourceFile], lookup: _Lookup, findings: Findings
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of an image -> the table of a directory above it, and its line there."""
    lines: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in tables:
        folder = file.name.rpartition("/")[0]
        for row in _table_rows(file, findings):
            written = str(row.get("file_name") or "").strip()
            if not written:
                continue
            if (name := lookup(posixpath.join(folder, written))) is None:
                findings.note("lines of tables name no image that is here", 1, f"{written} in {file.path}")
                continue
            lines[name] = (whole(file.path), row)
    return lines


def _table_rows(file: SourceFile, findings: Findings) -> Iterator[dict[str, Any]]:
    """The lines of a table. Raises SourceError when none of them names a file."""
    place, named, columns = whole(file.path), False, dict[str, None]()
    try:
        for row in _rows(file, place, findings):
            columns |= dict.fromkeys(row)
            # another letter case, as spreadsheets make of it
            key = next((key for key in row if key.lower() == "file_name"), None)
            named = named or key is not None
            yield row if key in (None, "file_name") else {**row, "file_name": row[key]}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{place} cannot be read ({error}): correct it or take it away.") from error
    if not named and columns:
        raise SourceError(
            f"{place} has the columns {', '.join(columns)}: it needs `file_name`, the path of an image relative to it."
        )


def _rows(file: SourceFile, place: str, findings: Findings) -> Iterator[dict[str, Any]]:
    name = file.name.lower()
    with local_copy(file) as path:
        if name.endswith(".parquet"):
            yield from pl.read_parquet(path, glob=False).iter_rows(named=True)
            return
        with opened_list(path, place) as stream:
            if name.endswith(".jsonl"):
                for batch in json_batches(stream, place, findings):
                    yield from batch
                return
            reader = CsvReader(stream, place, findings)
            for frame in reader.batches(list(dict.fromkeys(reader.names))):
                yield from frame.iter_rows(named=True)
