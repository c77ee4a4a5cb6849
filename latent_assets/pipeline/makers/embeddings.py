"""The embeddings group: vectors, latents and thumbnails of every shard from one pass, and the manifest over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from latent_assets import progress
from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output, embedding_of
from latent_assets.spaces import resolve
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.embeddings.shard import EmbedReport
    from latent_assets.embeddings.store import ShardEmbeddings
    from latent_assets.pipeline.lineage import Lineage, MakeOptions
    from latent_assets.profile import Profile
    from latent_assets.spaces import Embedding


_told: WeakSet[Lineage] = WeakSet()  # whose builds have said how long they will take


@dataclass(frozen=True)
class EmbeddingDetails:
    """model: fingerprint of everything but the images. undecodable: ids of images that could not be decoded."""

    model: str = ""
    undecodable: Sequence[str] = ()
    rate: float = 0.0
    bytes: int = 0
    device: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class ThumbnailDetails:
    """undecodable: ids of images that could not be decoded."""

    undecodable: Sequence[str] = ()
    bytes: int = 0


@dataclass(frozen=True)
class ManifestDetails:
    """bytes: by stage. features: projection.features.FeatureChoice as a dict, by embedding."""

    images: int = 0
    undecodable: int = 0
    shards: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)


def number_format(profile: Profile, name: str) -> dict[str, Any]:
    """Number format and device kind of an encoder here: they decide the last bits of what it makes."""
    from latent_assets.models.device import device_kind
    from latent_assets.models.precision import fingerprint_of

    return {"device": device_kind(), "dtype": fingerprint_of(name, profile.models.of(name))}


def places(lineage: Lineage, shard: str) -> ShardEmbeddings:
    """Where the vectors and thumbnails of a shard lie under the current models and settings."""
    from latent_assets.embeddings.store import ShardEmbeddings
    from latent_assets.embeddings.thumbnails import thumbnail_fingerprint
    from latent_assets.layout import embedding_name, thumbnail_name

    rows = lineage.profile.embeddings
    files = {row.name: embedding_name(model_fingerprint(lineage, row), shard) for row in rows}
    return ShardEmbeddings(shard, files, thumbnail_name(thumbnail_fingerprint(lineage.profile.table), shard))


def model_fingerprint(lineage: Lineage, row: Embedding) -> str:
    """Decides a vector, apart from the image: weights, preprocessing, number format, device kind, code."""
    stage = lineage.stages[row.stage]
    digest = lineage.observed(row.source).version
    return fingerprint(row.name, stage.revision, digest, stage.settings(lineage.profile), lineage.inputs(row.stage))


def make_embeddings(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """One pass over a shard's images makes all that is asked for: each is decoded once."""
    from latent_assets.embeddings.shard import ThumbnailOutput, VectorOutput, embed_shard
    from latent_assets.images.store.tar import read_images

    profile, storage, where = lineage.profile, lineage.storage, places(lineage, key)
    outputs: list[VectorOutput | ThumbnailOutput] = []
    for row in profile.embeddings:
        if row.stage in recipes:
            settings = profile.models.of(row.name)
            encoder = resolve(row.load)(settings)
            outputs.append(VectorOutput(encoder, where.files[row.name], settings.batch_size, row.whole))
    if "thumbnails" in recipes and where.thumbnails is not None:
        outputs.append(ThumbnailOutput(where.thumbnails, profile.table))
    total = lineage.manifest("image_shards", key).rows
    report = embed_shard(storage, read_images(storage, key), total, outputs)
    _tell_rest(lineage, key, list(recipes), report)
    return {stage: _output(lineage, stage, where, report, recipe) for stage, recipe in recipes.items()}


def _tell_rest(lineage: Lineage, key: str, stages: Sequence[str], report: EmbedReport) -> None:
    """After the first shard that a process encodes: how long the others will take at its rate."""
    if lineage in _told or not report.rows:
        return
    _told.add(lineage)
    metadata = lineage.manifests.get("laion_metadata")
    vectors = [stage for stage in stages if stage != "thumbnails"]
    if metadata is None or not vectors:
        return
    wanted = {shard: rows for shard, (rows, _) in lineage.details(metadata).shards.items() if shard != key}
    made = [lineage.manifests.all(stage) for stage in vectors]
    models = [model_fingerprint(lineage, embedding_of(stage)) for stage in vectors]
    for shard in list(wanted):
        if all(
            shard in each and lineage.details(each[shard]).model == model
            for each, model in zip(made, models, strict=True)
        ):
            del wanted[shard]
    if wanted:
        rows = sum(wanted.values())
        progress.tell(
            "embeddings",
            f"{report.rows:,} images in {duration(report.seconds)}, {report.rate:,.1f} a second; the other "
            f"{len(wanted):,} shards ({rows:,} rows at most) will take about {duration(rows / report.rate)}",
        )


