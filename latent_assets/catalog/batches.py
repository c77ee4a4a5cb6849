"""Reading a source into batches with the catalog's columns, in bounded memory.

Which file is which column's is decided in `columns`, which rows stay in `filters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.catalog.columns import cast_columns, map_columns
from latent_assets.catalog.filters import required_columns
from latent_assets.catalog.hashing import row_ids
from latent_assets.catalog.links import is_plain, requested
from latent_assets.catalog.notes import note_unused
from latent_assets.catalog.schema import CATALOG_COLUMNS, SOURCE_COLUMNS
from latent_assets.catalog.source import METADATA_SUFFIXES, SourceFile, list_files, local_copy
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

BATCH_ROWS = 200_000
_PLAIN = "plain"


def read_rows(profile: Profile, storage: Storage, ids: bool = True) -> Iterator[pl.DataFrame]:
    """The source's rows in batches of CATALOG_SCHEMA, in the order of its files. Raises SourceError.

    Ids are those of the links as they are asked for. Without `ids` those of links that are written so are null.
    """
    files = list_files(profile, storage)
    if profile.source.kind == "folder":
        from latent_assets.catalog.folder import folder_rows

        yield from folder_rows(profile.source, files)
    elif profile.source.kind == "webdataset":
        from latent_assets.catalog.webdataset import webdataset_rows

        yield from webdataset_rows(profile.source, files)
    else:
        for file in files:
            yield from _metadata_rows(profile, file, ids)


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
                total += int(pl.scan_parquet(file.path).select(pl.len()).collect().item())
                continue
            except (pl.exceptions.PolarsError, OSError):
                pass
        total, exact = total + max(0, file.bytes) // 100, False
    return total, exact


def _metadata_rows(profile: Profile, file: SourceFile, ids: bool) -> Iterator[pl.DataFrame]:
    with local_copy(file) as path:
        lazy = _scan(path, _format(profile, file), file)
        try:
            found = dict(lazy.collect_schema())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(_unreadable(file, error)) from error
        mapping = map_columns(profile.source, found, file.path)
        note_unused("columns", found.keys() - mapping.columns.values())
        for wanted, key in required_columns(profile.filters).items():
            if wanted not in mapping.columns:
                raise SourceError(
                    f"{file.path} has no column for `{wanted}`, which `{key}` of the profile looks at. Columns found: "
                    f"{', '.join(found)}. Leave that filter out, or name the column:\n[source.columns]\n"
                    f'{wanted} = "NAME OF THE COLUMN"'
                )
        query = lazy.select(cast_columns(mapping, found)).with_columns(pl.col("url").str.strip_chars())
        query = query.with_columns(is_plain("url").alias(_PLAIN))
        try:
            for batch in query.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, engine="streaming"):
                yield _completed(batch, ids)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(_unreadable(file, error)) from error


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


def _scan(path: Path, format: str, file: SourceFile) -> pl.LazyFrame:
    try:
        if format == "parquet":
            return pl.scan_parquet(path)
        if format == "csv":
            separator = "\t" if ".tsv" in file.name.lower() else ","
            return pl.scan_csv(path, separator=separator, infer_schema=False, encoding="utf8-lossy")
        return pl.scan_ndjson(path, infer_schema_length=10_000)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(_unreadable(file, error)) from error


def _format(profile: Profile, file: SourceFile) -> str:
    if profile.source.format != "auto":
        return profile.source.format
    name = file.name.lower()
    for format, suffixes in METADATA_SUFFIXES.items():
        if name.endswith(suffixes):
            return format
    raise SourceError(
        f"{file.path}: its name does not tell what it is. Set `source.format` of the profile to parquet, csv or jsonl."
    )


def _unreadable(file: SourceFile, error: Exception) -> str:
    detail = str(error).strip().splitlines()
    return (
        f"{file.path} cannot be read as metadata ({type(error).__name__}: {detail[0][:200] if detail else ''}): "
        "write it again, take it out of `source.path`, or set `source.format`."
    )
