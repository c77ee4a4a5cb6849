"""Removal lists: what must never be fetched, whichever way lists and metadata write it.

Links are compared as they are asked for (`links`), names of hosts in ASCII, hashes as signed numbers. What cannot be
understood is refused with its line: an entry that is taken for something else would remove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import polars as pl
from yarl import URL

from latent_assets.catalog.links import hosts, is_plain, removal_keys, requested
from latent_assets.catalog.names import is_whole, whole
from latent_assets.catalog.removal_lists import ID, SHA256, Entry, entries_of
from latent_assets.catalog.sidecars import is_image
from latent_assets.catalog.source import SourceFile, local_copy
from latent_assets.errors import SourceError
from latent_assets.urls import UrlError, request_url

_HASH = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?", re.IGNORECASE)
_TWO_LINKS = re.compile(r"\shttps?://", re.IGNORECASE)
_HOST_FIRST = re.compile(r"(?://)?[^/\s]+\.[^/\s.:][^/\s]*(?:/|$)")
_SITE = r"^[^/]+/\*?$"  # the key of a link without a path
_PATTERN = r"\*$|/\*\.[^/]*$"  # how the key of one ends: `/images/*`, `/*.gif`
_EXACT = 2**53  # the whole numbers up to here have a float each


@dataclass(frozen=True)
class Removals:
    """What must never be fetched, from the profile's removal lists. Empty series when there is nothing.

    `urls` are the `removal_keys` of links, `domains` names in ASCII and addresses, `hashes` signed 64-bit integers,
    `images` SHA-256 of the bytes as fetched: known only once an image was fetched, so filters do not take them.
    """

    urls: pl.Series
    domains: frozenset[str]
    hashes: pl.Series
    ids: pl.Series
    images: frozenset[str] = frozenset()


def read_removals(paths: Iterable[str], images: bool = False) -> Removals:
    """Read the removal lists: one URL, domain, LAION hash or row id per line, or a column named so.

    Text files hold one entry per line (`#` starts a comment), also in the forms of ad blockers (`||domain^`) and of
    hosts files (`0.0.0.0 domain`); csv, tsv, jsonl and parquet files columns named `url`, `domain`, `hash` or `id`. A
    URL without a path means its domain. With `images` also the SHA-256 of images' bytes. Raises SourceError, with file
    and line, for what is none of these: an entry that is taken for something else would remove nothing.
    """
    found = _Collected()
    for path in paths:
        with local_copy(SourceFile(path, path.rsplit("/", 1)[-1], -1, "")) as file:
            if not file.is_file():
                raise SourceError(f"The removal list {path} is not there: correct the path.")
            found.add(entries_of(file, path), images)
    return found.removals()


def removals_of(
    urls: Iterable[str] = (), domains: Iterable[str] = (), ids: Iterable[str] = (), images: Iterable[str] = ()
) -> Removals:
    """What is named by hand, read as a list's entries are. Raises SourceError for what is none of its kind."""
    found = _Collected()
    named = (("url", urls), ("domain", domains), ("id", ids), ("sha256", images))
    found.add((Entry(kind, value.strip(), f"--{kind}") for kind, values in named for value in values), images=True)
    return found.removals()


def together(first: Removals, second: Removals) -> Removals:
    """Everything that one of two lists names."""
    return Removals(
        urls=first.urls.append(second.urls).unique(),
        domains=first.domains | second.domains,
        hashes=first.hashes.append(second.hashes).unique(),
        ids=first.ids.append(second.ids).unique(),
        images=first.images | second.images,
    )


class _Collected:
    """Entries of lists, by kind, understood one by one."""

    def __init__(self) -> None:
        self._urls = pl.Series("url", [], pl.String)
        self._domains: set[str] = set()
        self._hashes: list[int] = []
        self._ids: list[str] = []
        self._images: set[str] = set()

    def add(self, entries: Iterable[Entry], images: bool) -> None:
        links: list[Entry] = []
        for entry in entries:
            value = entry.value.lower()
            if not is_whole(value):
                raise _refusal(entry, "is not in UTF-8")
            if entry.kind == "url":
                links += (entry, *_without_scheme(entry))
            elif entry.kind == "domain":
                self._domains.add(_domain(entry))
            elif entry.kind == "hash":
                self._hashes.append(_hash(entry))
            elif entry.kind == "sha256" and not images:
                raise _refusal(
                    entry, "is the SHA-256 of an image, which is known only once it was fetched: take it down"
                )
            elif entry.kind == "sha256" and SHA256.fullmatch(value):
                self._images.add(value)
            elif entry.kind == "id" and ID.fullmatch(value):
                self._ids.append(value)
            else:
                raise _refusal(entry, "is no row id" if entry.kind == "id" else "is no SHA-256 (64 hexadecimal digits)")
        keys, sites = _keys(links)
        self._urls, self._domains = self._urls.append(keys), self._domains | sites

    def removals(self) -> Removals:
        return Removals(
            urls=self._urls.unique(),
            domains=frozenset(self._domains),
            hashes=pl.Series("hash", self._hashes, pl.Int64).unique(),
            ids=pl.Series("id", self._ids, pl.String).unique(),
            images=frozenset(self._images),
        )


def is_listed(host: str, domains: frozenset[str]) -> bool:
    """Whether the host or a domain above it is listed."""
    parts = host.split(".")
    return any(".".join(parts[start:]) in domains for start in range(len(parts)))


def _keys(links: list[Entry]) -> tuple[pl.Series, set[str]]:
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
    for row in (keys.str.contains(_PATTERN) & ~sites).arg_true():
        if not links[row].value.lower().endswith("%2a"):
            raise _refusal(
                links[row],
                "is a pattern, and only whole domains and single URLs are understood (a star that is meant is %2A)",
            )
    return keys.filter(~sites), set(hosts(urls.filter(sites)))


def _without_scheme(entry: Entry) -> Iterator[Entry]:
    """The link that an entry means besides the path of an image, if it may be one: `example.com/a.jpg`."""
    if _HOST_FIRST.match(entry.value) and not ("/" not in entry.value and is_image(entry.value)):
        link = entry._replace(value=f"http://{entry.value.lstrip('/')}")
        if _problem(link.value) is None:
            yield link


def _problem(url: str) -> str | None:
    try:
        request_url(url)
    except UrlError as error:
        return f"is no URL to be asked for ({error})"
    return "has several URLs" if _TWO_LINKS.search(url) else None


def _domain(entry: Entry) -> str:
    """A domain as `hosts` gives it, whether written as `domain`, `.domain`, `*.domain`, `domain/` or `domain:80`."""
    name = re.sub(r"^(?:\*\.|\.)", "", entry.value)
    if sum("." in word for word in name.split()) > 1:
        raise _refusal(entry, "has several domains: write one a line")
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


def _hash(entry: Entry) -> int:
    """A hash as the signed 64-bit integer that the catalog has, also of an unsigned one or of a float that is exact."""
    number = Decimal(entry.value if _HASH.fullmatch(entry.value) else "nan")
    if not number.is_finite() or not -(2**63) <= number < 2**64 or number % 1:
        raise _refusal(entry, "is no hash of 64 bits")
    if not entry.value.lstrip("+-").isdecimal() and abs(number) >= _EXACT:
        raise _refusal(entry, "is a float and has lost the last digits of a hash: write the integer")
    return int(number) - (2**64 if number >= 2**63 else 0)


def _refusal(entry: Entry, problem: str) -> SourceError:
    return SourceError(f"{entry.place}: {whole(entry.value[:80])!r} {problem}. {entry.remedy}")
