"""The inputs of each space: which columns of the embedding files, how scaled, compared by which metric.

A recipe is fixed once, on the fitted rows, and applied unchanged to every later row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latent_assets.profile import SpaceName
from latent_assets.projection.neighbors import Metric, unit
from latent_assets.projection.quality import neighbor_recall

VaeFeature = Literal["pooled", "random"]
VAE_FEATURES: tuple[VaeFeature, ...] = ("pooled", "random")


@dataclass(frozen=True)
class FeatureChoice:
    """Which map feature stands for the VAE latents, and the figures that decided it.

    recall: for each candidate, the share of the 15 nearest neighbours by full latents (L2) that it keeps, over
    `probe_rows` rows.
    """

    chosen: VaeFeature
    recall: dict[str, float]
    probe_rows: int


@dataclass(frozen=True)
class SpaceRecipe:
    """How the features of one space are made from the clip vector and the vae feature of a row.

    A block with scale None is not part of the space. `clip` vectors are brought to unit length first.
    """

    space: SpaceName
    metric: Metric
    clip_scale: float | None
    vae_scale: float | None

    def features(self, clip: np.ndarray | None, vae: np.ndarray | None) -> np.ndarray:
        """Features float32 [n, d] from `clip` float [n, dc] and `vae` float [n, dv] (None if not in the space)."""
        blocks = []
        if self.clip_scale is not None and clip is not None:
            blocks.append(unit(clip) * np.float32(self.clip_scale))
        if self.vae_scale is not None and vae is not None:
            blocks.append(np.asarray(vae, np.float32) * np.float32(self.vae_scale))
        if len(blocks) != (self.clip_scale is not None) + (self.vae_scale is not None):
            raise ValueError(f"space {self.space} needs the clip vector and the vae feature its recipe names")
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)


def choose_vae_feature(latents: np.ndarray, candidates: dict[VaeFeature, np.ndarray]) -> FeatureChoice:
    """Take the candidate [n, k] that keeps the neighbours of `latents` [n, D] best; the first one on a tie."""
    recall: dict[str, float] = {name: neighbor_recall(latents, values) for name, values in candidates.items()}
    chosen = max(candidates, key=lambda name: recall[name])
    return FeatureChoice(chosen, recall, len(latents))


def make_recipes(
    spaces: Sequence[SpaceName], clip: np.ndarray | None, vae: np.ndarray | None, clip_weight: float
) -> tuple[SpaceRecipe, ...]:
    """Recipes of `spaces` with the scaling of `joint` taken from the fitted rows `clip` [n, dc], `vae` [n, dv].

    In `joint` each block is divided by its typical distance, then weighted so that `clip_weight` is the clip
    vector's share of the mean squared distance and 1 - `clip_weight` the vae feature's.
    """
    recipes = []
    for space in spaces:
        if space == "clip":
            recipes.append(SpaceRecipe("clip", "cosine", 1.0, None))
        elif space == "vae":
            recipes.append(SpaceRecipe("vae", "euclidean", None, 1.0))
        else:
            if clip is None or vae is None:
                raise ValueError("the space `joint` needs both the clip vector and the vae feature")
            clip_scale = float(np.sqrt(clip_weight / typical_square(unit(clip))))
            vae_scale = float(np.sqrt((1.0 - clip_weight) / typical_square(vae)))
            recipes.append(SpaceRecipe("joint", "euclidean", clip_scale, vae_scale))
    return tuple(recipes)


def typical_square(block: np.ndarray) -> float:
    """Mean squared distance between two rows of `block` [n, d], drawn at random: twice the total variance.

    1 when all rows are equal, so that the block can still be divided by it.
    """
    square = 2.0 * float(np.var(block, axis=0, dtype=np.float64).sum()) if len(block) else 0.0
    return square if square > 1e-12 else 1.0
