"""Where commands print: results to standard output, what happens meanwhile to standard error.

Texts come from strangers (captions, links, names of files): they are printed as they are, neither as markup nor as
names of emoji, and nothing in them that a terminal would act on gets there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# C0 and C1 control characters, DEL, marks that reverse the direction of what follows, separators of lines, halves of
# pairs that no encoding knows
_CONTROLS = frozenset(
    [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
)
_HALVES = frozenset(range(0xD800, 0xE000))
_SHOWN: dict[int, str | None] = dict.fromkeys(_CONTROLS - {0x0A}) | dict.fromkeys(_HALVES, "\ufffd")
_SHOWN |= {0x09: " ", 0x0D: " ", 0x2028: " ", 0x2029: " "}
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS | _HALVES if code >= 0x20}


def shown(text: str) -> str:
    """A text as a terminal may have it; line ends stay."""
    return text.translate(_SHOWN)


def escaped(text: str) -> str:
    """JSON or TOML that says the same without any character that a terminal would act on."""
    return text.translate(_ESCAPED)


class _Console(Console):
    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every text goes through here; what rich itself says to the terminal is marked as control."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


out, err = _Console(), _Console(stderr=True)


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know is printed as text."""
    sys.stdout.write(escaped(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")
