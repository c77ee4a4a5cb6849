"""Which of a few images are near each other, and near a text: what a model is worth before a night's build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets.models.precision import BARS
from latent_assets.models.text_tower import load_text_encoder
from latent_assets.spaces import resolve

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.models.encoder import Encoder
    from latent_assets.profile import ClipModel
    from latent_assets.spaces import Embedding

Near = list[tuple[int, float]]


def nearest_pairs(row: Embedding, spec: Any, images: Sequence[Image.Image], count: int) -> dict[int, Near]:
    """For each image (by index) the `count` nearest others, best first, with their cosine or L2 distance."""
    column = BARS[row.name].column if row.name in BARS else row.features[0]
    vectors = embedded(resolve(row.load)(spec), images)[column].astype(np.float64)
    if row.metric == "cosine":
        scores = vectors @ vectors.T
        order = -scores
    else:
        scores = order = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    np.fill_diagonal(order, np.inf)
    best = np.argsort(order, axis=1, kind="stable")[:, : min(count, len(images) - 1)]
    return {index: [(int(other), float(scores[index, other])) for other in others] for index, others in enumerate(best)}


def nearest_to_text(spec: ClipModel, images: Sequence[Image.Image], text: str) -> Near:
    """All images by their cosine to a text, best first."""
    from latent_assets.models.clip import load_clip

    scores = embedded(load_clip(spec), images)["vector"] @ load_text_encoder(spec).encode_text([text])[0]
    return [(int(other), float(scores[other])) for other in np.argsort(-scores, kind="stable")]


def embedded(encoder: Encoder, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
    """Every column of an encoder, float32 [n, width], one image after the other."""
    import torch

    found: dict[str, list[np.ndarray]] = {name: [] for name in encoder.columns}
    for image in images:
        columns = encoder.encode(torch.from_numpy(np.array(encoder.pixels(image)[None])))
        for name, values in columns.items():
            found[name].append(values.float().cpu().numpy()[0])
    return {name: np.stack(rows) for name, rows in found.items()}
