"""Reading a source into batches with the catalog's columns, in bounded memory.

Which file is which column's is decided in `columns`, which rows stay in `filters`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.catalog.columns import (
    UNCAST,
    ColumnMap,
    candidates,
    cast_columns,
    lacks_url,
    map_columns,
    map_unnamed,
    missing_column,
    uncast_columns,
)
from latent_assets.catalog.filters import required_columns
from latent_assets.catalog.findings import Findings
from latent_assets.catalog.hashing import row_ids
from latent_assets.catalog.links import is_plain, requested
from latent_assets.catalog.lists import CsvReader, json_batches, json_column, opened_list, url_batches
from latent_assets.catalog.names import whole
from latent_assets.catalog.schema import CATALOG_COLUMNS, SOURCE_COLUMNS
from latent_assets.catalog.source import METADATA_SUFFIXES, Listing, SourceFile, list_files, list_source, local_copy
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

BATCH_ROWS = 200_000
_PLAIN = "plain"
_SAMPLE = 100  # rows by which columns without names are told apart


@dataclass(frozen=True)
class RowBatch:
    """Rows, CATALOG_SCHEMA; `captioned` when where they come from has captions at all."""

    frame: pl.DataFrame
    captioned: bool = True


def read_rows(profile: Profile, storage: Storage, findings: Findings, ids: bool = True) -> Iterator[RowBatch]:
    """The source's rows in batches, in the order of its files. Raises SourceError.

    Ids are those of the links as they are asked for. Without `ids` those of links that are written so are null.
    What is met besides is added to `findings`.
    """
    listing = list_source(profile, storage)
    _tell(profile, listing, findings)
    if profile.source.kind == "folder":
        from latent_assets.catalog.folder import folder_rows

        yield from map(RowBatch, folder_rows(profile.source, listing.files, findings))
    elif profile.source.kind == "webdataset":
        from latent_assets.catalog.webdataset import webdataset_rows

        yield from map(RowBatch, webdataset_rows(profile.source, listing.files, findings))
    else:
        for file in listing.files:
            yield from _MetadataFile(profile, file, ids, findings).rows()


def _tell(profile: Profile, listing: Listing, findings: Findings) -> None:
    """What the listing left out. Raises SourceError for lists of links in directories that cannot be read."""
    findings.unreadable = dict(listing.unreadable)
    for name, why in listing.unreadable.items():
        place = f"{profile.source.path}/{whole(name)}".rstrip("/")
        if profile.source.kind == "metadata":
            raise SourceError(
                f"{place} cannot be read ({why}), so which rows its lists have is not known: make it readable, or "
                "name the lists in `source.path` by a pattern that leaves it out."
            )
        findings.note("directories cannot be read: what is known of the images in them stays", 1, f"{place}, {why}")
    for name in listing.roots:
        findings.note("directories hold an atlas and were left out", 1, name)
    if profile.source.kind == "folder":
        findings.dropped.update(listing.left_out)
    else:
        for reason, count in listing.left_out.items():
            findings.note(f"files or directories were left out: {reason}", count)
    for name in listing.unused:
        findings.note("files were left out: they are no lists", 1, name)


def expected_rows(profile: Profile, storage: Storage) -> tuple[int, bool]:
    """How many rows the source has, and whether that is exact (parquet says so) or guessed from its size."""
    files = list_files(profile, storage)
    if profile.source.kind == "folder":
        return len(files), False
    if profile.source.kind == "webdataset":
        return sum(max(0, file.bytes) for file in files) // 50_000, False
    total, exact = 0, True
    for file in files:
        if _format(profile, file) == "parquet" and "://" not in file.path:
            try:
                total += int(pl.scan_parquet(file.path, glob=False).select(pl.len()).collect().item())
                continue
            except (pl.exceptions.PolarsError, OSError):
                pass
        total, exact = total + max(0, file.bytes) // 100, False
    return total, exact


class _MetadataFile:
    """One list of links."""

    def __init__(self, profile: Profile, file: SourceFile, ids: bool, findings: Findings) -> None:
        self._profile, self._file, self._ids, self._findings = profile, file, ids, findings

    def rows(self) -> Iterator[RowBatch]:
        """Its rows. Raises SourceError."""
        reader = {"parquet": self._parquet, "csv": self._csv, "jsonl": self._jsonl, "txt": self._urls}
        format = _format(self._profile, self._file)
        with local_copy(self._file) as path:
            try:
                yield from reader[format](path)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise SourceError(_unreadable(self._file, error)) from error

    def _parquet(self, path: Path) -> Iterator[RowBatch]:
        lazy = pl.scan_parquet(path, glob=False)
        found = dict(lazy.collect_schema())
        mapping = map_columns(self._profile.source, found, self._file.path)
        self._require(mapping.columns, found)
        self._findings.unused("columns", found.keys() - mapping.columns.values())
        query = _cast(lazy, mapping, found)
        for batch in query.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, engine="streaming"):
            yield self._completed(batch, mapping)

    def _csv(self, path: Path) -> Iterator[RowBatch]:
        name = self._file.name.lower()
        with opened_list(path, self._file.path) as stream:
            reader = CsvReader(stream, self._file.path, self._findings, "\t" if ".tsv" in name else None)
            found: dict[str, pl.DataType] = dict.fromkeys(reader.names, pl.String())
            if reader.has_header:
                mapping = map_columns(self._profile.source, found, self._file.path)
            else:
                mapping = map_unnamed(self._profile.source, reader.names, reader.sample(_SAMPLE), self._file.path)
            self._require(mapping.columns, found)
            twice = [name for name, count in Counter(reader.names).items() if count > 1]  # the first is read
            self._findings.unused("columns", [*(found.keys() - mapping.columns.values()), *twice])
            for batch in reader.batches(list(dict.fromkeys(mapping.columns.values()))):
                yield self._completed(_cast(batch.lazy(), mapping, found).collect(), mapping)

    def _jsonl(self, path: Path) -> Iterator[RowBatch]:
        source, keys, named = self._profile.source, dict[str, None](), dict[str, list[str]]()
        with opened_list(path, self._file.path) as stream:
            for rows in json_batches(stream, self._file.path, self._findings):
                for row in rows:
                    keys |= dict.fromkeys(row)
                schema, named = candidates(source, keys)
                columns = {
                    wanted: json_column(rows, names, partial(self._refused, wanted)) for wanted, names in named.items()
                }
                frame = pl.DataFrame(columns) if columns else pl.DataFrame({"url": [None] * len(rows)})
                mapping = ColumnMap(schema, {wanted: wanted for wanted in columns})
                yield self._completed(_cast(frame.lazy(), mapping, dict(frame.schema)).collect(), mapping)
        found = dict.fromkeys(keys, pl.String())
        if not keys:
            raise SourceError(f"{self._file.path} is empty: it has no rows.")
        if lost := [name for name in source.columns.values() if name not in keys]:
            raise missing_column(source, lost[0], found, self._file.path)
        if "url" not in named:
            raise lacks_url(self._file.path, found)
        self._require(named, found)
        self._findings.unused("columns", keys.keys() - {name for names in named.values() for name in names})

    def _urls(self, path: Path) -> Iterator[RowBatch]:
        mapping = ColumnMap("none", {"url": "url"})
        self._require(mapping.columns, {"url": pl.String()})
        with opened_list(path, self._file.path) as stream:
            for frame in url_batches(stream, self._file.path, self._findings):
                query = _cast(frame.lazy(), mapping, dict(frame.schema))
                yield self._completed(query.collect(), mapping)

    def _refused(self, column: str, value: object) -> None:
        self._findings.note(
            f"values of `{column}` are neither text nor a number: they count as missing", 1,
            f"{str(value)[:80]} in {self._file.path}",
        )  # fmt: skip

    def _require(self, present: Mapping[str, object], found: Mapping[str, pl.DataType]) -> None:
        for wanted, key in required_columns(self._profile.filters).items():
            if wanted not in present:
                raise SourceError(
                    f"{self._file.path} has no column for `{wanted}`, which `{key}` of the profile looks at. Columns "
                    f"found: {', '.join(found)}. Leave that filter out, or name the column:\n[source.columns]\n"
                    f'{wanted} = "NAME OF THE COLUMN"'
                )

    def _completed(self, batch: pl.DataFrame, mapping: ColumnMap) -> RowBatch:
        for name in batch.columns:
            if name.startswith(UNCAST) and (lost := batch.height - batch[name].null_count()):
                self._findings.note(
                    f"values of `{name.removeprefix(UNCAST)}` are no numbers that it can hold: they count as missing",
                    lost, f"{str(batch[name].drop_nulls()[0])[:80]!r} in {self._file.path}",
                )  # fmt: skip
        return RowBatch(_completed(batch, self._ids), "caption" in mapping.columns)


def _cast(lazy: pl.LazyFrame, mapping: ColumnMap, found: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """The columns of the catalog that a source has, what could not be cast, and whether links are plain."""
    query = lazy.select(cast_columns(mapping, found) + uncast_columns(mapping, found))
    return query.with_columns(pl.col("url").str.strip_chars()).with_columns(is_plain("url").alias(_PLAIN))


def _completed(batch: pl.DataFrame, ids: bool) -> pl.DataFrame:
    asked = batch if ids else batch.filter(~pl.col(_PLAIN))
    found = row_ids(requested(asked["url"], asked[_PLAIN]))
    none = pl.repeat(None, batch.height, dtype=pl.String, eager=True)
    return batch.select(
        (found if ids else none.scatter((~batch[_PLAIN]).arg_true(), found)).alias("id"),
        *(pl.col(name) for name in SOURCE_COLUMNS),
        pl.lit(1, pl.Int32).alias("url_count"),
        pl.lit(None, pl.String).alias("path"),
    ).select(CATALOG_COLUMNS)


def _format(profile: Profile, file: SourceFile) -> str:
    if profile.source.format != "auto":
        return profile.source.format
    name = file.name.lower()
    for format, suffixes in METADATA_SUFFIXES.items():
        if name.endswith(suffixes):
            return format
    raise SourceError(
        f"{whole(file.path)}: its name does not tell what it is. Set `source.format` of the profile to parquet, csv, "
        "jsonl or txt."
    )


def _unreadable(file: SourceFile, error: Exception) -> str:
    detail = str(error).strip().splitlines()
    return (
        f"{whole(file.path)} cannot be read as metadata ({type(error).__name__}: {detail[0][:200] if detail else ''}): "
        "write it again, take it out of `source.path`, or set `source.format`."
    )
