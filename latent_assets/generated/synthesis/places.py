"""What a place of a map stands for: the images around it, and the picture that the mean of their latents decodes to.

A map cannot be inverted: many pictures would fall on one place, most places are nobody's. The mean of what is around
is one answer, and says so: it comes with the images it is the mean of, with their distances, and with the place where
it falls itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from latent_assets.atlas.resident import matrix
from latent_assets.atlas.schema import PLACE
from latent_assets.errors import NotBuiltError

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.generated.synthesis.walks import Frame, Synthesizer

AROUND = 8  # images whose latents are averaged


@dataclass(frozen=True)
class Here:
    """A synthesis at a place of the map `space`.

    ids, distances: the images that it is the mean of, nearest first, and how far they are on the map (map units).
    frame: the picture, where it falls itself, and what is near to that.
    """

    space: str
    position: tuple[float, float, float]
    ids: tuple[str, ...]
    distances: tuple[float, ...]
    frame: Frame


@dataclass(eq=False)
class Places:
    """Where the rows of a release are. Each space is read once: 12 bytes a row, and 32 of its id."""

    table: LanceTable
    _known: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def nearest(self, space: str, position: Sequence[float], count: int) -> tuple[list[str], np.ndarray]:
        """The `count` rows nearest to a place of a map: ids, and distances float64 [n] in map units, nearest first.

        Equal distances are in the order of the ids. Raises NotBuiltError for an unknown space, or without rows.
        """
        ids, places = self._read(space)
        if not len(ids):
            raise NotBuiltError("This atlas has no rows: there is nothing around a place.")
        distances = np.linalg.norm(places - np.asarray(position, np.float32), axis=1).astype(np.float64)
        count = min(count, len(ids))
        near = np.argpartition(distances, count - 1)[:count]
        order = near[np.lexsort((ids[near], distances[near]))]
        return [row_id.decode() for row_id in ids[order].tolist()], distances[order]

    def _read(self, space: str) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if space not in self._known:
                column = f"{PLACE}{space}"
                if column not in self.table.schema.names:
                    raise NotBuiltError(f"This release has no map of `{space[:80]}`.")
                found = self.table.search().select(["id", column]).limit(None).to_arrow()
                self._known[space] = (np.array(found["id"].to_pylist(), "S32"), matrix(found[column]))
            return self._known[space]


def what_is_here(synthesizer: Synthesizer, places: Places, space: str, position: Sequence[float]) -> Here:
    """Decode the mean latent of the images around a place.

    Raises NotBuiltError for an unknown space, or where latents are not kept or nothing decodes them.
    """
    ids, distances = places.nearest(space, position, AROUND)
    (image,) = synthesizer.decoder.decode(synthesizer.stored.of(ids).mean(axis=0)[None])
    x, y, z = (float(value) for value in position)
    return Here(space, (x, y, z), tuple(ids), tuple(distances.tolist()), synthesizer.frame(0.0, image))
