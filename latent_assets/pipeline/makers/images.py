"""The images group: downloaded shards with an account of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions


@dataclass(frozen=True)
class ImageDetails:
    """success: share of the rows that may be had which have an image. reasons: rows by reason. rate: images/s."""

    images: int = 0
    success: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    rate: float = 0.0
    health: str = ""


def make_images(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Fetch what a shard still lacks. Too few images must not travel."""
    from latent_assets.catalog.builtin import serving
    from latent_assets.images.contact_sheet import contact_sheet
    from latent_assets.images.shard import fetch_shard, shard_files
    from latent_assets.images.store.tar import read_images

    profile, storage = lineage.profile, lineage.storage
    if options.force:
        for name in shard_files(storage, key):
            storage.delete(name)
    with serving(profile, storage):
        report = fetch_shard(profile, storage, key, retry=options.retry, mend=options.mend)
    details = ImageDetails(
        images=report.ok,
        success=round(report.health.success, 4),
        reasons=dict(report.reasons),
        bytes=report.bytes,
        rate=round(report.rate, 1),
        health=report.health.message,
    )
    pictures = {"contact sheet": contact_sheet(data for _, data in read_images(storage, key))} if report.ok else {}
    files = shard_files(storage, key)
    return {"image_shards": Output(report.version, report.ok, files, details, pictures=pictures)}


def judge_images(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether enough rows have an image, every row an outcome, and every image its bytes."""
    from latent_assets.images.download.health import health_of
    from latent_assets.images.verify import verify_images

    audit = verify_images(lineage.storage, manifest.key, deep=deep)
    health = health_of(lineage.profile.fetch, audit.reasons)
    problems = dict(audit.problems)
    if not problems and audit.version != manifest.version:
        problems["tars_readable"] = "the images are not those that were fetched"
    facts = {"success": round(health.success, 4), **audit.reasons}
    return [
        Finding("success_rate", health.level != "fail", "" if health.level != "fail" else health.message, facts),
        Finding("few_links_lost", health.level == "ok", "" if health.level == "ok" else health.message, facts),
        *(
            Finding(check, check not in problems, problems.get(check, ""), {"images": audit.ok, "bytes": audit.bytes})
            for check in ("every_row_accounted_for", "tars_readable")
        ),
    ]


def describe_images(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's images."""
    details: ImageDetails = lineage.details(manifest)
    return {
        "success": details.success,
        "outcomes": details.reasons,
        "bytes": details.bytes,
        "images/s": details.rate,
        "health": details.health,
    }
