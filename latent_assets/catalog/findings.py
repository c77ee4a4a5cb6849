"""What is met in a source besides its rows: lines that are none, values that are of another type, files left out.

Whoever reads a source adds to it; `build` puts it into the funnel and the report, so that nothing is lost unsaid.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from latent_assets.catalog.names import whole
from latent_assets.errors import SourceError

BAD_ROW = "bad_row"
NOT_AN_IMAGE = "not_an_image"
_EXTENSIONS = 20  # that are named; the others are counted together
_LONGEST_EXTENSION = 12
_NAMES, _LONGEST_NAME = 20, 60  # that are listed
_ROW_NUMBERS = re.compile(r"(__index_level_\d+__|Unnamed: \d+)?")  # as pandas leaves them behind
_MOST_NAMES = 10_000  # that are counted: keys can be data


@dataclass
class Findings:
    """`dropped`: what was read and is no row, by reason. `noted`: (times, first example) by sentence.

    `unreadable`: directories (names below the source, "" for itself) whose content is not known now.
    """

    skip_bad_rows: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    noted: dict[str, tuple[int, str]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    _others: Counter[str] = field(default_factory=Counter)
    _unused: dict[str, Counter[str]] = field(default_factory=dict)

    def bad_row(self, problem: str) -> None:
        """A line that is no row; `problem` names it. Raises SourceError unless `source.skip_bad_rows` is set."""
        self._refuse(problem)
        self.dropped[BAD_ROW] += 1
        self.note("rows could not be read and were left out", 1, problem)

    def bad_sidecar(self, problem: str) -> None:
        """A sidecar that cannot be read: its image stays. Raises SourceError unless `source.skip_bad_rows` is set."""
        self._refuse(problem)
        self.note("sidecars could not be read and were left out", 1, problem)

    def _refuse(self, problem: str) -> None:
        if not self.skip_bad_rows:
            raise SourceError(
                f"{whole(problem)}: correct it, or have what cannot be read left out and counted, with "
                "`skip_bad_rows = true` in [source]."
            )

    def note(self, what: str, times: int, example: str = "") -> None:
        """`what` happened so many times more, the first time at `example`."""
        if times:
            before, first = self.noted.get(what, (0, whole(example)))
            self.noted[what] = (before + times, first)

    def unused(self, where: str, names: Iterable[str]) -> None:
        """`names` of one of `where` ("columns", "sidecars") that nothing is read from: each is named once."""
        found = self._unused.setdefault(where, Counter())
        for name in map(whole, names):
            if _ROW_NUMBERS.fullmatch(name):
                continue
            short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
            if short in found or len(found) < _MOST_NAMES:
                found[short] += 1

    def not_an_image(self, name: str) -> None:
        """A file, or member of a tar, that is neither an image nor belongs to one: counted by its extension."""
        extension = PurePosixPath(whole(name)).suffix.lower()
        self._others[extension if len(extension) <= _LONGEST_EXTENSION else ""] += 1

    def steps(self) -> dict[str, int]:
        """`dropped`, with what is no image by extension, as the funnel has it."""
        named = dict(self._others.most_common(_EXTENSIONS))
        rest = self._others.total() - sum(named.values())
        extensions = {f"{NOT_AN_IMAGE} ({extension or 'no extension'})": n for extension, n in sorted(named.items())}
        return dict(self.dropped) | extensions | ({f"{NOT_AN_IMAGE} (others)": rest} if rest else {})

    def notes(self) -> tuple[str, ...]:
        """What there is to say, a sentence each."""
        return tuple(
            f"{times:,} {what}{f' (the first: {example})' if example else ''}"
            for what, (times, example) in self.noted.items()
        ) + tuple(_unused(where, found) for where, found in self._unused.items() if found)


def _unused(where: str, found: Counter[str]) -> str:
    """One sentence, the most frequent names first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(name if count == 1 else f"{name} ({count:,})" for name, count in ordered[:_NAMES])
    more = f" and {len(ordered) - _NAMES:,} more" if len(ordered) > _NAMES else ""
    return f"not used of the {where}: {listed}{more}; `source.columns` can name what they are"
