"""The atlas group: the LanceDB table that readers see, staged, checked and then published."""

from collections.abc import Iterator

import dagster as dg

from latent_assets.defs.materialization import OWNERS, Event, Metadata, picture, run_whole
from latent_assets.pipeline.lineage import Lineage, Made, Produced
from latent_assets.profile import Profile

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
    from latent_assets.atlas.checks import check
    from latent_assets.atlas.pictures import release_pictures
    from latent_assets.atlas.release import ModelInfo, describe_release
    from latent_assets.atlas.table import clean, publish, stage

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
    staged = stage(profile, storage, [lineage.embeddings(shard) for shard in shards], info)
    checks = check(profile, storage, staged)
    if failed := [c for c in checks if not c.passed]:
        found = "; ".join(f"{c.name}: found {c.found}, expected {c.expected}" for c in failed)
        return Produced("", 0, problems={_PUBLISHED: f"version {staged.version} is not published: {found}"})
    published = publish(storage, staged, checks)
    freed = clean(storage)
    details = {
        "uri": published.uri,
        "tag": published.tag,
        "version": published.version,
        "replaced": published.replaced,
        "indexed": staged.indexed,
        "freed": freed,
        "checks": [
            {"name": c.name, "passed": bool(c.passed), "found": c.found, "expected": c.expected} for c in checks
        ],
        "code_version": lineage.code_version("atlas_table"),
    }
    pictures = release_pictures(storage.lance_uri, published.version)
    return Produced(wanted, info.rows, details, report=pictures)


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
