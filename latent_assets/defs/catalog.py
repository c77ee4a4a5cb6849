"""The catalog group: the cleaned list of images, and its shards."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from latent_assets.defs import partitions
from latent_assets.defs.materialization import (
    OWNERS,
    Event,
    Metadata,
    ShardOutcomes,
    picture,
    run_shards,
    run_whole,
    shard_checks,
)
from latent_assets.pipeline.lineage import Lineage, Made, Produced
from latent_assets.profile import Profile


def catalog_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """`laion_metadata` and `shard_catalog`."""
    layout = Lineage(profile)
    return [_laion_metadata(layout), _shard_catalog(layout)]


def _laion_metadata(layout: Lineage) -> dg.AssetsDefinition:
    @dg.asset(
        deps=["laion_source"],
        group_name="catalog",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version=layout.code_version("laion_metadata"),
        description="The cleaned list: columns cast, filters and removal lists applied, duplicate links collapsed, "
        "rows assigned to shards. Every dropped row is counted by reason. Registers the shard partitions.",
        check_specs=[
            dg.AssetCheckSpec("rows_left", asset="laion_metadata", blocking=True, description="Some rows are left."),
            dg.AssetCheckSpec(
                "rows_accounted_for",
                asset="laion_metadata",
                blocking=True,
                description="Rows read = rows kept + rows dropped, reason by reason.",
            ),
        ],
    )
    def laion_metadata(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        from latent_assets.catalog.build import build_catalog

        def produce(fingerprint: str) -> Produced:
            report = build_catalog(lineage.profile, lineage.storage)
            details = {
                "shards": {key: [shard.rows, shard.hash] for key, shard in report.shards.items()},
                "funnel": [list(step) for step in report.funnel],
                "rows_read": report.rows_read,
                "bytes": report.bytes,
                "code_version": layout.code_version("laion_metadata"),
            }
            problems = {} if report.rows_kept else {"rows_left": "no row is left after the filters; look at the funnel"}
            return Produced(
                report.version, report.rows_kept, details, problems, _histograms(lineage, sorted(report.shards))
            )

        def register(made: Made) -> Metadata:
            new = partitions.register(context.instance, sorted(made.manifest.details["shards"]))
            if new:
                context.log.info(f"registered {len(new)} shard partitions, {new[0]} to {new[-1]}")
            return _describe_metadata(made)

        yield from run_whole(context, lineage, "laion_metadata", produce, register, _check_metadata)

    return laion_metadata


def _check_metadata(made: Made) -> list[dg.AssetCheckResult]:
    details = made.manifest.details
    dropped = sum(count for _, count in details["funnel"])
    return [
        dg.AssetCheckResult(check_name="rows_left", passed=made.manifest.rows > 0),
        dg.AssetCheckResult(
            check_name="rows_accounted_for",
            passed=details["rows_read"] == made.manifest.rows + dropped,
            metadata={"read": details["rows_read"], "kept": made.manifest.rows, "dropped": dropped},
        ),
    ]


def _histograms(lineage: Lineage, shards: Sequence[str]) -> bytes:
    """Distributions of sizes, scores and caption lengths over the first shards, which are random samples."""
    import polars as pl

    from latent_assets.catalog.shards import read_shard
    from latent_assets.plots import histogram_picture

    rows = pl.concat([read_shard(lineage.storage, shard) for shard in shards[:4]]) if shards else pl.DataFrame()
    values: dict[str, Any] = {
        name: rows[name].cast(pl.Float64).to_numpy()
        for name in ("width", "height", "aesthetic", "similarity", "punsafe")
        if name in rows.columns and rows[name].is_not_null().any()
    }
    if "caption" in rows.columns:
        values["caption length"] = rows["caption"].str.len_chars().cast(pl.Float64).to_numpy()
    return histogram_picture(values, {"width": "px", "height": "px", "caption length": "characters"})


def _describe_metadata(made: Made) -> Metadata:
    from latent_assets.catalog.funnel_chart import funnel_chart

    details = made.manifest.details
    histograms = {"histograms": picture(made.report)} if made.report else {}
    table = "| step | rows |\n|---|---:|\n" + "".join(
        f"| {reason} | {count:,} |\n" for reason, count in details["funnel"]
    )
    return {
        "shards": dg.MetadataValue.int(len(details["shards"])),
        "rows read": dg.MetadataValue.int(details["rows_read"]),
        "rows/s": dg.MetadataValue.float(round(details["rows_read"] / max(made.manifest.seconds, 1e-9), 1)),
        "dropped, by reason": dg.MetadataValue.md(table),
        "funnel": picture(funnel_chart(details["rows_read"], details["funnel"], made.manifest.rows)),
        **histograms,
    }


def _shard_catalog(layout: Lineage) -> dg.AssetsDefinition:
    @dg.asset(
        deps=["laion_metadata"],
        partitions_def=partitions.shards,
        backfill_policy=dg.BackfillPolicy.multi_run(layout.profile.shards.per_run),
        group_name="catalog",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version=layout.code_version("shard_catalog"),
        description="One shard of the catalog: id, link, caption and scores of its rows. The data version is the hash "
        "of the rows, so a shard that did not change leaves everything after it alone.",
        check_specs=[
            dg.AssetCheckSpec(
                "ids_unique", asset="shard_catalog", blocking=True, description="No image id occurs twice in a shard."
            ),
            dg.AssetCheckSpec(
                "rows_as_assigned",
                asset="shard_catalog",
                blocking=True,
                description="Each shard holds the rows that laion_metadata assigned to it, unaltered.",
            ),
        ],
    )
    def shard_catalog(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        def work(shard: str, stages: Sequence[str]) -> Mapping[str, Made]:
            return {"shard_catalog": lineage.ensure("shard_catalog", shard, lambda _: verify_shard(lineage, shard))}

        def check(outcome: ShardOutcomes) -> list[dg.AssetCheckResult]:
            return shard_checks(outcome, ["ids_unique", "rows_as_assigned"])

        yield from run_shards(context, lineage, ["shard_catalog"], work, _describe_shard, check)

    return shard_catalog


def verify_shard(lineage: Lineage, shard: str) -> Produced:
    """Read a shard of the catalog and hold it against what was assigned."""
    from latent_assets.catalog.hashing import shard_hash
    from latent_assets.catalog.shards import read_shard

    manifest = lineage.storage.manifest("laion_metadata")
    assert manifest is not None  # `expected` asked for it
    rows, digest = manifest.details["shards"][shard]
    frame = read_shard(lineage.storage, shard)
    problems = {}
    if (duplicates := frame.height - frame["id"].n_unique()) > 0:
        problems["ids_unique"] = f"{duplicates} ids occur twice"
    version = shard_hash(frame)
    if frame.height != rows or version != digest:
        problems["rows_as_assigned"] = (
            f"holds {frame.height} rows, assigned were {rows}, or their content changed: build the catalog again"
        )
    hosts = frame["url"].str.extract(r"^\w+://([^/:]+)", 1).value_counts(sort=True).head(10) if frame.height else None
    details = {
        "captioned": int(frame["caption"].is_not_null().sum()),
        "hosts": {} if hosts is None else {str(host): int(count) for host, count in hosts.iter_rows()},
        "code_version": lineage.code_version("shard_catalog"),
    }
    return Produced(version, frame.height, details, problems)


def _describe_shard(stage: str, made: Made) -> Metadata:
    return {
        "captioned rows": dg.MetadataValue.int(made.manifest.details["captioned"]),
        "hosts, most frequent": dg.MetadataValue.json(made.manifest.details["hosts"]),
    }
