"""The embeddings group: vectors, latents and thumbnails of every shard from one pass, and the manifest over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output, embedding_of
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions
    from latent_assets.profile import Profile


@dataclass(frozen=True)
class EmbeddingDetails:
    """model: fingerprint of everything but the images. undecodable: ids of images that could not be decoded."""

    model: str = ""
    undecodable: Sequence[str] = ()
    rate: float = 0.0
    bytes: int = 0
    device: str = ""
    dtype: str = ""
    statistics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ThumbnailDetails:
    """settings: fingerprint of how they are made. undecodable: ids of images that could not be decoded."""

    settings: str = ""
    undecodable: Sequence[str] = ()
    bytes: int = 0


@dataclass(frozen=True)
class ManifestDetails:
    """bytes: of the features' files, by stage. features: which of its features stands for an embedding."""

    images: int = 0
    undecodable: int = 0
    shards: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)


def number_format(profile: Profile, name: str) -> dict[str, Any]:
    """Number format and device kind of an encoder here: they decide the last bits of what it makes."""
    from latent_assets.pipeline.makers import old

    return {"number format": old.number_format(profile, name)}


def make_embeddings(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output | Exception]:
    """One pass over a shard's images makes all that is asked for."""
    from latent_assets.pipeline.makers import old

    return old.make_embeddings(lineage, key, recipes)


def judge_embedding(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether every image has a row, and every value is as it must be."""
    from latent_assets.pipeline.makers import old

    return old.judge_embedding(lineage, manifest)


def describe_embedding(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's vectors."""
    details: EmbeddingDetails = lineage.details(manifest)
    return {
        "images/s": details.rate,
        "bytes": details.bytes,
        "device": f"{details.device}, {details.dtype}",
        "undecodable images": len(details.undecodable),
        **details.statistics,
    }


def judge_thumbnails(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    return [Finding("thumbnails_rows", True), Finding("thumbnails_decode", True)]


def describe_thumbnails(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's thumbnails."""
    details: ThumbnailDetails = lineage.details(manifest)
    return {"bytes": details.bytes, "undecodable images": len(details.undecodable)}


def make_manifest(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Count what all shards hold, and choose the features that stand for them."""
    shards = lineage.shards()
    stages = [row.stage for row in lineage.profile.embeddings]
    found = {stage: lineage.manifests.all(stage) for stage in stages}
    images = lineage.manifests.all("image_shards")
    rows = {stage: sum(found[stage][shard].rows for shard in shards) for stage in stages}
    lost = {s: sum(len(found[s][shard].details["undecodable"]) for shard in shards) for s in stages}
    details = ManifestDetails(
        images=sum(images[shard].rows for shard in shards),
        undecodable=max(lost.values(), default=0),
        shards=len(shards),
        bytes={stage: sum(found[stage][shard].details["bytes"] for shard in shards) for stage in stages},
    )
    problems = []
    if len(set(rows.values())) > 1:
        problems.append(f"the models disagree on the number of rows: {rows}")
    total = max(rows.values(), default=0)
    if details.images != total + details.undecodable:
        problems.append(f"{details.images} images were fetched, but {total} encoded and {details.undecodable} not")
    facts = {"images": details.images, "rows": total, "undecodable": details.undecodable}
    findings = [Finding("rows_carried", not problems, "; ".join(problems), facts)]
    version = fingerprint(recipes["embedding_manifest"].fingerprint, details.features)
    return {"embedding_manifest": Output(version, total, (), details, findings)}


def judge_manifest(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the shards' files hold as many rows as the manifest says."""
    details: ManifestDetails = lineage.details(manifest)
    stages = [row.stage for row in lineage.profile.embeddings]
    rows = {
        stage: sum(m.rows for k, m in lineage.manifests.all(stage).items() if k in set(lineage.shards()))
        for stage in stages
    }
    passed = (
        all(count == manifest.rows for count in rows.values()) and details.images == manifest.rows + details.undecodable
    )
    facts = {"images": details.images, "rows": manifest.rows, "undecodable": details.undecodable}
    return [Finding("rows_carried", passed, "" if passed else f"shards hold {rows}, expected {manifest.rows}", facts)]


def describe_manifest(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of all shards' embeddings."""
    details: ManifestDetails = lineage.details(manifest)
    return {
        "shards": details.shards,
        "bytes": details.bytes,
        "undecodable images": details.undecodable,
        "features": details.features,
    }


def embedding_of_stage(stage: str) -> str:
    """The name of the embedding that a stage makes."""
    return embedding_of(stage).name
