"""csv files, read strictly: every record has the fields of the header, and what has not is named by its line.

Which column is which is decided in `columns`.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import BinaryIO

import numpy as np
import polars as pl

from latent_assets.catalog.findings import Findings
from latent_assets.catalog.lists import BATCH_ROWS
from latent_assets.catalog.names import is_whole, whole
from latent_assets.errors import SourceError

_SEPARATORS = ",\t;|"
_SAMPLE_RECORDS = 20
_BEGINNING = 400  # lines of the first block at least
_FIRST, _BLOCK = 1 << 16, 4 << 20  # bytes read at once, at the beginning and behind it
_LINK = ("http://", "https://")
_Record = list[str] | str  # its fields, or why it cannot be read


class CsvReader:
    """A csv file: `names` of its columns, and their values in batches.

    Records are read strictly: as many fields as the header has, quotes that are closed where a field ends. A record
    that is not so is a bad row, named by its line, and the next line begins a new one. A file whose first line holds a
    link has no header: its columns are `column_1`, `column_2` and so on.

    Blocks of lines in which nothing is odd (`_plain`) are parsed as a whole, with the same result.
    """

    def __init__(self, stream: BinaryIO, name: str, findings: Findings, separator: str | None = None) -> None:
        self._name, self._findings = name, findings
        self._blocks = _blocks(stream)
        begin = next(self._blocks, b"")
        self._separator = separator or _separator(list(islice(_lines(begin), _SAMPLE_RECORDS)))
        self._number = 0
        self._begun: Iterator[tuple[int, _Record]] = self._records(begin)
        first = next(((line, row) for line, row in self._begun if row), None)
        if first is None:
            raise SourceError(f"{name} is empty: it has no header and no rows.")
        line, row = first
        if isinstance(row, str):
            raise SourceError(f"{name}, line {line}: the header cannot be read ({row}): correct it.")
        self.has_header = not any(cell.strip().lower().startswith(_LINK) for cell in row)
        if not self.has_header:
            self._begun = chain([first], self._begun)
        self._width = len(row)
        self.names = [cell.strip() for cell in row] if self.has_header else [f"column_{n + 1}" for n in range(len(row))]
        if bad := next((cell for cell in self.names if not is_whole(cell)), None):
            raise SourceError(
                f"{name}, line {line}: the column {whole(bad)!r} is not in UTF-8: save the file as UTF-8."
            )

    def batches(self, wanted: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The columns `wanted`, all text, a batch of rows at a time; an empty field is null."""
        places = [self.names.index(name) for name in wanted]
        yield from self._frames(wanted, places, self._begun)
        for block in self._blocks:
            if (lines := _plain(block, self._separator, self._width)) is None:
                yield from self._frames(wanted, places, self._records(block))
            else:
                self._number += lines
                yield _parsed(block, self._separator, wanted, places)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each record."""
        yield from self._sound(self._begun)
        for block in self._blocks:
            yield from self._sound(self._records(block))

    def sample(self, rows: int) -> list[list[str]]:
        """The first rows, which `batches` and `rows` give again."""
        found = list(islice(self._begun, rows))
        self._begun = chain(found, self._begun)
        return [row for _, row in found if not isinstance(row, str) and len(row) == self._width]

    def _sound(self, records: Iterator[tuple[int, _Record]]) -> Iterator[tuple[int, list[str]]]:
        width, bad = self._width, self._findings.bad_row
        for line, row in records:
            if len(row) == width and not isinstance(row, str):
                yield line, row
            elif isinstance(row, str):
                bad(f"{self._name}, line {line}: {row}")
            elif row:  # a line without anything is none
                bad(f"{self._name}, line {line}: {len(row)} fields where there have to be {width}")

    def _frames(
        self, wanted: Sequence[str], places: list[int], records: Iterator[tuple[int, _Record]]
    ) -> Iterator[pl.DataFrame]:
        rows: list[list[str]] = []
        lines: list[int] = []
        for line, row in self._sound(records):
            rows.append(row)
            lines.append(line)
            if len(rows) == BATCH_ROWS:
                yield self._frame(wanted, places, rows, lines)
                rows, lines = [], []
        if rows:
            yield self._frame(wanted, places, rows, lines)

    def _frame(self, wanted: Sequence[str], places: list[int], rows: list[list[str]], lines: list[int]) -> pl.DataFrame:
        columns = {name: [row[place] or None for row in rows] for name, place in zip(wanted, places, strict=True)}
        try:
            return pl.DataFrame(columns, schema=dict.fromkeys(wanted, pl.String))
        except UnicodeEncodeError:
            sound = [number for number, row in enumerate(rows) if all(is_whole(row[place]) for place in places)]
            for number in sorted(set(range(len(rows))) - set(sound)):
                self._findings.bad_row(f"{self._name}, line {lines[number]}: it is not in UTF-8")
            return self._frame(wanted, places, [rows[n] for n in sound], [lines[n] for n in sound])

    def _records(self, block: bytes) -> Iterator[tuple[int, _Record]]:
        """The records that begin in a block; blocks into which one of them goes on are read to their ends, too."""
        records = _Records(_lines(block), self._separator, self._number, lambda: next(self._blocks, None))
        yield from records
        self._number = records.number


class _Records:
    """(line it begins at, its fields or why it cannot be read) of each record that begins in `lines`.

    Lines are read once more behind a record that cannot be read, all but its first. `more` gives what follows when
    `lines` end within a record. `number` is that of the last line that was read.
    """

    def __init__(
        self, lines: Iterator[str], separator: str, number: int = 0, more: Callable[[], bytes | None] = lambda: None
    ) -> None:
        self._lines, self._separator, self._more = lines, separator, more
        self.number = number
        self._again: deque[str] = deque()
        self._taken: list[str] = []  # of the record that is being read

    def __iter__(self) -> Iterator[tuple[int, _Record]]:
        while True:
            reader = csv.reader(self._supply(), delimiter=self._separator, strict=True)
            try:
                while True:
                    self._taken.clear()
                    first = self.number + 1
                    try:
                        row = next(reader)
                    except StopIteration:
                        return
                    yield first, row
            except csv.Error as error:
                self._again.extendleft(reversed(self._taken[1:]))
                self.number = first
                yield first, _why(str(error))

    def _supply(self) -> Iterator[str]:
        while True:
            if self._again:
                line = self._again.popleft()
            elif (line := next(self._lines, "")) == "":
                if not self._taken or (block := self._more()) is None:
                    return
                self._lines = _lines(block)
                continue
            self.number += 1
            self._taken.append(line)
            yield line


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of a stream in blocks of whole lines; the first holds all that decides what the file is."""
    data, pieces = b"", list[bytes]()
    while data.count(b"\n") + data.count(b"\r") < _BEGINNING and (more := stream.read(_FIRST)):
        data += more
    while data:
        # the end of a line may be a carriage return alone, if it is not the first half of one
        if cut := data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1:
            yield b"".join([*pieces, data[:cut]])
            pieces = []
        pieces.append(data[cut:])
        data = stream.read(_BLOCK)
    if rest := b"".join(pieces):
        yield rest


