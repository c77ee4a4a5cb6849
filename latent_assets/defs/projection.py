"""The projection group: one fitted UMAP per space, and the coordinates of every row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
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
from latent_assets.storage import fingerprint


def projection_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """`umap_model` and `umap_projection`."""
    layout = Lineage(profile)
    return [_umap_model(layout), _umap_projection(layout)]


def _umap_model(layout: Lineage) -> dg.AssetsDefinition:
    settings = layout.profile.projection

    @dg.asset(
        deps=["embedding_manifest"],
        group_name="projection",
        kinds={"umap"},
        owners=OWNERS,
        code_version=layout.code_version("umap_model"),
        description=f"UMAP to 3D of the spaces {', '.join(settings.spaces)}, fitted on all rows (a sample above "
        f"{settings.fit_rows:,}), with its quality on a fixed probe set. cuML on a GPU, umap-learn without.",
        check_specs=[
            dg.AssetCheckSpec(
                "map_finite", asset="umap_model", blocking=True, description="Every coordinate of the fit is finite."
            ),
            dg.AssetCheckSpec(
                "map_keeps_neighbours",
                asset="umap_model",
                description="Each map keeps neighbours far better than chance (trustworthiness above 0.7).",
            ),
        ],
    )
    def umap_model(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        yield from run_whole(
            context, lineage, "umap_model", lambda wanted: fit_umap(lineage, wanted), _describe, _check_model
        )

    return umap_model


def _check_model(made: Made) -> list[dg.AssetCheckResult]:
    spaces = made.manifest.details["spaces"]
    # None where there are too few rows to define it
    measured = {name: space["quality"]["trustworthiness"] for name, space in spaces.items()}
    trust = {name: value for name, value in measured.items() if value is not None}
    return [
        dg.AssetCheckResult(check_name="map_finite", passed=all(_finite(space) for space in spaces.values())),
        dg.AssetCheckResult(
            check_name="map_keeps_neighbours",
            passed=made.manifest.rows < 100 or all(value > 0.7 for value in trust.values()),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={f"trustworthiness {name}": value for name, value in trust.items()},
        ),
    ]


def fit_umap(lineage: Lineage, wanted: str) -> Produced:
    """Fit all spaces on the embeddings that the manifest lists."""
    from latent_assets.projection.fit import fit_map

    shards = [lineage.embeddings(shard) for shard in lineage.shards()]
    report = fit_map(lineage.profile, lineage.storage, shards, wanted)
    details: dict[str, Any] = {
        "spaces": {name: asdict(space) for name, space in report.spaces.items()},
        "feature": asdict(report.feature) if report.feature else None,
        "backend": report.backend,
        "device": report.device,
        "bytes": report.bytes,
        "total_rows": report.total_rows,
        "unmatched": report.unmatched,
        "code_version": lineage.code_version("umap_model"),
    }
    broken = [name for name, space in details["spaces"].items() if not _finite(space)]
    problems = {"map_finite": f"{', '.join(broken)}: coordinates that are not finite"} if broken else {}
    picture_of_fit = None if problems else _picture(lineage, wanted, details["spaces"])
    # the fit is stored under its fingerprint: another fingerprint is another version, even with the same content
    return Produced(fingerprint(wanted, report.version), report.rows, details, problems, picture_of_fit)


def _picture(lineage: Lineage, model_fingerprint: str, spaces: Mapping[str, Any]) -> bytes:
    """The fitted maps, coloured by category; at most 20,000 rows."""
    import numpy as np
    import polars as pl

    from latent_assets.catalog.shards import read_shard
    from latent_assets.plots import map_picture
    from latent_assets.projection.model import load_model

    model = load_model(lineage.storage, model_fingerprint)
    rows = np.unique(np.linspace(0, len(model.ids) - 1, min(len(model.ids), 20_000)).astype(int))
    drawn = pl.DataFrame({"id": [model.ids[row] for row in rows]})
    shards = (read_shard(lineage.storage, shard).select("id", "category") for shard in lineage.shards())
    found = pl.concat([shard.join(drawn, on="id", how="semi") for shard in shards])
    categories = drawn.join(found, on="id", how="left", maintain_order="left")["category"].to_list()
    captions = {
        str(name): f"trustworthiness {trust:.3f}"
        for name in model.coords
        if (trust := spaces[name]["quality"]["trustworthiness"]) is not None
    }
    return map_picture({str(name): xyz[rows] for name, xyz in model.coords.items()}, categories, captions)


def _finite(space: Mapping[str, Sequence[float]]) -> bool:
    return all(abs(value) < float("inf") for corner in ("lower", "upper") for value in space[corner])


def _describe(made: Made) -> Metadata:
    details = made.manifest.details
    metadata: Metadata = {
        "backend": dg.MetadataValue.text(f"{details['backend']} on {details['device']}"),
        "rows fitted": dg.MetadataValue.text(f"{made.manifest.rows:,} of {details['total_rows']:,}"),
        "bytes": dg.MetadataValue.int(details["bytes"]),
    }
    for name, space in details["spaces"].items():
        metadata[f"{name}: seconds"] = dg.MetadataValue.float(round(space["seconds"], 2))
        for measure, value in space["quality"].items():
            if value is not None:
                metadata[f"{name}: {measure.replace('_', ' ')}"] = dg.MetadataValue.float(round(float(value), 4))
    if made.report is not None:
        metadata["map"] = picture(made.report)
    if feature := details["feature"]:
        metadata["vae feature"] = dg.MetadataValue.json(feature)
    return metadata


def _umap_projection(layout: Lineage) -> dg.AssetsDefinition:
    parents = layout.stages["umap_projection"].parents

    @dg.asset(
        deps=list(parents),
        partitions_def=partitions.shards,
        backfill_policy=dg.BackfillPolicy.multi_run(layout.profile.shards.per_run),
        group_name="projection",
        kinds={"umap", "parquet"},
        owners=OWNERS,
        code_version=layout.code_version("umap_projection"),
        description="3D coordinates of every row of a shard in every space: the fit's own for rows it was fitted on, "
        "placed among their nearest fitted rows for the others.",
        check_specs=[
            dg.AssetCheckSpec(
                "coordinates_finite", asset="umap_projection", blocking=True, description="Every coordinate is finite."
            ),
            dg.AssetCheckSpec(
                "coordinates_for_every_row",
                asset="umap_projection",
                blocking=True,
                description="As many rows as the shard's embeddings.",
            ),
        ],
    )
    def umap_projection(context: dg.AssetExecutionContext, lineage: dg.ResourceParam[Lineage]) -> Iterator[Event]:
        def work(shard: str, stages: Sequence[str]) -> Mapping[str, Made]:
            return {"umap_projection": lineage.ensure("umap_projection", shard, lambda _: project(lineage, shard))}

        def check(outcome: ShardOutcomes) -> list[dg.AssetCheckResult]:
            return shard_checks(outcome, ["coordinates_finite", "coordinates_for_every_row"])

        yield from run_shards(context, lineage, ["umap_projection"], work, _describe_shard, check)

    return umap_projection


def project(lineage: Lineage, shard: str) -> Produced:
    """Coordinates of one shard under the current model."""
    from latent_assets.projection.shard import project_shard

    model = lineage.storage.manifest("umap_model")
    assert model is not None  # `expected` asked for it
    report = project_shard(lineage.profile, lineage.storage, model.fingerprint, lineage.embeddings(shard))
    parents = [name for name in lineage.stages["umap_projection"].parents if name != "umap_model"]
    rows = [manifest.rows for name in parents if (manifest := lineage.storage.manifest(name, shard))]
    problems = {}
    if report.rows != max(rows):
        problems["coordinates_for_every_row"] = f"{report.rows} rows have coordinates, {max(rows)} were embedded"
    corners = [*report.lower.values(), *report.upper.values()]
    if not all(abs(value) < float("inf") for corner in corners for value in corner):
        problems["coordinates_finite"] = "some coordinates are not finite"
    details = {
        "fitted": report.fitted,
        "placed": report.placed,
        "bytes": report.bytes,
        "code_version": lineage.code_version("umap_projection"),
    }
    return Produced(report.version, report.rows, details, problems)


def _describe_shard(stage: str, made: Made) -> Metadata:
    details = made.manifest.details
    return {
        "fitted rows": dg.MetadataValue.int(details["fitted"]),
        "placed rows": dg.MetadataValue.int(details["placed"]),
        "bytes": dg.MetadataValue.int(details["bytes"]),
    }
