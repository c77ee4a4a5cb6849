"""The inputs of each space: which column stands for each embedding, how scaled, compared by which metric.

A recipe is fixed once, on the fitted rows, and applied unchanged to every later row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latent_assets import spaces
from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.profile import Profile
from latent_assets.projection.neighbors import unit
from latent_assets.projection.quality import neighbor_recall
from latent_assets.projection.rows import Sample, draw, read_shard_rows
from latent_assets.spaces import Embedding, Metric, Space
from latent_assets.storage import Storage

_PROBE_ROWS = 2_000


@dataclass(frozen=True)
class FeatureChoice:
    """Which column stands for an embedding on maps and in the table, and the figures that decided it.

    recall: for each candidate, the share of the 15 nearest neighbours by the whole embedding (L2) that it keeps, over
    `probe_rows` rows; {} when there was nothing to choose from.
    """

    chosen: str
    recall: dict[str, float] = field(default_factory=dict)
    probe_rows: int = 0


@dataclass(frozen=True)
class Block:
    """The share of one embedding in a space: its feature, brought to unit length when `unit`, times `scale`."""

    embedding: str
    unit: bool
    scale: float


@dataclass(frozen=True)
class SpaceRecipe:
    """How the features of one space are made from the features of its embeddings, block after block."""

    space: str
    metric: Metric
    blocks: tuple[Block, ...]

    def features(self, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features float32 [n, d] from the feature float [n, k] of each embedding of the space."""
        made = []
        for block in self.blocks:
            if block.embedding not in vectors:
                raise ValueError(f"space {self.space} needs the feature of the embedding {block.embedding}")
            values = vectors[block.embedding]
            made.append((unit(values) if block.unit else np.asarray(values, np.float32)) * np.float32(block.scale))
        return made[0] if len(made) == 1 else np.hstack(made)


def choose_features(profile: Profile, storage: Storage, shards: Sequence[ShardEmbeddings]) -> dict[str, FeatureChoice]:
    """The column that stands for each embedding of the shards' files, compared on at most 2,000 rows of them.

    Raises DataError when an id is there twice or a compared value is not finite.
    """
    embeddings = embedded(profile, shards)
    if all(len(row.features) == 1 for row in embeddings):
        return {row.name: FeatureChoice(row.features[0]) for row in embeddings}
    probe = draw([read_shard_rows(storage, shard) for shard in shards], _PROBE_ROWS, seed=0)
    return {row.name: choose_feature(row, storage, probe) for row in embeddings}


def embedded(profile: Profile, shards: Sequence[ShardEmbeddings]) -> tuple[Embedding, ...]:
    """The embeddings of the profile that every one of `shards` has a file of."""
    return tuple(row for row in profile.embeddings if all(row.name in shard.files for shard in shards))


def choose_feature(embedding: Embedding, storage: Storage, probe: Sample) -> FeatureChoice:
    """The column of `embedding` that keeps the neighbours of its `whole` best over the rows of `probe`."""
    if len(embedding.features) == 1 or embedding.whole is None or not probe.ids:
        return FeatureChoice(embedding.features[0])
    whole = probe.read(storage, embedding.name, embedding.whole)
    return best_feature(whole, {name: probe.read(storage, embedding.name, name) for name in embedding.features})


def best_feature(whole: np.ndarray, candidates: Mapping[str, np.ndarray]) -> FeatureChoice:
    """Take the candidate [n, k] that keeps the neighbours of `whole` [n, D] best; the first one on a tie."""
    recall = {name: neighbor_recall(whole, values) for name, values in candidates.items()}
    return FeatureChoice(max(candidates, key=lambda name: recall[name]), recall, len(whole))


def make_recipes(
    chosen: Sequence[Space], vectors: Mapping[str, np.ndarray], first_weight: float
) -> tuple[SpaceRecipe, ...]:
    """Recipes of the spaces `chosen`, scaled on the fitted rows `vectors` (feature float [n, k] of each embedding).

    A space of one embedding takes it as it is. Of several, each block is divided by its typical distance, then
    weighted so that it has its share of the mean squared distance (`Space.weights`; without, `first_weight` for the
    first of two, otherwise equal shares). Raises ValueError when an embedding of a space is missing.
    """
    return tuple(_recipe(space, vectors, first_weight) for space in chosen)


def _recipe(space: Space, vectors: Mapping[str, np.ndarray], first_weight: float) -> SpaceRecipe:
    rows = spaces.embeddings()
    if missing := [name for name in space.embeddings if name not in vectors]:
        raise ValueError(f"the space `{space.name}` needs the feature of the embedding `{missing[0]}`")
    if len(space.embeddings) == 1:
        (name,) = space.embeddings
        return SpaceRecipe(space.name, space.metric, (Block(name, rows[name].unit, 1.0),))
    blocks = []
    for name, weight in zip(space.embeddings, _weights(space, first_weight), strict=True):
        values = unit(vectors[name]) if rows[name].unit else vectors[name]
        blocks.append(Block(name, rows[name].unit, float(np.sqrt(weight / typical_square(values)))))
    return SpaceRecipe(space.name, space.metric, tuple(blocks))


def _weights(space: Space, first_weight: float) -> tuple[float, ...]:
    if space.weights is not None:
        return space.weights
    count = len(space.embeddings)
    return (first_weight, 1.0 - first_weight) if count == 2 else (1.0 / count,) * count


def typical_square(block: np.ndarray) -> float:
    """Mean squared distance between two rows of `block` [n, d], drawn at random: twice the total variance.

    1 when all rows are equal, so that the block can still be divided by it.
    """
    square = 2.0 * float(np.var(block, axis=0, dtype=np.float64).sum()) if len(block) else 0.0
    return square if square > 1e-12 else 1.0
