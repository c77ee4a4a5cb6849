"""The entries of removal lists, with their lines: texts as people and ad blockers write them, and tables.

What an entry means, and whether it can mean anything, is decided in `removals`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import polars as pl

from latent_assets.catalog.findings import Findings
from latent_assets.catalog.lists import CsvReader, opened_list
from latent_assets.errors import SourceError
from latent_assets.text import MARK, decode_text, open_text

KINDS = ("url", "domain", "hash", "id", "sha256")
ID = re.compile(r"[0-9a-f]{32}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_PARQUET, _CSV, _JSON = (".parquet", ".pq"), (".csv", ".tsv"), (".jsonl", ".ndjson")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{4,}|[0-9]+\.[0-9]*(?:e[-+]?[0-9]+)?|[0-9]+e[-+]?[0-9]+)", re.IGNORECASE)
_COMMENT = re.compile(r"(?:^|\s)#.*|^!.*|^\[Adblock.*\]$")
_ADBLOCK = re.compile(r"\|\|([^|^$/]+)[\^/]?\|?")  # a whole domain; rules with options say something else
_WITHOUT_SCHEME = re.compile(r"(?://)?[^/\s]+\.[^/\s]+/(?!\*?$)")
_LINK = ("http://", "https://")
_OF_TEXT = "Correct it, or start a comment with #."
_OF_TABLE = "Correct it, or take it out."


class Entry(NamedTuple):
    """One thing that is listed: of which of KINDS, as it is written, where, and what can be done about it."""

    kind: str
    value: str
    place: str
    remedy: str = _OF_TABLE


def entries_of(file: Path, path: str) -> Iterator[Entry]:
    """What a removal list holds; `path` is what it is called. Texts and tables may be gzipped. Raises SourceError."""
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(_PARQUET):
        yield from _of_parquet(file, path)
    elif name.endswith(_CSV):
        with opened_list(file, path) as stream:
            yield from _of_csv(stream, path, "\t" if name.endswith(".tsv") else None)
    elif name.endswith(_JSON):
        with opened_list(file, path) as stream:
            yield from _of_json(stream, path)
    else:
        yield from _of_text(file, path)


# -- texts -----------------------------------------------------------------------------------------------


def _of_text(file: Path, path: str) -> Iterator[Entry]:
    try:
        with open_text(file) as stream:
            data = stream.read()
    except (EOFError, OSError) as error:
        raise SourceError(f"The removal list {path} cannot be read ({error}): write it again.") from error
    for number, text in enumerate(decode_text(data, path).splitlines(), 1):
        if line := _COMMENT.sub("", text.replace(MARK, "").strip()).strip():
            yield from _of_line(line, f"{path}, line {number}")


def _of_line(line: str, place: str) -> Iterator[Entry]:
    """What a line of a text lists."""
    words = line.split()
    if "://" in line:
        yield Entry("url", line, place, _OF_TEXT)
        first = line.partition("\t")[0].strip()
        # a tab stands in a link, where it is left out, or behind it: either is meant
        if first != line and re.search(r"://[^/]+/[^/]", first):
            yield Entry("url", first, place, _OF_TEXT)
    elif SHA256.fullmatch(line.lower()):
        yield Entry("sha256", line, place, _OF_TEXT)
    elif ID.fullmatch(line.lower()):
        yield Entry("id", line, place, _OF_TEXT)
    elif _NUMBER.fullmatch(line):
        yield Entry("hash", line, place, _OF_TEXT)
    elif rule := _ADBLOCK.fullmatch(line):
        yield Entry("domain", rule[1], place, _OF_TEXT)
    elif _is_address(words[0]):
        if ":" in line and len(words) == 1:
            yield Entry("domain", f"[{line}]", place, _OF_TEXT)
        yield from (Entry("domain", name, place, _OF_TEXT) for name in words[1:] or words if "." in name)
    elif _WITHOUT_SCHEME.match(line) and not _is_network(line):
        yield Entry("url", f"http://{line.lstrip('/')}", place, _OF_TEXT)
    else:
        yield Entry("domain", line, place, _OF_TEXT)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _is_network(word: str) -> bool:
    """Whether it is a range of addresses, `192.0.2.0/24`."""
    try:
        ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False
    return True


# -- tables ----------------------------------------------------------------------------------------------


class _Strict(Findings):
    """A removal list has no lines that could be left out."""

    def _refuse(self, problem: str) -> None:
        raise SourceError(f"{problem}: correct it.")


def _of_parquet(file: Path, path: str) -> Iterator[Entry]:
    try:
        frame = pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"The removal list {path} cannot be read ({error}): write it again.") from error
    for kind, place in _known(frame.columns, path):
        column = frame.to_series(place)
        if kind == "hash" and column.dtype == pl.Float32:
            raise SourceError(
                f"{path}: the column `{column.name}` is of type Float32, which holds no hash: write integers."
            )
        for number, value in enumerate(column.cast(pl.String).str.strip_chars(), 1):
            if value:
                yield Entry(kind, value, f"{path}, row {number}")


def _of_csv(stream: BinaryIO, path: str, separator: str | None) -> Iterator[Entry]:
    """All columns of one of the names, however capitals are; of a file without a header those that begin with links."""
    reader = CsvReader(stream, path, _Strict(), separator)
    names = reader.names
    if not reader.has_header:
        (first,) = reader.sample(0)
        names = ["url" if cell.strip().lower().startswith(_LINK) else "" for cell in first]
    known = _known(names, path)
    for line, row in reader.rows():
        for kind, place in known:
            if value := row[place].strip():
                yield Entry(kind, value, f"{path}, line {line}")


def _of_json(stream: BinaryIO, path: str) -> Iterator[Entry]:
    for number, line in enumerate(stream, 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{place}: it is not valid JSON ({error}): correct it.") from error
        if not isinstance(row, dict):
            raise SourceError(f"{place}: it holds a {type(row).__name__}, not an object: correct it.")
        values = list(row.values())
        for kind, at in _known(list(row), place):
            if (value := str("" if values[at] is None else values[at]).strip()) != "":
                yield Entry(kind, value, place)


def _known(columns: Sequence[str], place: str) -> list[tuple[str, int]]:
    """(kind, number of the column) of those that are known. Raises SourceError when none is."""
    known = [(kind, at) for at, name in enumerate(columns) if (kind := name.strip().lower()) in KINDS]
    if not known:
        raise _unnamed(columns, place)
    return known


def _unnamed(columns: Sequence[str], place: str) -> SourceError:
    return SourceError(
        f"The removal list {place} has the columns {', '.join(columns)}: "
        "name those that count `url`, `domain`, `hash` or `id`."
    )
