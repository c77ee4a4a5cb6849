"""Clustered vectors in place of embeddings, any number of them, for benchmarks at sizes that nobody has at hand."""

from __future__ import annotations

import numpy as np

from latent_assets.projection.distances import unit

CLUSTERS, CHUNK = 800, 20_000
WIDTHS = {"clip": 768, "vae": 256}


class Synthetic:
    """Clustered vectors: curved sheets of 48 intrinsic dimensions, wide in few of them, clusters of very unequal sizes,
    with noise in all dimensions. Row r is the same whatever is asked with it."""

    def __init__(self, dims: int, seed: int, normed: bool) -> None:
        rng = np.random.default_rng(seed)
        self._seed, self._normed, latent = seed, normed, 48
        widths = 1.0 / np.sqrt(1.0 + np.arange(latent))
        self._centres = rng.normal(size=(CLUSTERS, latent)) * widths * 2.0
        self._spread = rng.gamma(4.0, 0.2, size=(CLUSTERS, 1)) * widths
        sizes = 1.0 / (5.0 + np.arange(CLUSTERS))
        self._shares = sizes / sizes.sum()
        self._bend = rng.normal(size=(latent, 192)) / np.sqrt(latent) * 2.0
        self._out = rng.normal(size=(192, dims)) / np.sqrt(192)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """float16 [stop - start, dims]; both at multiples of 20,000, or `stop` the last."""
        return np.concatenate([self._chunk(at, min(stop, at + CHUNK) - at) for at in range(start, stop, CHUNK)])

    def _chunk(self, start: int, count: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, start])
        member = rng.choice(CLUSTERS, count, p=self._shares)
        latent = self._centres[member] + self._spread[member] * rng.normal(size=(count, self._centres.shape[1]))
        values = np.tanh(latent @ self._bend) @ self._out + 0.05 * rng.normal(size=(count, self._out.shape[1]))
        return (unit(values) if self._normed else values).astype(np.float16)


def sources() -> dict[str, Synthetic]:
    return {"clip": Synthetic(WIDTHS["clip"], 1, True), "vae": Synthetic(WIDTHS["vae"], 2, False)}
