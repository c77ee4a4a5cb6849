"""Removal lists: what must never be fetched, whichever way lists and metadata write it.

Links are compared as they are asked for (`links`), names of hosts in ASCII, hashes as signed numbers. What cannot be
understood is refused with its line: an entry that is taken for something else would remove nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import polars as pl
from yarl import URL

from latent_assets.catalog.links import hosts, is_plain, removal_keys, requested
from latent_assets.catalog.source import SourceFile, local_copy
from latent_assets.errors import SourceError
from latent_assets.text import MARK, decode_text, utf8_file
from latent_assets.urls import UrlError, request_url

_KINDS = ("url", "domain", "hash", "id")
_TABLES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
_ID = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{4,}|[0-9]+\.[0-9]*(?:e[-+]?[0-9]+)?|[0-9]+e[-+]?[0-9]+)", re.IGNORECASE)
_COMMENT = re.compile(r"(?:^|\s)#.*|^!.*|^\[Adblock.*\]$")
_ADBLOCK = re.compile(r"\|\|([^|^$/]+)[\^/]?\|?")  # a whole domain; rules with options say something else
_TWO_LINKS = re.compile(r"\shttps?://", re.IGNORECASE)
_WITHOUT_SCHEME = re.compile(r"(?://)?[^/\s]+\.[^/\s]+/(?!\*?$)")
_SITE = r"^[^/]+/\*?$"  # the key of a link without a path
_EXACT = 2**53  # the whole numbers up to here have a float each


@dataclass(frozen=True)
class Removals:
    """What must never be fetched, from the profile's removal lists. Empty series when there is nothing.

    `urls` are the `removal_keys` of links, `domains` names in ASCII and addresses, `hashes` signed 64-bit integers.
    """

    urls: pl.Series
    domains: frozenset[str]
    hashes: pl.Series
    ids: pl.Series


class _Entry(NamedTuple):
    kind: str
    value: str
    place: str


def read_removals(paths: Iterable[str]) -> Removals:
    """Read the removal lists: one URL, domain, LAION hash or row id per line, or a column named so.

    Text files hold one entry per line (`#` starts a comment), also in the forms of ad blockers (`||domain^`) and of
    hosts files (`0.0.0.0 domain`); csv, tsv and parquet files columns named `url`, `domain`, `hash` or `id`. A URL
    without a path means its domain. Raises SourceError, with file and line, for what is none of these: an entry that
    is taken for something else would remove nothing.
    """
    urls = pl.Series("url", [], pl.String)
    domains: set[str] = set()
    hashes: list[int] = []
    ids: list[str] = []
    for path in paths:
        links: list[_Entry] = []
        with local_copy(SourceFile(path, path.rsplit("/", 1)[-1], -1, "")) as file:
            if not file.is_file():
                raise SourceError(f"The removal list {path} is not there: correct `filters.remove` of the profile.")
            for entry in _entries(file, path):
                if entry.kind == "url":
                    links.append(entry)
                elif entry.kind == "domain":
                    domains.add(_domain(entry))
                elif entry.kind == "hash":
                    hashes.append(_hash(entry))
                elif _ID.fullmatch(entry.value.lower()):
                    ids.append(entry.value.lower())
                else:
                    raise _refusal(entry, "is no row id")
        keys, sites = _keys(links)
        urls, domains = urls.append(keys), domains | sites
    return Removals(
        urls=urls.unique(),
        domains=frozenset(domains),
        hashes=pl.Series("hash", hashes, pl.Int64).unique(),
        ids=pl.Series("id", ids, pl.String).unique(),
    )


def is_listed(host: str, domains: frozenset[str]) -> bool:
    """Whether the host or a domain above it is listed."""
    parts = host.split(".")
    return any(".".join(parts[start:]) in domains for start in range(len(parts)))


def _entries(file: Path, path: str) -> Iterator[_Entry]:
    if file.name.lower().endswith(_TABLES):
        yield from _of_table(file, path)
        return
    for number, text in enumerate(decode_text(file.read_bytes(), path).splitlines(), 1):
        if line := _COMMENT.sub("", text.replace(MARK, "").strip()).strip():
            yield from _of_line(line, f"{path}, line {number}")


def _of_line(line: str, place: str) -> Iterator[_Entry]:
    """What a line of a text lists."""
    words = line.split()
    if "://" in line:
        yield _Entry("url", line, place)
    elif _ID.fullmatch(line.lower()):
        yield _Entry("id", line, place)
    elif _NUMBER.fullmatch(line):
        yield _Entry("hash", line, place)
    elif rule := _ADBLOCK.fullmatch(line):
        yield _Entry("domain", rule[1], place)
    elif len(words) > 1 and _is_address(words[0]):
        yield from (_Entry("domain", name, place) for name in words[1:] if "." in name)
    elif _WITHOUT_SCHEME.match(line):
        yield _Entry("url", f"http://{line.lstrip('/')}", place)
    else:
        yield _Entry("domain", line, place)


def _of_table(file: Path, path: str) -> Iterator[_Entry]:
    name = file.name.lower()
    try:
        if name.endswith(".parquet"):
            frame = pl.read_parquet(file, glob=False)
        else:
            with utf8_file(file, path) as text:
                frame = pl.read_csv(text, infer_schema=False, separator="\t" if ".tsv" in name else ",", glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"The removal list {path} cannot be read ({error}): write it again.") from error
    known = {kind: column for column in frame.columns if (kind := column.strip().lower()) in _KINDS}
    if not known:
        raise SourceError(
            f"The removal list {path} has the columns {', '.join(frame.columns)}: "
            "name those that count `url`, `domain`, `hash` or `id`."
        )
    for kind, column in known.items():
        if kind == "hash" and frame[column].dtype == pl.Float32:
            raise SourceError(f"{path}: the column `{column}` is of type Float32, which holds no hash: write integers.")
        for number, value in enumerate(frame[column].cast(pl.String).str.strip_chars(), 1):
            if value:
                yield _Entry(kind, value, f"{path}, row {number}")


def _keys(links: list[_Entry]) -> tuple[pl.Series, set[str]]:
    """The `removal_keys` of links, and the hosts of those that name nothing else."""
    written = pl.Series("url", [link.value for link in links], pl.String)
    plain = written.to_frame().select(is_plain("url")).to_series()
    for row in (~plain).arg_true():
        # what has no scheme is the path of an image in a folder or a tar
        if "://" in written[row] and (problem := _problem(written[row])):
            raise _refusal(links[row], problem)
    urls = requested(written, plain)
    keys = removal_keys(urls)
    sites = keys.str.contains(_SITE) & urls.str.contains("://", literal=True)
    for row in (keys.str.ends_with("/*") & ~sites).arg_true():
        raise _refusal(links[row], "is a pattern, and only whole domains and single URLs are understood")
    return keys.filter(~sites), set(hosts(urls.filter(sites)))


def _problem(url: str) -> str | None:
    if _TWO_LINKS.search(url):
        return "has several URLs"
    try:
        request_url(url)
    except UrlError as error:
        return f"is no URL to be asked for ({error})"
    return None


def _domain(entry: _Entry) -> str:
    """A domain as `hosts` gives it, whether written as `domain`, `.domain`, `*.domain`, `domain/` or `domain:80`."""
    name = re.sub(r"^(?:\*\.|\.)", "", entry.value)
    try:
        url = URL(request_url(name if "://" in name else f"http://{name}"), encoded=True)
    except UrlError:
        url = URL()
    host = url.raw_host or ""
    # `user@domain` is an address of mail, `domain##.class` hides parts of pages
    dots = set(".。．｡[")
    if not host or not dots & set(name) or set("@#?") & set(name) or url.raw_path not in ("/", "/*"):
        raise _refusal(entry, "is no URL, domain, LAION hash (an integer) or row id (32 hexadecimal digits)")
    return f"[{host}]" if ":" in host else host


def _hash(entry: _Entry) -> int:
    """A hash as the signed 64-bit integer that the catalog has, also of an unsigned one or of a float that is exact."""
    try:
        number = Decimal(entry.value)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or not -(2**63) <= number < 2**64 or number % 1:
        raise _refusal(entry, "is no hash of 64 bits")
    if not entry.value.lstrip("+-").isdecimal() and abs(number) >= _EXACT:
        raise _refusal(entry, "is a float and has lost the last digits of a hash: write the integer")
    return int(number) - (2**64 if number >= 2**63 else 0)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _refusal(entry: _Entry, problem: str) -> SourceError:
    return SourceError(f"{entry.place}: {entry.value[:80]!r} {problem}. Correct it, or start a comment with #.")
