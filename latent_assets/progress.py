"""Progress reports: rooms say how far they are; whoever runs them decides where it is shown.

Nothing here prints. The command line shows bars, a Dagster run writes log lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage; `total` is None while it is not known. `lasting`: the note is to be kept."""

    stage: str
    done: int
    total: int | None
    unit: str = "rows"
    note: str = ""
    lasting: bool = False


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("latent_assets_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress reported inside the block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Listener | None:
    """Whoever receives progress here, or None."""
    return _listener.get()


def report(stage: str, done: int, total: int | None, unit: str = "rows", note: str = "") -> None:
    """Say that `done` of `total` units of `stage` are finished. Costs nothing when nobody listens."""
    if listener := _listener.get():
        listener(Progress(stage, done, total, unit, note))


def tell(stage: str, note: str) -> None:
    """Say something about a stage that whoever looks later should find, too."""
    if listener := _listener.get():
        listener(Progress(stage, 0, None, "", note, lasting=True))
