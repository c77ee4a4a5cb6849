"""The atlas group: the LanceDB table that readers see, staged, checked and then published."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import dagster as dg

from latent_assets.defs.materialization import OWNERS, Event, Metadata, picture, run_whole
from latent_assets.pipeline.lineage import Lineage, Made, Produced
from latent_assets.profile import Profile

if TYPE_CHECKING:
    from latent_assets.atlas.rows import ShardContent

# name of a check of the staged table -> what it says (atlas.checks makes them)
_PUBLISHED = "checks_passed"


def atlas_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """`atlas_table`."""
    return [_atlas_table(Lineage(profile))]


def _atlas_table(layout: Lineage) -> dg.AssetsDefinition:
    @dg.asset(
        # Dagster does not follow an edge of 100 or more partitions; the unpartitioned assets carry what changed
        deps=["laion_metadata", "embedding_manifest", "umap_model", "umap_projection"],
        group_name="atlas",
        kinds={"lancedb"},
        owners=OWNERS,
        code_version=layout.code_version("atlas_table"),
        description="The LanceDB table `atlas`: one row per image with its link, caption, scores, thumbnail, vectors "
        "and coordinates. Staged as a new version, checked, then published by moving the tag `live`: readers see the "
        "old release or the new one.",
        check_specs=[
            dg.AssetCheckSpec(
                _PUBLISHED,
                asset="atlas_table",
                blocking=True,
                description="The staged version passed every check (rows, unique ids, finite values, unit length, "
                "thumbnails, a search) before the tag `live` was moved to it.",
            ),
            dg.AssetCheckSpec(
                "rows_carried",
                asset="atlas_table",
                blocking=True,
                description="As many rows as have coordinates in all shards.",
            ),
        ],
    )
    def atlas_table(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        def check(made: Made) -> list[dg.AssetCheckResult]:
            return _checks(lineage, made)

        yield from run_whole(context, lineage, "atlas_table", lambda wanted: release(lineage, wanted), _describe, check)

    return atlas_table


def _checks(lineage: Lineage, made: Made) -> list[dg.AssetCheckResult]:
    details = made.manifest.details
    found = {check["name"]: f"found {check['found']}, expected {check['expected']}" for check in details["checks"]}
    coordinates = sum(lineage.storage.manifests("umap_projection")[shard].rows for shard in lineage.shards())
    return [
        dg.AssetCheckResult(
            check_name=_PUBLISHED, passed=all(check["passed"] for check in details["checks"]), metadata=dict(found)
        ),
        dg.AssetCheckResult(
            check_name="rows_carried",
            passed=made.manifest.rows == coordinates,
            metadata={"rows": made.manifest.rows, "rows with coordinates": coordinates},
        ),
    ]


def release(lineage: Lineage, wanted: str) -> Produced:
    """Stage, check and publish. With a failed check nothing is published and the release before stays live."""
    from latent_assets.atlas.card import ModelInfo, describe_release
    from latent_assets.atlas.checks import check
    from latent_assets.atlas.pictures import release_pictures
    from latent_assets.atlas.release import prune, publish, stage

    profile, storage = lineage.profile, lineage.storage
    models = {}
    for name in ("clip", "vae"):
        if spec := getattr(profile.models, name):
            files = getattr(lineage, f"{name}_files")
            models[name] = ModelInfo(files.name, files.digest, spec.model_dump(mode="json"))
    projection = storage.manifest("umap_model")
    assert projection is not None  # `expected` asked for it
    shards = lineage.shards()
    info = describe_release(profile, storage, shards, projection.fingerprint, wanted, models)
    staged = stage(profile, storage, [_content(lineage, shard) for shard in shards], info)
    checks = check(profile, storage, staged)
    if failed := [c for c in checks if not c.passed]:
        found = "; ".join(f"{c.name}: found {c.found}, expected {c.expected}" for c in failed)
        return Produced("", 0, problems={_PUBLISHED: f"version {staged.version} is not published: {found}"})
    published = publish(storage, staged, checks)
    freed = prune(storage)
    details = {
        "uri": published.uri,
        "tag": published.tag,
        "version": published.version,
        "replaced": published.replaced,
        "indexed": staged.indexed,
        "freed": freed,
        "written": staged.written,
        "checks": [
            {"name": c.name, "passed": bool(c.passed), "found": c.found, "expected": c.expected} for c in checks
        ],
        "code_version": lineage.code_version("atlas_table"),
    }
    pictures = release_pictures(storage.lance_uri, published.version)
    return Produced(wanted, info.rows, details, report=pictures)


def _content(lineage: Lineage, shard: str) -> "ShardContent":
    """A shard's content keys, from its manifests; thumbnails that are not there yet are made."""
    from dataclasses import replace

    from latent_assets.atlas.rows import ShardContent
    from latent_assets.embeddings.store import thumbnail_name, writing_thumbnails
    from latent_assets.embeddings.thumbnails import thumbnail, thumbnail_fingerprint
    from latent_assets.images.tar import read_images
    from latent_assets.models.preprocessing import decode
    from latent_assets.storage import fingerprint

    storage, settings = lineage.storage, lineage.profile.table
    versions = {stage: storage.manifest(stage, shard) for stage in lineage.stages["atlas_table"].parents}
    rows = [found.version for stage, found in versions.items() if found and stage != "umap_projection"]
    images, places = versions["image_shards"], versions["umap_projection"]
    assert images is not None and places is not None
    made = fingerprint(thumbnail_fingerprint(settings), images.version)
    name = thumbnail_name(made, shard)
    if not storage.exists(name):
        with writing_thumbnails(storage, name) as writer:
            for row_id, data in read_images(storage, shard):
                with suppress(OSError, ValueError, SyntaxError):
                    writer.append([row_id], [thumbnail(decode(data), settings)])
    embeddings = replace(lineage.embeddings(shard), thumbnails=name)
    return ShardContent(shard, fingerprint(rows, made), places.version, embeddings)


def _describe(made: Made) -> Metadata:
    details = made.manifest.details
    metadata: Metadata = {
        "table": dg.MetadataValue.path(details["uri"]),
        "release": dg.MetadataValue.text(f"{details['tag']} (tag live)"),
        "checks": dg.MetadataValue.md(
            "| check | found | expected |\n|---|---|---|\n"
            + "".join(f"| {c['name']} | {c['found']} | {c['expected']} |\n" for c in details["checks"])
        ),
    }
    for name, data in (made.report or {}).items():
        metadata[name] = picture(data)
    return metadata
