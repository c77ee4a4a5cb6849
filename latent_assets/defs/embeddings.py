"""The embeddings group: CLIP vectors and VAE latents of every shard, and the manifest over all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from latent_assets.defs import partitions
from latent_assets.defs.materialization import (
    OWNERS,
    Event,
    Metadata,
    ShardOutcomes,
    run_shards,
    run_whole,
    shard_checks,
)
from latent_assets.pipeline.lineage import Lineage, Made, Produced
from latent_assets.profile import Profile
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.embeddings.shard import EmbedReport

_SPECS = {
    "vae_latents": (
        "vae_model",
        {"pytorch", "diffusers", "arrow"},
        "Latents of the autoencoder, whole (float16, the distribution's mean times the model's scaling factor), and "
        "the two candidates for a map feature made from them.",
    ),
    "clip_embeddings": (
        "clip_model",
        {"pytorch", "openclip", "arrow"},
        "CLIP vectors of the images (float16, unit length).",
    ),
}


def embedding_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """`vae_latents` and `clip_embeddings` (one multi-asset) and `embedding_manifest`."""
    layout = Lineage(profile)
    return [_embeddings(layout), _embedding_manifest(layout)]


def _embeddings(layout: Lineage) -> dg.AssetsDefinition:
    names = [name for name in _SPECS if name in layout.stages]
    specs = [
        dg.AssetSpec(
            name,
            deps=["image_shards", _SPECS[name][0]],
            group_name="embeddings",
            kinds=_SPECS[name][1],
            owners=OWNERS,
            code_version=layout.code_version(name),
            description=_SPECS[name][2],
            skippable=True,
        )
        for name in names
    ]
    checks = [
        spec
        for name in names
        for spec in (
            dg.AssetCheckSpec(
                f"{name}_rows", asset=name, blocking=True, description="One row for every image of the shard."
            ),
            dg.AssetCheckSpec(
                f"{name}_values",
                asset=name,
                blocking=True,
                description="All values are finite"
                + (", all vectors have unit length." if name == "clip_embeddings" else ", no latent is all zero."),
            ),
        )
    ]

    @dg.multi_asset(
        specs=specs,
        name="embeddings",
        can_subset=True,
        partitions_def=partitions.shards,
        backfill_policy=dg.BackfillPolicy.multi_run(layout.profile.shards.per_run),
        check_specs=checks,
    )
    def embeddings(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        wanted = [name for name in names if dg.AssetKey(name) in context.selected_asset_keys]

        def check(outcome: ShardOutcomes) -> list[dg.AssetCheckResult]:
            return shard_checks(outcome, [f"{outcome.stage}_rows", f"{outcome.stage}_values"])

        def work(shard: str, stages: Sequence[str]) -> Mapping[str, Made | Exception]:
            return encode_images(lineage, shard, stages)

        yield from run_shards(context, lineage, wanted, work, _describe, check)

    return embeddings


def encode_images(lineage: Lineage, shard: str, stages: Sequence[str]) -> dict[str, Made | Exception]:
    """Bring a shard's embeddings up to date: one pass over its images makes all that are not current.

    Returns what became of each stage: a failure of one does not touch the other.
    """
    due = [stage for stage in stages if not _is_current(lineage, stage, shard)]
    try:
        report = _encode(lineage, shard, due) if due else None
    except Exception as error:
        return {stage: error if stage in due else _made(lineage, stage, shard, None) for stage in stages}
    results: dict[str, Made | Exception] = {}
    for stage in stages:
        try:
            results[stage] = _made(lineage, stage, shard, report)
        except Exception as error:
            results[stage] = error
    return results


def _made(lineage: Lineage, stage: str, shard: str, report: "EmbedReport | None") -> Made:
    """Check the file that a pass wrote and commit it; without a pass, the one that is there."""
    from latent_assets.embeddings.quality import embedding_problems

    def produce(wanted: str) -> Produced:
        images, places = lineage.storage.manifest("image_shards", shard), lineage.embeddings(shard)
        row = next(row for row in lineage.profile.embeddings if row.stage == stage)
        name = places.files[row.name]
        assert report is not None and images is not None
        expected = images.rows - len(report.undecodable)
        problems, statistics = embedding_problems(lineage.storage, row, name, expected)
        details = {
            **statistics,
            "model": lineage.clip_fingerprint if stage == "clip_embeddings" else lineage.vae_fingerprint,
            "undecodable": list(report.undecodable),
            "rate": round(report.rate, 1),
            "bytes": report.bytes[name],
            "device": report.devices[name],
            "dtype": report.dtypes[name],
            "code_version": lineage.code_version(stage),
        }
        return Produced(wanted, report.rows, details, {f"{stage}_{check}": text for check, text in problems.items()})

    return lineage.ensure(stage, shard, produce)


def _is_current(lineage: Lineage, stage: str, shard: str) -> bool:
    manifest = lineage.storage.manifest(stage, shard)
    return manifest is not None and manifest.fingerprint == lineage.expected(stage, shard)


def _encode(lineage: Lineage, shard: str, stages: Sequence[str]) -> "EmbedReport":
    from latent_assets.embeddings.shard import VectorOutput, embed_shard
    from latent_assets.images.tar import read_images
    from latent_assets.spaces import resolve

    places = lineage.embeddings(shard)
    targets = []
    for row in lineage.profile.embeddings:
        if row.stage in stages:
            settings = lineage.profile.models.of(row.name)
            encoder = resolve(row.load)(settings)
            targets.append(VectorOutput(encoder, places.files[row.name], settings.batch_size, row.whole))
    manifest = lineage.storage.manifest("image_shards", shard)
    total = manifest.rows if manifest else 0
    return embed_shard(lineage.storage, read_images(lineage.storage, shard), total, targets)


def _describe(stage: str, made: Made) -> Metadata:
    details = made.manifest.details
    return {
        "images/s": dg.MetadataValue.float(details["rate"]),
        "bytes": dg.MetadataValue.int(details["bytes"]),
        "device": dg.MetadataValue.text(f"{details['device']}, {details['dtype']}"),
        "undecodable images": dg.MetadataValue.int(len(details["undecodable"])),
        **{
            key: dg.MetadataValue.float(details[key])
            for key in ("mean norm", "smallest", "largest", "mean", "standard deviation")
            if key in details
        },
    }


def _embedding_manifest(layout: Lineage) -> dg.AssetsDefinition:
    parents = layout.stages["embedding_manifest"].parents

    @dg.asset(
        deps=list(parents),
        group_name="embeddings",
        kinds={"json"},
        owners=OWNERS,
        code_version=layout.code_version("embedding_manifest"),
        description="All shards' embeddings as one data version. Dagster does not compute staleness across an edge of "
        "100 or more partitions; what depends on all shards depends on this instead. Names shards that are missing.",
        check_specs=[
            dg.AssetCheckSpec(
                "rows_carried",
                asset="embedding_manifest",
                blocking=True,
                description="As many rows as images were fetched, apart from those that could not be decoded.",
            )
        ],
    )
    def embedding_manifest(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        yield from run_whole(
            context,
            lineage,
            "embedding_manifest",
            lambda wanted: gather(lineage, wanted),
            _describe_manifest,
            _check_manifest,
        )

    return embedding_manifest


def gather(lineage: Lineage, wanted: str) -> Produced:
    """Count what all shards hold. `expected` has already refused a missing shard."""
    storage, shards = lineage.storage, lineage.shards()
    parents = lineage.stages["embedding_manifest"].parents
    found = {parent: storage.manifests(parent) for parent in parents}
    images = storage.manifests("image_shards")
    rows = {parent: sum(found[parent][shard].rows for shard in shards) for parent in parents}
    undecodable = max(sum(len(found[p][s].details["undecodable"]) for s in shards) for p in parents)
    problems = []
    if len(set(rows.values())) != 1:
        problems.append(f"the models disagree on the number of rows: {rows}")
    total = sum(images[shard].rows for shard in shards)
    if total != max(rows.values()) + undecodable:
        problems.append(f"{total} images were fetched, but {max(rows.values())} encoded and {undecodable} undecodable")
    carried = {"rows_carried": "; ".join(problems)} if problems else {}
    details = {
        "images": total,
        "undecodable": undecodable,
        "shards": len(shards),
        "bytes": {parent: sum(found[parent][s].details["bytes"] for s in shards) for parent in parents},
    }
    return Produced(fingerprint("embedding_manifest", wanted), max(rows.values()), details, carried)


def _check_manifest(made: Made) -> list[dg.AssetCheckResult]:
    details = made.manifest.details
    counts = {"images": details["images"], "rows": made.manifest.rows, "undecodable": details["undecodable"]}
    passed = counts["images"] == counts["rows"] + counts["undecodable"]
    return [dg.AssetCheckResult(check_name="rows_carried", passed=passed, metadata=dict(counts))]


def _describe_manifest(made: Made) -> Metadata:
    details = made.manifest.details
    return {
        "shards": dg.MetadataValue.int(details["shards"]),
        "bytes": dg.MetadataValue.json(details["bytes"]),
        "undecodable images": dg.MetadataValue.int(details["undecodable"]),
    }
