"""The images group: downloaded shards with an account of every row."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
from pydantic import Field

from latent_assets.defs import partitions
from latent_assets.defs.materialization import OWNERS, Event, Metadata, ShardOutcomes, picture, run_shards, shard_checks
from latent_assets.pipeline.lineage import Lineage, Made, Produced
from latent_assets.profile import Profile


class FetchConfig(dg.Config):
    """Run configuration of `image_shards`.

    `retry`: reasons (images.outcome.Reason) whose rows are fetched once more; rows with other outcomes stay.
    """

    retry: list[str] = Field(default_factory=list)


def image_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """`image_shards`."""
    return [_image_shards(Lineage(profile))]


def _image_shards(layout: Lineage) -> dg.AssetsDefinition:
    fetch = layout.profile.fetch

    @dg.asset(
        deps=["shard_catalog"],
        partitions_def=partitions.shards,
        backfill_policy=dg.BackfillPolicy.multi_run(layout.profile.shards.per_run),
        group_name="images",
        kinds={"aiohttp", "webdataset"},
        owners=OWNERS,
        code_version=layout.code_version("image_shards"),
        description="Downloaded images of a shard as a WebDataset tar, and a ledger with one outcome for every row of "
        "the catalog. Resumes by row. The data version is the hash of the images that are there.",
        check_specs=[
            dg.AssetCheckSpec(
                "success_rate",
                asset="image_shards",
                blocking=True,
                description=f"At least {fetch.min_success:.0%} of a shard's rows have an image "
                f"(a warning below {fetch.warn_success:.0%}).",
            ),
            dg.AssetCheckSpec(
                "every_row_accounted_for",
                asset="image_shards",
                blocking=True,
                description="The ledger has exactly one outcome for every row of the catalog.",
            ),
        ],
    )
    def image_shards(
        context: dg.AssetExecutionContext, config: FetchConfig, lineage: dg.ResourceParam[Lineage]
    ) -> Iterator[Event]:
        from latent_assets.catalog.builtin import serving

        def work(shard: str, stages: Sequence[str]) -> Mapping[str, Made]:
            made = lineage.ensure(
                "image_shards", shard, lambda _: fetch_images(lineage, shard, config.retry), again=bool(config.retry)
            )
            return {"image_shards": made}

        def check(outcome: ShardOutcomes) -> list[dg.AssetCheckResult]:
            return _checks(outcome, fetch.warn_success)

        with serving(lineage.profile, lineage.storage):
            yield from run_shards(context, lineage, ["image_shards"], work, _describe, check)

    return image_shards


def fetch_images(lineage: Lineage, shard: str, retry: Sequence[str] = ()) -> Produced:
    """Fetch what a shard still lacks. Too few images is a problem that must not travel."""
    from latent_assets.images.contact_sheet import contact_sheet
    from latent_assets.images.shard import fetch_shard
    from latent_assets.images.store.tar import read_images

    report = fetch_shard(lineage.profile, lineage.storage, shard, retry=retry)
    catalog = lineage.storage.manifest("shard_catalog", shard)
    assert catalog is not None  # `expected` asked for it
    problems = {}
    if report.rows != catalog.rows:
        problems["every_row_accounted_for"] = f"the ledger has {report.rows} rows, the catalog {catalog.rows}"
    if report.health.level == "fail":
        problems["success_rate"] = report.health.message
    details = {
        "images": report.ok,
        "success": round(report.health.success, 4),
        "reasons": dict(report.reasons),
        "bytes": report.bytes,
        "rate": round(report.rate, 1),
        "health": report.health.message,
        "code_version": lineage.code_version("image_shards"),
    }
    sheet = contact_sheet(data for _, data in read_images(lineage.storage, shard))
    return Produced(report.version, report.ok, details, problems, sheet)


def _describe(stage: str, made: Made) -> Metadata:
    details = made.manifest.details
    metadata: Metadata = {
        "success": dg.MetadataValue.float(details["success"]),
        "outcomes": dg.MetadataValue.json(details["reasons"]),
        "bytes": dg.MetadataValue.int(details["bytes"]),
        "images/s": dg.MetadataValue.float(details["rate"]),
        "health": dg.MetadataValue.text(details["health"]),
    }
    if made.report is not None:
        metadata["contact sheet"] = picture(made.report, "webp")
    return metadata


def _checks(outcome: ShardOutcomes, warn_below: float) -> list[dg.AssetCheckResult]:
    results = shard_checks(outcome, ["success_rate", "every_row_accounted_for"])
    success = {key: made.manifest.details["success"] for key, made in outcome.made.items()}
    low = {key: value for key, value in success.items() if value < warn_below}
    if results and results[0].passed and low:
        warning = dg.AssetCheckResult(
            asset_key="image_shards",
            check_name="success_rate",
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"lowest": min(low.values()), "shards": dg.MetadataValue.json(low)},
        )
        return [warning, *results[1:]]
    return results
