"""Which rows of the source become the catalog, and how many were dropped by which rule.

A row is dropped by the first rule that hits it. Duplicates and samples need all rows and are dealt with in `build`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from latent_assets.catalog.hashing import id_heads, mixed, row_ids
from latent_assets.catalog.links import hosts, removal_keys, requested
from latent_assets.catalog.removals import Removals, is_listed

if TYPE_CHECKING:
    from latent_assets.profile import Filters

DUPLICATE = "duplicate_url"
NOT_SAMPLED = "not_sampled"
NO_CAPTION = "no_caption"

_KEY = "key"  # of `removal_keys`
_WRITTEN_ID = "written_id"  # the id of a link as it is written


@dataclass
class Funnel:
    """Rows read and rows dropped by each rule, in the order of the rules."""

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def begin_with(self, dropped: Mapping[str, int]) -> None:
        """Count what was read and dropped before the rules: it comes first."""
        self.rows += sum(dropped.values())
        self.dropped = {**dropped, **self.dropped}

    def steps(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.dropped.items())


class RowFilter:
    """The rules of a profile that look at one row at a time, with their funnel."""

    def __init__(self, filters: Filters, removals: Removals) -> None:
        self._rules = list(_rules(filters, removals))
        self._captions_needed = filters.require_caption
        self._removals = removals
        self.funnel = Funnel(0, {reason: 0 for reason, _ in self._rules})
        if removals.domains:
            self.funnel.dropped["removed_domain"] = 0

    def apply(self, frame: pl.DataFrame, captioned: bool = True) -> pl.DataFrame:
        """The rows of `frame` (columns of the catalog, with `id`) that no rule drops; counts the others.

        Rows that are not `captioned` come from a list without captions: they need none unless the profile says so.
        """
        self.funnel.rows += frame.height
        kept = frame
        if self._rules:
            spared = None if captioned or self._captions_needed else NO_CAPTION
            hit = pl.coalesce(
                pl.when(rule.fill_null(True)).then(pl.lit(number, pl.UInt8))
                for number, (reason, rule) in enumerate(self._rules)
                if reason != spared
            )
            hits = self._with_keys(frame).select(hit.alias("hit"))["hit"]
            counts = np.bincount(hits.drop_nulls().to_numpy(), minlength=len(self._rules))
            for (reason, _), count in zip(self._rules, counts, strict=True):
                self.funnel.drop(reason, int(count))
            kept = frame.filter(hits.is_null())
        return self._drop_domains(kept) if self._removals.domains else kept

    def _with_keys(self, frame: pl.DataFrame) -> pl.DataFrame:
        """With the columns that only removal lists look at, where there are such lists."""
        if len(self._removals.urls):
            frame = frame.with_columns(removal_keys(requested(frame["url"])).alias(_KEY))
        if len(self._removals.ids):
            frame = frame.with_columns(row_ids(frame["url"]).alias(_WRITTEN_ID))
        return frame

    def _drop_domains(self, frame: pl.DataFrame) -> pl.DataFrame:
        found = hosts(requested(frame["url"]))
        listed = [host for host in found.unique().drop_nulls() if is_listed(host, self._removals.domains)]
        kept = frame.filter(~found.is_in(listed).fill_null(False))
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


def sample_ranks(ids: pl.Series, seed: int) -> np.ndarray:
    """A pseudo-random uint64 per row id, the same for the same seed: a sample is the rows with the lowest."""
    return mixed(id_heads(ids).to_numpy() + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64))


def _rules(filters: Filters, removals: Removals) -> Iterator[tuple[str, pl.Expr]]:
    """(reason, expression that is true or null for a row to drop), in the order of the funnel."""
    yield "no_url", pl.col("url").str.len_bytes() == 0
    if filters.require_caption is not False:
        yield NO_CAPTION, pl.col("caption").str.strip_chars().str.len_bytes() == 0
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
    for reason, columns, listed in (
        ("removed_url", (_KEY,), removals.urls),
        ("removed_hash", ("source_hash",), removals.hashes),
        # lists may hold ids of older releases, which were those of links as they are written
        ("removed_id", ("id", _WRITTEN_ID), removals.ids),
    ):
        if len(listed):
            yield reason, pl.any_horizontal(pl.col(columns).is_in(listed.implode()).fill_null(False))