def duration(seconds: float) -> str:
    """A time as a person says it: 45 s, 12 min, 3.5 h, 2.1 days."""
    for limit, unit, name in ((100, 1, "s"), (5_400, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return (
                f"{seconds / unit:.0f} {name}" if seconds / unit >= 10 or unit == 1 else f"{seconds / unit:.1f} {name}"
            )
    return f"{seconds / 86_400:.1f} days"


def _output(lineage: Lineage, stage: str, where: ShardEmbeddings, report: EmbedReport, recipe: Recipe) -> Output:
    """What one stage got from a pass."""
    from latent_assets.layout import latents_name

    lost = list(report.undecodable)
    if stage == "thumbnails":
        assert where.thumbnails is not None
        thumbnails = ThumbnailDetails(lost, report.bytes[where.thumbnails])
        return Output(recipe.fingerprint, report.rows, [where.thumbnails], thumbnails)
    row = embedding_of(stage)
    name = where.files[row.name]
    details = EmbeddingDetails(
        model=model_fingerprint(lineage, row),
        undecodable=lost,
        rate=round(report.rate, 1),
        bytes=report.bytes[name],
        device=report.devices[name],
        dtype=report.dtypes[name],
    )
    files = [name] if row.whole is None else [name, latents_name(name)]
    return Output(recipe.fingerprint, report.rows, files, details)


def judge_embedding(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether every image has a row, and every value is as it must be."""
    from latent_assets.embeddings.quality import embedding_problems

    row, details = embedding_of(manifest.stage), lineage.details(manifest)
    expected = _decodable(lineage, manifest.key, details.undecodable, manifest.rows)
    name = next(iter(manifest.files))
    problems, statistics = embedding_problems(lineage.storage, row, name, expected)
    return [
        Finding(f"{row.stage}_rows", "rows" not in problems, problems.get("rows", ""), {"rows": manifest.rows}),
        Finding(f"{row.stage}_values", "values" not in problems, problems.get("values", ""), statistics),
    ]


def _decodable(lineage: Lineage, shard: str, undecodable: Sequence[str], rows: int) -> int:
    """How many images of a shard can be encoded; those of the images that were encoded, if the shard changed since."""
    images = lineage.manifests.get("image_shards", shard)
    return images.rows - len(undecodable) if images is not None else rows


def describe_embedding(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's vectors."""
    details: EmbeddingDetails = lineage.details(manifest)
    return {
        "images/s": details.rate,
        "bytes": details.bytes,
        "device": f"{details.device}, {details.dtype}",
        "undecodable images": len(details.undecodable),
    }


def judge_thumbnails(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether every image has a thumbnail, and they decode: all of them when `deep`, else a sample."""
    from latent_assets.embeddings.quality import thumbnail_problems

    details: ThumbnailDetails = lineage.details(manifest)
    expected = _decodable(lineage, manifest.key, details.undecodable, manifest.rows)
    name = next(iter(manifest.files))
    problems = thumbnail_problems(lineage.storage, name, lineage.profile.table, expected, deep=deep)
    return [
        Finding(f"thumbnails_{check}", check not in problems, problems.get(check, ""), {"rows": manifest.rows})
        for check in ("rows", "values")
    ]


def describe_thumbnails(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's thumbnails."""
    details: ThumbnailDetails = lineage.details(manifest)
    return {"bytes": details.bytes, "undecodable images": len(details.undecodable)}


def make_manifest(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Count what all shards hold, and choose the features that stand for them."""
    from latent_assets.projection.features import choose_features

    shards = lineage.shards()
    stages = [row.stage for row in lineage.profile.embeddings]
    found = {stage: lineage.manifests.all(stage) for stage in stages}
    images = lineage.manifests.all("image_shards")
    rows = {stage: sum(found[stage][shard].rows for shard in shards) for stage in stages}
    lost = {s: sum(len(lineage.details(found[s][shard]).undecodable) for shard in shards) for s in stages}
    chosen = choose_features(lineage.profile, lineage.storage, [places(lineage, shard) for shard in shards])
    details = ManifestDetails(
        images=sum(images[shard].rows for shard in shards),
        undecodable=max(lost.values(), default=0),
        shards=len(shards),
        bytes={s: sum(sum(found[s][shard].files.values()) for shard in shards) for s in stages},
        features={name: asdict(choice) for name, choice in chosen.items()},
    )
    problems = []
    if len(set(rows.values())) > 1:
        problems.append(f"the models disagree on the number of rows: {rows}")
    total = max(rows.values(), default=0)
    if details.images != total + details.undecodable:
        problems.append(f"{details.images} images were fetched, but {total} encoded and {details.undecodable} not")
    facts = {"images": details.images, "rows": total, "undecodable": details.undecodable}
    findings = [Finding("rows_carried", not problems, "; ".join(problems), facts)]
    version = fingerprint(recipes["embedding_manifest"].fingerprint, {n: c.chosen for n, c in chosen.items()})
    return {"embedding_manifest": Output(version, total, (), details, findings)}


def judge_manifest(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the shards' files hold as many rows as the manifest says: they are counted in the files."""
    from latent_assets.embeddings.store import read_ids

    details: ManifestDetails = lineage.details(manifest)
    problems = []
    for row in lineage.profile.embeddings:
        try:
            files = [places(lineage, shard).files[row.name] for shard in lineage.shards()]
            rows = sum(len(read_ids(lineage.storage, name)) for name in files)
            if rows != manifest.rows:
                problems.append(f"{row.stage} holds {rows} rows, {manifest.rows} are expected")
        except Exception as error:  # whatever the reader makes of damaged bytes
            problems.append(f"{row.stage} cannot be read ({type(error).__name__}: {error})")
    if details.images != manifest.rows + details.undecodable:
        problems.append(f"of {details.images} images {manifest.rows} are encoded, {details.undecodable} do not decode")
    facts = {"images": details.images, "rows": manifest.rows, "undecodable": details.undecodable}
    return [Finding("rows_carried", not problems, "; ".join(problems), facts)]


def describe_manifest(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of all shards' embeddings."""
    details: ManifestDetails = lineage.details(manifest)
    return {
        "shards": details.shards,
        "bytes": details.bytes,
        "undecodable images": details.undecodable,
        "features": {name: choice["chosen"] for name, choice in details.features.items()},
        **{f"recall of {name}": choice["recall"] for name, choice in details.features.items() if choice["recall"]},
    }
