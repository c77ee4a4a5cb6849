# temporary bridge to the rooms as they are
from __future__ import annotations

import sys
from pathlib import Path

from latent_assets.embeddings.store import ShardEmbeddings, embedding_name
from latent_assets.pipeline.stages import Finding, Output
from latent_assets.storage import fingerprint


def device_kind():
    drivers = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
    if sys.platform.startswith("linux") and not any(Path(node).exists() for node in drivers):
        return "cpu"
    from latent_assets.models.device import best_device

    return best_device().type


def number_format(profile, name):
    dtype = profile.models.of(name).dtype
    kind = device_kind()
    acc = {"clip": "float16", "vae": "bfloat16"}[name]
    return [dtype if dtype != "auto" else acc if kind == "cuda" else "float32", kind]


def model_fp(lineage, name):
    row = next(r for r in lineage.profile.embeddings if r.name == name)
    return fingerprint(
        name,
        lineage.stages[row.stage].revision,
        lineage.observed(row.source).version,
        lineage.stages[row.stage].settings(lineage.profile),
        lineage.inputs(row.stage),
    )


def places(lineage, shard):
    m = lineage.profile.models
    return ShardEmbeddings(
        shard,
        embedding_name(model_fp(lineage, "clip"), shard) if m.clip else None,
        embedding_name(model_fp(lineage, "vae"), shard) if m.vae else None,
    )


def make_embeddings(lineage, key, recipes):
    import polars as pl

    from latent_assets.atlas.thumbnails import thumbnails
    from latent_assets.embeddings.shard import Target, encode_shard
    from latent_assets.images.store.tar import read_images
    from latent_assets.models.clip import load_clip
    from latent_assets.models.vae import load_vae
    from latent_assets.pipeline.makers.embeddings import EmbeddingDetails, ThumbnailDetails

    models, where = lineage.profile.models, places(lineage, key)
    targets = []
    if "clip_embeddings" in recipes:
        targets.append(Target(load_clip(models.clip), where.clip, models.clip.batch_size))
    if "vae_latents" in recipes:
        targets.append(Target(load_vae(models.vae), where.vae, models.vae.batch_size))
    images = lineage.manifest("image_shards", key)
    out = {}
    if targets:
        r = encode_shard(lineage.storage, read_images(lineage.storage, key), images.rows, targets)
        for stage, name in (("clip_embeddings", where.clip), ("vae_latents", where.vae)):
            if stage in recipes:
                out[stage] = Output(
                    recipes[stage].fingerprint,
                    r.rows,
                    [name],
                    EmbeddingDetails(
                        "", list(r.undecodable), round(r.rate, 1), r.bytes[name], r.device, r.dtypes[name]
                    ),
                )
    if "thumbnails" in recipes:
        name = f"thumbnails/{recipes['thumbnails'].fingerprint}/{key}.parquet"
        rows = list(thumbnails(read_images(lineage.storage, key), lineage.profile.table, key))
        lineage.storage.write_parquet(
            name,
            pl.DataFrame(
                {"id": [a for a, _ in rows], "thumbnail": [b for _, b in rows]},
                schema={"id": pl.String, "thumbnail": pl.Binary},
            ),
        )
        out["thumbnails"] = Output(recipes["thumbnails"].fingerprint, len(rows), [name], ThumbnailDetails())
    return out


def judge_embedding(lineage, manifest):
    from latent_assets.embeddings.quality import embedding_problems

    images = lineage.manifest("image_shards", manifest.key)
    name = next(iter(manifest.files))
    try:
        problems, stats = embedding_problems(
            lineage.storage, name, manifest.stage, images.rows - len(manifest.details["undecodable"])
        )
    except Exception as error:
        problems = {"rows": str(error)}
    return [Finding(f"{manifest.stage}_{c}", c not in problems, problems.get(c, "")) for c in ("rows", "values")]
