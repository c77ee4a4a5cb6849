"""Lists that are text (csv, jsonl, one URL a line), read line by line into columns of text.

Which column is which is decided in `columns`. Parquet files and types are the business of `batches`.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from latent_assets.catalog.findings import Findings
from latent_assets.catalog.names import is_whole, whole
from latent_assets.errors import SourceError
from latent_assets.text import open_text, utf8_file

BATCH_ROWS = 50_000
_SEPARATORS = ",\t;|"
_SAMPLE_RECORDS = 20
_LINK = ("http://", "https://")


@contextmanager
def opened_list(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a text list, unpacked, in UTF-8 without a mark. Raises SourceError with `name` when it is none."""
    try:
        with utf8_file(path, name) as file, open_text(file) as stream:
            yield stream
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{name} cannot be read ({type(error).__name__}: {error}): write it again.") from error


# -- csv -------------------------------------------------------------------------------------------------


class CsvReader:
    """A csv file: `names` of its columns, and their values in batches.

    Records are read strictly: as many fields as the header has, quotes that are closed where a field ends. A record
    that is not so is a bad row, named by its line, and the next line begins a new one. A file whose first line holds a
    link has no header: its columns are `column_1`, `column_2` and so on.
    """

    def __init__(self, stream: BinaryIO, name: str, findings: Findings, separator: str | None = None) -> None:
        self._name, self._findings = name, findings
        # what is no UTF-8 becomes surrogates, which are found when columns are made
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        head = list(islice(text, _SAMPLE_RECORDS))
        self._records = _records(chain(head, text), separator or _separator(head))
        first = next(((line, row) for line, row in self._records if row), None)
        if first is None:
            raise SourceError(f"{name} is empty: it has no header and no rows.")
        line, row = first
        if isinstance(row, str):
            raise SourceError(f"{name}, line {line}: the header cannot be read ({row}): correct it.")
        self.has_header = not any(cell.strip().lower().startswith(_LINK) for cell in row)
        self._first = None if self.has_header else (line, row)
        self._width = len(row)
        self.names = [cell.strip() for cell in row] if self.has_header else [f"column_{n + 1}" for n in range(len(row))]
        if bad := next((cell for cell in self.names if not is_whole(cell)), None):
            raise SourceError(
                f"{name}, line {line}: the column {whole(bad)!r} is not in UTF-8: save the file as UTF-8."
            )

    def batches(self, wanted: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The columns `wanted`, all text, a batch of rows at a time; an empty field is null."""
        places = [self.names.index(name) for name in wanted]
        rows: list[list[str]] = []
        lines: list[int] = []
        for line, row in self.rows():
            rows.append(row)
            lines.append(line)
            if len(rows) == BATCH_ROWS:
                yield self._frame(wanted, places, rows, lines)
                rows, lines = [], []
        if rows:
            yield self._frame(wanted, places, rows, lines)

    def sample(self, rows: int) -> list[list[str]]:
        """The first rows, which `batches` gives again."""
        found = list(islice(self._records, rows))
        self._records = chain(found, self._records)
        first = [self._first[1]] if self._first else []
        return first + [row for _, row in found if not isinstance(row, str) and len(row) == self._width]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each record."""
        if self._first:
            yield self._first
        width, bad = self._width, self._findings.bad_row
        for line, row in self._records:
            if len(row) == width and not isinstance(row, str):
                yield line, row
            elif isinstance(row, str):
                bad(f"{self._name}, line {line}: {row}")
            elif row:  # a line without anything is none
                bad(f"{self._name}, line {line}: {len(row)} fields where there have to be {width}")

    def _frame(self, wanted: Sequence[str], places: list[int], rows: list[list[str]], lines: list[int]) -> pl.DataFrame:
        columns = {name: [row[place] or None for row in rows] for name, place in zip(wanted, places, strict=True)}
        try:
            return pl.DataFrame(columns, schema=dict.fromkeys(wanted, pl.String))
        except UnicodeEncodeError:
            sound = [number for number, row in enumerate(rows) if all(is_whole(row[place]) for place in places)]
            for number in sorted(set(range(len(rows))) - set(sound)):
                self._findings.bad_row(f"{self._name}, line {lines[number]}: it is not in UTF-8")
            return self._frame(wanted, places, [rows[n] for n in sound], [lines[n] for n in sound])


def _records(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str] | str]]:
    """(line it begins at, its fields or why it cannot be read) of each record; lines are read once more behind one
    that cannot be read, all but its first."""
    again: deque[str] = deque()
    taken: list[str] = []
    number = 0

    def supply() -> Iterator[str]:
        nonlocal number
        while True:
            if again:
                line = again.popleft()
            elif (line := next(lines, "")) == "":
                return
            number += 1
            taken.append(line)
            yield line

    while True:
        reader = csv.reader(supply(), delimiter=separator, strict=True)
        try:
            while True:
                taken.clear()
                first = number + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                yield first, row
        except csv.Error as error:
            again.extendleft(reversed(taken[1:]))
            number = first
            yield first, _why(str(error))


def _why(error: str) -> str:
    quote = "expected after" in error or "unexpected end of data" in error or "field larger" in error
    return f"a quote is not closed, or stands where none may ({error})" if quote else error


def _separator(head: list[str]) -> str:
    """What separates fields: the first character that gives every one of the first lines as many, more than one."""
    for separator in _SEPARATORS:
        widths = {len(row) for _, row in _records(iter(head), separator) if row and not isinstance(row, str)}
        if len(widths) == 1 and widths != {1}:
            return separator
    return ","


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
    for number, line in enumerate(_lines(stream), 1):
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


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines, also those that end as they did on old Macs."""
    for line in stream:
        yield from line.rstrip(b"\r\n").split(b"\r")
