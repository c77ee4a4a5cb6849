"""What stands behind the neighbours of an image: what is commoner, or rarer, among them than in the whole atlas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from latent_assets.generated.placement.placed import Share

if TYPE_CHECKING:
    from lancedb.table import LanceTable

_Z = 1.96  # two-sided 95 %
_LEAST = 2  # a value that stands behind one neighbour alone says nothing
_COLUMNS = ("category", "url", "source_url", "aesthetic", "licence", "attribution")


def background_columns(table: LanceTable) -> list[str]:
    """The columns of a release that say what stands behind its images, those that it has."""
    return [name for name in _COLUMNS if name in table.schema.names]


class Background:
    """Shares of categories, domains, licences, attributions and quarters by aesthetic score in a whole release."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """`rows`: every row of the release with the columns of `background_columns`."""
        listed = list(rows)
        scores = np.array([score for row in listed if (score := row.get("aesthetic")) is not None], np.float64)
        self._cuts = np.unique(np.quantile(scores, [0.25, 0.5, 0.75])) if len(scores) else np.zeros(0)
        self._rows = len(listed)
        self._counts = Counter(self._values(listed))

    @classmethod
    def of(cls, table: LanceTable) -> Background:
        """Count a release: one pass over what is said of its images."""
        scan = table.search().select(background_columns(table)).limit(None)
        return cls(row for batch in scan.to_batches() for row in batch.to_pylist())

    def behind(self, neighbours: Sequence[Mapping[str, Any]]) -> tuple[Share, ...]:
        """What stands behind at least two of `neighbours` (rows with the columns of `background_columns`), with its
        lift; what is most surely commoner than in the atlas comes first."""
        of = len(neighbours)
        found = []
        for (field, value), count in Counter(self._values(neighbours)).items():
            usual = self._counts[field, value] / self._rows if self._rows else 0.0
            if count < _LEAST or not usual:
                continue
            low, high = wilson(count, of)
            found.append(Share(field, value, count, of, count / of / usual, low / usual, high / usual))
        return tuple(sorted(found, key=lambda share: (-share.low, share.field, share.value)))

    def _values(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
        for row in rows:
            for field in ("category", "licence", "attribution"):
                if value := row.get(field):
                    yield field, str(value)
            if host := domain(row.get("url"), row.get("source_url")):
                yield "domain", host
            if (score := row.get("aesthetic")) is not None and len(self._cuts):
                yield "aesthetic", self._quarter(float(score))

    def _quarter(self, score: float) -> str:
        """The quarter of the atlas that a score lies in; fewer where many rows have one score."""
        at = int(np.searchsorted(self._cuts, score, side="right"))
        if at == 0:
            return f"below {self._cuts[0]:.2f}"
        if at == len(self._cuts):
            return f"{self._cuts[-1]:.2f} and above"
        return f"{self._cuts[at - 1]:.2f} to {self._cuts[at]:.2f}"


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` out of `of`."""
    share, spread = count / of, _Z * _Z / of
    middle = share + spread / 2
    margin = _Z * sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - margin) / (1 + spread), (middle + margin) / (1 + spread)


def domain(url: str | None, source_url: str | None) -> str | None:
    """The host of the page an image stands on, else of its address, without `www.`; None for a path."""
    for address in (source_url, url):
        try:
            host = urlsplit(address or "").hostname
        except ValueError:
            continue
        if host:
            return host.removeprefix("www.")
    return None
