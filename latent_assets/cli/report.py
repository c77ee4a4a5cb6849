"""How a build's report is printed: a few labelled lines, each wrapped whole at the terminal's width."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from latent_assets.models.fit import notice

if TYPE_CHECKING:
    from latent_assets.pipeline.report import Report

_LABEL = 10
_FEWEST, _MOST = 40, 160  # columns of text


def print_report(console: Console, report: Report) -> None:
    """What became of the rows, where the account of each lies, what the atlas was made with, where the map is."""
    for label, text in _lines(report):
        print_labelled(console, label, text)


def print_labelled(console: Console, label: str, text: str, width: int = _LABEL) -> None:
    """A label and its text, wrapped beside it; words that are longer than a line (paths) stay whole."""
    columns = min(max(console.width - width, _FEWEST), _MOST)
    wrapped = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(wrapped):
        console.print(f"{label if number == 0 else '':<{width}}{line}", highlight=False, markup=False)


def counted(rows: int, what: str = "row") -> str:
    """`1 row`, `2,000 rows`."""
    return f"{rows:,} {what}{'' if rows == 1 else 's'}"


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    if report.rows_read or report.in_catalog:
        yield "Rows", _rows(report)
    if report.dropped:
        yield "Dropped", f"{counted(sum(report.dropped.values()))} by the catalog: {_counts(report.dropped)}"
    if report.lost:
        yield "Lost", f"{counted(sum(report.lost.values()))}: {_counts(report.lost)}"
    for limit in report.limits:
        yield "Limit", f"{counted(limit.rows)} refused by {limit.key} = {_value(limit.value)}"
    if report.copies:
        has = "has" if report.copies == 1 else "have"
        yield "Copies", f"{counted(report.copies, 'image')} of the atlas {has} the bytes (SHA-256) of another one"
    for note in report.notes:
        yield "Note", note
    if report.ledger:
        yield "Ledger", f"{report.ledger}: what became of every row, with its reason and evidence"
    for model in report.models:
        trained = (
            f"trained on {model.trained_on}" if model.trained_on else "its card does not say what it was trained on"
        )
        yield "Model", f"{model.embedding}: {model.name}, {trained}"
    if said := notice({model.embedding: model.unfit for model in report.models if model.unfit}):
        yield "Unfit", said
    if report.map:
        yield "Map", report.map


def _rows(report: Report) -> str:
    text = f"{counted(report.rows_read)} read, {report.in_catalog:,} in the catalog, {counted(report.images, 'image')}"
    if report.unfetched:
        text += f", {report.unfetched:,} not fetched yet"
    if report.in_atlas is None:
        return f"{text}; there is no atlas yet"
    of = "" if report.release_current else ", which is older than this list or these settings"
    return f"{text}, {report.in_atlas:,} in the atlas{of}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {rows:,}" for reason, rows in counts.items())


def _value(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value) if not isinstance(value, Path) else str(value)
