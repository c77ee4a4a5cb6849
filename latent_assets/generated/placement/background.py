"""What stands behind the neighbours of an image: categories and sites commoner among them than in the whole atlas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from lancedb.table import LanceTable

_Z = 1.96  # two-sided 95 %
_LEAST = 2  # a value that stands behind one neighbour alone says nothing


@dataclass(frozen=True)
class Share:
    """A value among the neighbours. lift: its share there over its share in the atlas; lower, upper: its 95 % interval.

    The interval is Wilson's of the share among the neighbours; that of the whole atlas is exact.
    """

    kind: str
    value: str
    count: int
    of: int
    lift: float
    lower: float
    upper: float


class Background:
    """Shares of categories and sites in a whole release."""

    def __init__(self, counts: Mapping[str, Counter[str]], rows: int) -> None:
        self._counts, self._rows = counts, rows

    @classmethod
    def of(cls, table: LanceTable) -> Background:
        """Count a release: one pass over its categories and addresses."""
        counts: dict[str, Counter[str]] = {"category": Counter(), "site": Counter()}
        rows = 0
        scan = table.search().select(["category", "url", "source_url"]).limit(None)
        for batch in scan.to_batches():
            rows += batch.num_rows
            for kind, value in _values(batch.to_pylist()):
                counts[kind][value] += 1
        return cls(counts, rows)

    def behind(self, neighbors: Sequence[Mapping[str, str | None]]) -> tuple[Share, ...]:
        """What is commoner among `neighbors` (with `category`, `url`, `source_url`) than in the atlas, by lift.

        Only what is surely commoner: the lower end of the interval is above 1.
        """
        of = len(neighbors)
        found = []
        for (kind, value), count in Counter(_values(neighbors)).items():
            usual = self._counts[kind][value] / self._rows if self._rows else 0.0
            if count < _LEAST or not usual:
                continue
            low, high = wilson(count, of)
            if low / usual > 1.0:
                found.append(Share(kind, value, count, of, count / of / usual, low / usual, high / usual))
        return tuple(sorted(found, key=lambda share: (-share.lift, share.kind, share.value)))


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` out of `of`."""
    share, spread = count / of, _Z * _Z / of
    middle = share + spread / 2
    margin = _Z * sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - margin) / (1 + spread), (middle + margin) / (1 + spread)


def site(url: str | None, source_url: str | None) -> str | None:
    """The host of the page an image stands on, else of its address; None for a path."""
    for address in (source_url, url):
        try:
            host = urlsplit(address or "").hostname
        except ValueError:
            continue
        if host:
            return host.removeprefix("www.")
    return None


def _values(rows: Iterable[Mapping[str, str | None]]) -> Iterable[tuple[str, str]]:
    for row in rows:
        if category := row["category"]:
            yield "category", category
        if host := site(row["url"], row["source_url"]):
            yield "site", host
