"""The projection group: one fitted UMAP per space, and the coordinates of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.layout import model_of
from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions

_TRUSTED = 0.7
_JUDGED_ABOVE = 100  # rows; below that the measure says little


@dataclass(frozen=True)
class ModelDetails:
    """spaces: projection.fit.SpaceFit as a dict, by space; placement: projection.placement.PlacementFigures likewise.
    unmatched: rows that only some of the models embedded."""

    spaces: dict[str, Any] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    backend: str = ""
    device: str = ""
    bytes: int = 0
    total_rows: int = 0
    unmatched: int = 0


@dataclass(frozen=True)
class CoordinateDetails:
    """Rows that were in the fit, and rows that were placed."""

    fitted: int = 0
    placed: int = 0
    bytes: int = 0


def make_model(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Fit all spaces on the embeddings that the manifest lists."""
    from latent_assets.pipeline.makers.embeddings import places
    from latent_assets.projection.features import FeatureChoice
    from latent_assets.projection.fit import fit_map
    from latent_assets.projection.model import model_files, read_header

    wanted = recipes["umap_model"].fingerprint
    embedded = lineage.manifest("embedding_manifest")
    shards = [places(lineage, shard) for shard in lineage.shards()]
    chosen = {name: FeatureChoice(**choice) for name, choice in lineage.details(embedded).features.items()}
    report = fit_map(lineage.profile, lineage.storage, shards, wanted, chosen)
    details = ModelDetails(
        spaces={name: asdict(space) for name, space in report.spaces.items()},
        placement=read_header(lineage.storage, wanted)["placement"],
        backend=report.backend,
        device=report.device,
        bytes=report.bytes,
        total_rows=report.total_rows,
        unmatched=report.unmatched,
    )
    findings = _findings(details, report.rows)
    pictures = {"map": model_picture(lineage, wanted, details.spaces)} if findings[0].passed and report.rows else {}
    # the fit is stored under its fingerprint: another fingerprint is another version, even with the same content
    version = fingerprint(wanted, report.version)
    files = model_files(lineage.storage, wanted)
    return {"umap_model": Output(version, report.rows, files, details, findings, pictures)}


def judge_model(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the fitted maps can be read, are finite, and how well they keep neighbours."""
    import numpy as np

    from latent_assets.projection.model import read_model

    details: ModelDetails = lineage.details(manifest)
    judged = _findings(details, manifest.rows)
    try:
        model = read_model(lineage.storage, manifest.fingerprint)
        broken = [str(space) for space, xyz in model.coords.items() if not np.isfinite(xyz).all()]
        if len(model.ids) != manifest.rows:
            broken.append(f"{len(model.ids)} rows instead of {manifest.rows}")
    except Exception as error:  # whatever the reader makes of damaged bytes
        broken = [f"cannot be read ({type(error).__name__}: {error})"]
    found = f"the fitted maps: {', '.join(broken)}" if broken else ""
    return [Finding("map_finite", not broken, found), *judged[1:]]


def _findings(details: ModelDetails, rows: int) -> list[Finding]:
    broken = [name for name, space in details.spaces.items() if not _finite(space)]
    # None where there are too few rows to define it
    measured = {name: space["quality"]["trustworthiness"] for name, space in details.spaces.items()}
    trust = {name: value for name, value in measured.items() if value is not None}
    poor = {name: value for name, value in trust.items() if value <= _TRUSTED and rows >= _JUDGED_ABOVE}
    facts = {f"trustworthiness {name}": value for name, value in trust.items()}
    return [
        Finding("map_finite", not broken, f"{', '.join(broken)}: coordinates that are not finite" if broken else ""),
        Finding("map_keeps_neighbours", not poor, ", ".join(f"{n}: {v:.3f}" for n, v in poor.items()), facts),
    ]


def model_picture(lineage: Lineage, model_fingerprint: str, spaces: Mapping[str, Any]) -> bytes:
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


def describe_model(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the fit."""
    details: ModelDetails = lineage.details(manifest)
    facts: dict[str, Any] = {
        "backend": f"{details.backend} on {details.device}",
        "rows fitted": f"{manifest.rows:,} of {details.total_rows:,}",
        "bytes": details.bytes,
    }
    for name, space in details.spaces.items():
        facts[f"{name}: seconds"] = round(space["seconds"], 2)
        for measure, value in space["quality"].items():
            if value is not None:
                facts[f"{name}: {measure.replace('_', ' ')}"] = round(float(value), 4)
    for name, found in details.placement.items():
        facts[f"{name}: recall of the index"] = round(found["index_recall"], 4)
        if found["error"] is not None:
            facts[f"{name}: leave-one-out error, share of the diameter"] = round(found["error"], 4)
            facts[f"{name}: leave-one-out error, 95th percentile"] = round(found["error_p95"], 4)
    return facts


def make_coordinates(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Coordinates of one shard under the current model."""
    from latent_assets.layout import coords_name
    from latent_assets.pipeline.makers.embeddings import places
    from latent_assets.projection.shard import project_shard

    model = lineage.manifest("umap_model")
    report = project_shard(lineage.profile, lineage.storage, model.fingerprint, places(lineage, key))
    details = CoordinateDetails(report.fitted, report.placed, report.bytes)
    files = [coords_name(model.fingerprint, key)]
    return {"umap_projection": Output(report.version, report.rows, files, details)}


def judge_coordinates(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether every embedded row has finite coordinates in every space."""
    from latent_assets.projection.checks import coordinate_problems

    model = lineage.manifests.get("umap_model")
    # those of the fit that they were made from; another may have been fitted since
    name = next(iter(manifest.files))
    fitted = model_of(name) if model is None else model.fingerprint
    embedded = [m.rows for row in lineage.profile.embeddings if (m := lineage.manifests.get(row.stage, manifest.key))]
    expected = min(embedded, default=manifest.rows)
    problems = coordinate_problems(
        lineage.storage, fitted, manifest.key, lineage.profile.projection.spaces, rows=expected
    )
    facts = {"rows": manifest.rows}
    return [
        Finding("coordinates_finite", "values" not in problems, problems.get("values", ""), facts),
        Finding("coordinates_for_every_row", "rows" not in problems, problems.get("rows", ""), facts),
    ]


def describe_coordinates(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard's coordinates."""
    details: CoordinateDetails = lineage.details(manifest)
    return {"fitted rows": details.fitted, "placed rows": details.placed, "bytes": details.bytes}
