"""A row on its way: wanted, then arrived with bytes or a problem. What is made of it is decided by the `clerk`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latent_assets.images.outcome import FetchError


@dataclass(frozen=True)
class Wanted:
    """A row without an outcome. `origin`, `row_hash` and `recipe` go into the ledger (see LedgerRow).

    `attempts` are those of earlier calls.
    """

    id: str
    url: str
    path: str | None
    origin: str
    row_hash: str
    recipe: str
    attempts: int = 0


@dataclass(frozen=True)
class Arrival:
    """A row that is through: the pieces of the body that came or the problem there was, and about the answer.

    `attempts` are those of all calls; `evidence` is that of an opt-out in spite of which the image is kept.
    """

    row: Wanted
    result: Sequence[bytes | memoryview] | FetchError
    attempts: int
    status: int | None = None
    redirects: int = 0
    evidence: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if isinstance(self.result, FetchError) else sum(map(len, self.result))

    def with_body(self, pieces: Sequence[bytes | memoryview]) -> Arrival:
        """The same with other pieces of the body (`dataclasses.replace` takes several times as long)."""
        return Arrival(self.row, pieces, self.attempts, self.status, self.redirects, self.evidence)
