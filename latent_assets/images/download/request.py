"""What is asked of the network for a row, and what came of it.

What is made of a result is decided in `store.recorder`. Both are pickled on their way to another process: nothing here
needs the network or the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latent_assets.images.outcome import FetchError


@dataclass(frozen=True)
class FetchRequest:
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
class FetchResult:
    """A row that is through with the network: the chunks of the body that came, or the error there was.

    `attempts` are those of all calls; `evidence` is that of an opt-out in spite of which the image is kept.
    """

    request: FetchRequest
    content: Sequence[bytes | memoryview] | FetchError
    attempts: int
    status: int | None = None
    redirects: int = 0
    evidence: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return 0 if isinstance(self.content, FetchError) else sum(map(len, self.content))

    def with_body(self, chunks: Sequence[bytes | memoryview]) -> FetchResult:
        """The same with other chunks of the body (`dataclasses.replace` takes several times as long)."""
        return FetchResult(self.request, chunks, self.attempts, self.status, self.redirects, self.evidence)