def _lines(block: bytes) -> Iterator[str]:
    """Lines with their ends, as they are; what is no UTF-8 becomes surrogates, found when columns are made."""
    return iter(io.StringIO(block.decode("utf-8", "surrogateescape"), newline=""))


def _plain(block: bytes, separator: str, width: int) -> int | None:
    """How many lines a block has, if each is a record of `width` fields that Polars reads as `csv` does."""
    if block.startswith(codecs.BOM_UTF8) or b'"' in block or b"\0" in block:  # Polars leaves a mark out
        return None
    if block.count(b"\r") != block.count(b"\r\n"):
        return None
    try:
        if not block.isascii():
            block.decode()
    except UnicodeDecodeError:
        return None
    codes = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    lengths = np.diff(ends, prepend=-1)
    fields = np.diff(np.searchsorted(np.flatnonzero(codes == ord(separator)), ends), prepend=0) + 1
    sound = (fields == width).all() and lengths.min() > 2 and lengths.max() <= csv.field_size_limit()
    return len(ends) if sound else None


def _parsed(block: bytes, separator: str, wanted: Sequence[str], places: list[int]) -> pl.DataFrame:
    """The columns `wanted`, which are at `places`, of a plain block."""
    frame = pl.read_csv(
        block.replace(b"\r\n", b"\n"), has_header=False, separator=separator, quote_char=None, infer_schema=False,
        columns=sorted(places),
    )  # fmt: skip
    named = dict(zip(sorted(places), frame.columns, strict=True))
    return frame.select(pl.col(named[place]).alias(name) for name, place in zip(wanted, places, strict=True))


def _why(error: str) -> str:
    quote = "expected after" in error or "unexpected end of data" in error or "field larger" in error
    return f"a quote is not closed, or stands where none may ({error})" if quote else error


def _separator(head: list[str]) -> str:
    """What separates fields: the first character that gives every one of the first lines as many, more than one."""
    for separator in _SEPARATORS:
        widths = {len(row) for _, row in _Records(iter(head), separator) if row and not isinstance(row, str)}
        if len(widths) == 1 and widths != {1}:
            return separator
    return ","
