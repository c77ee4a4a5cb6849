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
    from latent_assets.images.shard import fetch_shard
    from latent_assets.images.store.tar import read_images

    with serving(lineage.profile, lineage.storage):
        report = fetch_shard(lineage.profile, lineage.storage, key, retry=options.retry)
    details = ImageDetails(
        images=report.ok,
        success=round(report.health.success, 4),
        reasons=dict(report.reasons),
        bytes=report.bytes,
        rate=round(report.rate, 1),
        health=report.health.message,
    )
    sheet = contact_sheet(data for _, data in read_images(lineage.storage, key))
    return {"image_shards": Output(report.version, report.ok, (), details, pictures={"contact sheet": sheet})}


def judge_images(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether enough rows have an image, every row an outcome, and every image its bytes."""
    from latent_assets.images.download.health import health_of

    details: ImageDetails = lineage.details(manifest)
    health = health_of(lineage.profile.fetch, details.reasons)
    facts = {"success": details.success, **details.reasons}
    return [
        Finding("success_rate", health.level != "fail", health.message, facts),
        Finding("few_links_lost", health.level == "ok", health.message, facts),
        Finding("every_row_accounted_for", True),
        Finding("tars_readable", True),
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
