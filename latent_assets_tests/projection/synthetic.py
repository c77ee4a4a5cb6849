"""Synthetic embeddings with a known structure: clusters of clip vectors, colour gradients in the latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latent_assets.embeddings.store import ShardEmbeddings, writing_embeddings
from latent_assets.layout import embedding_name, thumbnail_name
from latent_assets.profile import Profile, parse_profile
from latent_assets.storage import Storage

REPOSITORY = Path(__file__).parents[2]
CLIP_MODEL, VAE_MODEL, THUMBNAILS = "c" * 32, "d" * 32, "e" * 32


def profile(root: Path | str, **projection: Any) -> Profile:
    """A profile with a CLIP and a VAE whose files are never read here."""
    values = {
        "name": "synthetic",
        "title": "Synthetic",
        "attribution": "Made by a random generator",
        "root": str(root),
        "source": {"path": "/nowhere.parquet"},
        "models": {
            "clip": {"config": "/nowhere/config.json", "weights": "/nowhere/model.safetensors"},
            "vae": {"model": "/nowhere/vae", "size": 64, "feature_dim": 16},
        },
        "projection": {"n_epochs": 60, "backend": "umap-learn", **projection},
    }
    return parse_profile(values, Path("synthetic.toml"), Path("/"))


def row_ids(rows: int, start: int = 0) -> list[str]:
    """Ids as in a catalog: 32 hexadecimal characters."""
    return [f"{(start + i) * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(rows)]


def clip_vectors(rows: int, dims: int = 32, clusters: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32 [rows, dims] around cluster centres, and each row's cluster."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % clusters
    values = rng.normal(size=(clusters, dims))[labels] + 0.35 * rng.normal(size=(rows, dims))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), labels


def curved_vectors(rows: int, seed: int, dims: int = 48) -> np.ndarray:
    """Unit vectors float32 [rows, dims] with ten intrinsic dimensions, as they come out of float16; one set of axes."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(99).normal(size=(10, dims))
    values = rng.normal(size=(rows, 10)) @ axes + 0.1 * rng.normal(size=(rows, dims))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float16).astype(np.float32)


def vae_columns(rows: int, feature_dim: int = 16, seed: int = 1) -> dict[str, np.ndarray]:
    """Latents float32 [rows, 4*8*8] whose variation is coarse: pooling keeps the neighbours, 16 random axes less so."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(rows, 4, 2, 2))
    latent = np.kron(coarse, np.ones((1, 1, 4, 4))) + 0.3 * rng.normal(size=(rows, 4, 8, 8))
    pooled = latent.reshape(rows, 4, 2, 4, 2, 4).mean(axis=(3, 5)).reshape(rows, 16)
    flat = latent.reshape(rows, 256)
    axes = rng.normal(size=(flat.shape[1], feature_dim)) / np.sqrt(flat.shape[1])
    return {"latent": flat, "pooled": pooled, "random": flat @ axes}


def names(shard: str, clip: bool = True, vae: bool = True) -> ShardEmbeddings:
    """Where the embeddings of a shard lie."""
    models = {"clip": CLIP_MODEL} if clip else {}
    models |= {"vae": VAE_MODEL} if vae else {}
    files = {name: embedding_name(model, shard) for name, model in models.items()}
    return ShardEmbeddings(shard, files, thumbnail_name(THUMBNAILS, shard))


def write_shard(
    storage: Storage,
    shard: str,
    ids: Sequence[str],
    clip: np.ndarray | None,
    vae: dict[str, np.ndarray] | None,
    vae_ids: Sequence[str] | None = None,
    batch: int = 100,
) -> ShardEmbeddings:
    """Write embedding files as the encoder does, in batches of `batch` rows."""
    written = names(shard, clip is not None, vae is not None)
    if clip is not None:
        _write(storage, written.files["clip"], ids, {"vector": clip}, None, batch)
    if vae is not None:
        _write(storage, written.files["vae"], ids if vae_ids is None else vae_ids, vae, "latent", batch)
    return written


def _write(
    storage: Storage, name: str, ids: Sequence[str], columns: dict[str, np.ndarray], whole: str | None, batch: int
) -> None:
    widths = {column: values.shape[1] for column, values in columns.items()}
    with writing_embeddings(storage, name, widths, whole=whole) as writer:
        for start in range(0, len(ids), batch):
            part = slice(start, start + batch)
            writer.append(ids[part], {column: values[part] for column, values in columns.items()})


def write_shards(storage: Storage, rows: int, shards: int, clip: np.ndarray | None = None) -> list[ShardEmbeddings]:
    """`rows` rows over `shards` shards of equal size; `clip` replaces the vectors of `clip_vectors`."""
    ids = row_ids(rows)
    vectors = clip_vectors(rows)[0] if clip is None else clip
    vae = vae_columns(rows)
    cuts = np.array_split(np.arange(rows), shards)
    return [
        write_shard(
            storage,
            f"{i:05d}",
            [ids[j] for j in cut],
            vectors[cut],
            {name: values[cut] for name, values in vae.items()},
        )
        for i, cut in enumerate(cuts)
    ]
