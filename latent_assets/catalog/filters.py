"""Which rows of the source become the catalog, and how many were dropped by which rule.

A row is dropped by the first rule that hits it. Duplicates and samples need all rows and are dealt with in `build`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from latent_assets.catalog.hashing import id_heads, mixed
from latent_assets.catalog.source import SourceFile, local_copy
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Filters

DUPLICATE = "duplicate_url"
NOT_SAMPLED = "not_sampled"

_ID = re.compile(r"[0-9a-f]{32}")
_HASH = re.compile(r"-?[0-9]{4,20}")
_DOMAIN = re.compile(r"(?:\*\.|\.)?((?:[^\s./@:]+\.)+[^\s./@:]+)")
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)"


@dataclass(frozen=True)
class Removals:
    """What must never be fetched, from the profile's removal lists. Empty series when there is nothing."""

    urls: pl.Series
    domains: frozenset[str]
    hashes: pl.Series
    ids: pl.Series


@dataclass
class Funnel:
    """Rows read and rows dropped by each rule, in the order of the rules."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def steps(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.dropped.items())


class RowFilter:
    """The rules of a profile that look at one row at a time, with their funnel."""

    def __init__(self, filters: Filters, removals: Removals) -> None:
        self._rules = list(_rules(filters, removals))
        self._removals = removals
        self.funnel = Funnel(0, {reason: 0 for reason, _ in self._rules})
        if removals.domains:
            self.funnel.dropped["removed_domain"] = 0

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of `frame` (columns of the catalog, with `id`) that no rule drops; counts the others."""
        self.funnel.rows += frame.height
        kept = frame
        if self._rules:
            hit = pl.coalesce(
                pl.when(rule.fill_null(True)).then(pl.lit(number, pl.UInt8))
                for number, (_, rule) in enumerate(self._rules)
            )
            hits = frame.select(hit.alias("hit"))["hit"]
            counts = np.bincount(hits.drop_nulls().to_numpy(), minlength=len(self._rules))
            for (reason, _), count in zip(self._rules, counts, strict=True):
                self.funnel.drop(reason, int(count))
            kept = frame.filter(hits.is_null())
        return self._drop_domains(kept) if self._removals.domains else kept

    def _drop_domains(self, frame: pl.DataFrame) -> pl.DataFrame:
        hosts = frame["url"].str.extract(_HOST, 1).str.to_lowercase().str.strip_chars_end(".").alias("host")
        listed = [host for host in hosts.unique().drop_nulls() if _is_listed(host, self._removals.domains)]
        kept = frame.filter(~hosts.is_in(listed).fill_null(False))
        self.funnel.drop("removed_domain", frame.height - kept.height)
        return kept


def required_columns(filters: Filters) -> dict[str, str]:
    """catalog column -> profile key, for the filters that look at a column a source may lack."""
    keys = {
        "aesthetic": filters.min_aesthetic,
        "punsafe": filters.max_punsafe,
        "pwatermark": filters.max_pwatermark,
        "width": filters.min_width,
        "height": filters.min_height,
    }
    prefix = {"punsafe": "max_", "pwatermark": "max_"}
    return {name: f"filters.{prefix.get(name, 'min_')}{name}" for name, value in keys.items() if value is not None}


def read_removals(paths: Iterable[str]) -> Removals:
    """Read the removal lists: one URL, domain, LAION hash or row id per line, or a column named so.

    Text files hold one entry per line (`#` starts a comment); csv and parquet files columns named `url`,
    `domain`, `hash` or `id`. Raises SourceError for a file that is not there or a line that is none of these.
    """
    entries: dict[str, list[str]] = {"url": [], "domain": [], "hash": [], "id": []}
    for path in paths:
        with local_copy(SourceFile(path, path.rsplit("/", 1)[-1], -1, "")) as file:
            if not file.is_file():
                raise SourceError(f"The removal list {path} is not there: correct `filters.remove` of the profile.")
            for kind, values in _entries(file, path):
                entries[kind] += values
    return Removals(
        urls=pl.Series("url", entries["url"], pl.String).unique(),
        domains=frozenset(domain.lower().rstrip(".") for domain in entries["domain"]),
        hashes=pl.Series("hash", [int(value) for value in entries["hash"]], pl.Int64).unique(),
        ids=pl.Series("id", [value.lower() for value in entries["id"]], pl.String).unique(),
    )


def sample_ranks(ids: pl.Series, seed: int) -> np.ndarray:
    """A pseudo-random uint64 per row id, the same for the same seed: a sample is the rows with the lowest."""
    return mixed(id_heads(ids).to_numpy() + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64))


def _rules(filters: Filters, removals: Removals) -> Iterator[tuple[str, pl.Expr]]:
    """(reason, expression that is true or null for a row to drop), in the order of the funnel."""
    yield "no_url", pl.col("url").str.len_bytes() == 0
    if filters.require_caption:
        yield "no_caption", pl.col("caption").str.strip_chars().str.len_bytes() == 0
    if filters.min_aesthetic is not None:
        yield "aesthetic", pl.col("aesthetic") < pl.lit(filters.min_aesthetic, pl.Float32)
    if filters.max_punsafe is not None:
        yield "punsafe", pl.col("punsafe") > pl.lit(filters.max_punsafe, pl.Float32)
    if filters.max_pwatermark is not None:
        yield "pwatermark", pl.col("pwatermark") > pl.lit(filters.max_pwatermark, pl.Float32)
    if filters.min_width is not None:
        yield "width", pl.col("width") < filters.min_width
    if filters.min_height is not None:
        yield "height", pl.col("height") < filters.min_height
    for reason, column, listed in (
        ("removed_url", "url", removals.urls),
        ("removed_hash", "source_hash", removals.hashes),
        ("removed_id", "id", removals.ids),
    ):
        if len(listed):
            yield reason, pl.col(column).is_in(listed.implode()).fill_null(False)


def _entries(file: Path, path: str) -> Iterator[tuple[str, list[str]]]:
    if file.name.lower().endswith((".parquet", ".csv")):
        frame = (
            pl.read_parquet(file) if file.name.lower().endswith(".parquet") else pl.read_csv(file, infer_schema=False)
        )
        known = {name.lower(): name for name in frame.columns if name.lower() in ("url", "domain", "hash", "id")}
        if not known:
            raise SourceError(
                f"The removal list {path} has the columns {', '.join(frame.columns)}: "
                "name those that count `url`, `domain`, `hash` or `id`."
            )
        for kind, name in known.items():
            yield kind, frame[name].cast(pl.String).drop_nulls().str.strip_chars().to_list()
        return
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        line = text.strip()
        if line and not line.startswith("#"):
            yield _kind(line, path, number)


def _kind(line: str, path: str, number: int) -> tuple[str, list[str]]:
    if "://" in line:
        return "url", [line]
    if _ID.fullmatch(line.lower()):
        return "id", [line]
    if _HASH.fullmatch(line):
        return "hash", [line]
    if match := _DOMAIN.fullmatch(line):
        return "domain", [match[1]]
    raise SourceError(
        f"{path}, line {number}: {line[:80]!r} is no URL, domain, LAION hash (an integer) or row id (32 hexadecimal "
        "digits). Start a comment with #."
    )


def _is_listed(host: str, domains: frozenset[str]) -> bool:
    """Whether the host or a domain above it is listed."""
    parts = host.split(".")
    return any(".".join(parts[start:]) in domains for start in range(len(parts)))
