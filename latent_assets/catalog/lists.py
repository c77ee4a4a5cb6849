"""Lists that are text (jsonl, one URL a line), read line by line into columns of text.

csv has a module of its own. Which column is which is decided in `columns`. Parquet files and types are the business of
`batches`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from latent_assets.catalog.findings import Findings
from latent_assets.catalog.names import whole
from latent_assets.errors import SourceError
from latent_assets.text import open_text, utf8_file

BATCH_ROWS = 50_000


@contextmanager
def opened_list(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a text list, unpacked, in UTF-8 without a mark. Raises SourceError with `name` when it is none."""
    try:
        with utf8_file(path, name) as file, open_text(file) as stream:
            yield stream
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{name} cannot be read ({type(error).__name__}: {error}): write it again.") from error


# -- jsonl -----------------------------------------------------------------------------------------------


def json_batches(stream: BinaryIO, name: str, findings: Findings) -> Iterator[list[dict[str, Any]]]:
    """The objects of a jsonl file, a batch at a time. A line that holds none is a bad row; empty lines are none."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(stream, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.strip():
                findings.bad_row(f"{name}, line {number}: {_json_problem(error)}")
            continue
        if not isinstance(value, dict):
            findings.bad_row(f"{name}, line {number}: it holds a {type(value).__name__}, not an object")
            continue
        rows.append(value)
        if len(rows) == BATCH_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _json_problem(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not in UTF-8"
    return f"it is not valid JSON ({error})"


def json_column(rows: Sequence[dict[str, Any]], keys: Sequence[str], refused: Callable[[Any], None]) -> pl.Series:
    """The first value of each row under one of `keys`, as text; what is a list or an object is `refused` and null."""

    def value(row: dict[str, Any]) -> str | None:
        for key in keys:
            if (found := row.get(key)) is not None:
                if isinstance(found, str):
                    return found
                if isinstance(found, list | dict):
                    refused(found)
                    continue
                return str(found).lower() if isinstance(found, bool) else repr(found)
        return None

    values = [value(row) for row in rows]
    try:
        return pl.Series(values, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series([text and whole(text) for text in values], dtype=pl.String)


# -- one URL a line --------------------------------------------------------------------------------------


def url_batches(stream: BinaryIO, name: str, findings: Findings) -> Iterator[pl.DataFrame]:
    """A column `url`, one for each line that is neither empty nor a comment (`#`); a first line `url` is a header."""
    urls: list[str] = []
    for number, line in enumerate(_single_lines(stream), 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            findings.bad_row(f"{name}, line {number}: it is not in UTF-8")
            continue
        if not text or text.startswith("#") or (number == 1 and text.lower() in ("url", "urls", "image_url")):
            continue
        if "\t" in text:
            findings.bad_row(f"{name}, line {number}: a tab, and what is no link behind it: a table is named .tsv")
            continue
        urls.append(text)
        if len(urls) == BATCH_ROWS:
            yield pl.DataFrame({"url": urls})
            urls = []
    if urls:
        yield pl.DataFrame({"url": urls})


def _single_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines, also those that end as they did on old Macs."""
    for line in stream:
        yield from line.rstrip(b"\r\n").split(b"\r")
