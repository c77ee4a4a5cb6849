"""What a list or its sidecars hold that the catalog has no column for: named once, with how often it was there.

Readers say it where they notice it; whoever builds the catalog collects it. Nobody has to listen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LISTED = 20
_LONGEST = 60


class Notes:
    """Names that were not used, by what has them, and how often they were met."""

    def __init__(self) -> None:
        self._unused: dict[str, Counter[str]] = {}

    def unused(self, where: str, names: Iterable[str]) -> None:
        """`names` were found in one of `where` ("sidecars", "columns of metadata.csv") and are not used."""
        found = self._unused.setdefault(where, Counter())
        for name in names:
            short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
            # keys can be data (an id as key): what is counted stays small
            if short in found or len(found) < 10_000:
                found[short] += 1

    def sentences(self) -> tuple[str, ...]:
        """One sentence for each `where`, the most frequent names first."""
        return tuple(_sentence(where, found) for where, found in self._unused.items() if found)


def _sentence(where: str, found: Counter[str]) -> str:
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(name if count == 1 else f"{name} ({count:,})" for name, count in ordered[:_LISTED])
    more = f" and {len(ordered) - _LISTED:,} more" if len(ordered) > _LISTED else ""
    return f"not used of the {where}: {listed}{more}; `source.columns` can name what they are"


_collected: ContextVar[Notes | None] = ContextVar("latent_assets_notes", default=None)


@contextmanager
def collecting() -> Iterator[Notes]:
    """Collect what is noted inside the block."""
    notes = Notes()
    token = _collected.set(notes)
    try:
        yield notes
    finally:
        _collected.reset(token)


def note_unused(where: str, names: Iterable[str]) -> None:
    """Say what was found and is not used. Costs nothing when nobody collects."""
    if notes := _collected.get():
        notes.unused(where, names)
