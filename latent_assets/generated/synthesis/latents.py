"""The whole latents of a release's rows: read from the shards' files, and only when they are what the table holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from latent_assets import spaces
from latent_assets.embeddings.store import read_column, read_id_array
from latent_assets.errors import NotBuiltError
from latent_assets.layout import EMBEDDINGS, embedding_name, latents_name
from latent_assets.models.vae import VaeEncoder

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.generated.placement.placing import ImagePlacer
    from latent_assets.storage import Storage


def latent_embedding(placer: ImagePlacer) -> tuple[str, VaeEncoder]:
    """The embedding of a release whose latents can be decoded, and its encoder. Raises NotBuiltError without one."""
    for name, encoder in placer.encoders.items():
        if isinstance(encoder, VaeEncoder):
            return name, encoder
    raise NotBuiltError(
        f"The maps of {placer.info.profile} are made from no VAE's latents: there is nothing to decode."
    )


class StoredLatents:
    """Latents of rows, by id. Files of shards are found by the rows' shard, and checked against the table."""

    def __init__(self, storage: Storage, table: LanceTable, placer: ImagePlacer) -> None:
        self._storage, self._table, self._placer = storage, table, placer
        self._name, self._encoder = latent_embedding(placer)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Latents of the rows `ids`, float32 [n, C, h, w], in that order.

        Raises NotBuiltError for an unknown id, or where the latents of a row are not kept any more.
        """
        listed = ", ".join(f"'{row_id}'" for row_id in sorted(set(ids)))
        found = self._table.search().where(f"id IN ({listed})").select(["id", "shard", self._name]).limit(len(ids))
        rows = {row["id"]: row for row in found.to_list()}
        for row_id in ids:
            if row_id not in rows:
                raise NotBuiltError(f"The atlas {self._placer.info.profile} has no row {row_id} in this release.")
        return np.stack([self._of_row(row_id, rows[row_id]["shard"], rows[row_id][self._name]) for row_id in ids])

    def _of_row(self, row_id: str, shard: str, vector: Sequence[float]) -> np.ndarray:
        column, feature = spaces.embeddings()[self._name].whole, self._placer.model.features[self._name]
        for folder in self._storage.folders(EMBEDDINGS):
            name = embedding_name(folder, shard)
            if column is None or not self._storage.exists(latents_name(name)):
                continue
            at = pc.index(read_id_array(self._storage, name), row_id).as_py()
            # of several models' files, those of the release: the table has the very same feature
            if at >= 0 and _equal(read_column(self._storage, name, feature, np.array([at]))[0], vector):
                latents = read_column(self._storage, latents_name(name), column, np.array([at]))
                return latents.astype(np.float32).reshape(self._encoder.latent_shape)
        raise NotBuiltError(
            f"The latents that row {row_id} was made from are not kept below {EMBEDDINGS}/ any more: "
            "`latent-assets build` makes them again."
        )


def _equal(stored: np.ndarray, vector: Sequence[float]) -> bool:
    return np.array_equal(stored.astype(np.float32), np.asarray(vector, np.float32))
