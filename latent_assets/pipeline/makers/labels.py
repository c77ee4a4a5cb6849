"""The atlas group: clusters of the maps and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.atlas.labels.build import LabelReport
    from latent_assets.pipeline.lineage import Lineage, MakeOptions

_MOST_UNCLUSTERED = 0.5
_JUDGED_ABOVE = 1_000  # rows; fewer have few clusters


@dataclass(frozen=True)
class LabelDetails:
    """shards: by shard, hash of the clusters of its rows. clusters: by space, how many of each level, coarse ones
    first. unclustered: by space, share of the rows that are in none. kept: by space, clusters that were there before.
    seconds: of finding them, by space."""

    shards: dict[str, str] = field(default_factory=dict)
    clusters: dict[str, list[int]] = field(default_factory=dict)
    unclustered: dict[str, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def make_labels(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Cluster the maps and name the clusters; those that were there before keep their ids."""
    from latent_assets.atlas.labels.build import make_labels as make

    profile, wanted = lineage.profile, recipes["atlas_labels"].fingerprint
    before = lineage.manifests.get("atlas_labels")
    report = make(
        lineage.storage,
        wanted,
        lineage.manifest("umap_model").fingerprint,
        lineage.shards(),
        profile.projection.spaces,
        before.fingerprint if before is not None else None,
        profile.labels.boilerplate,
    )
    return {"atlas_labels": label_output(lineage, wanted, report)}


def label_output(lineage: Lineage, made: str, report: LabelReport) -> Output:
    """What was made under the fingerprint `made`, with what its checks find and its picture."""
    details = LabelDetails(report.shards, report.clusters, report.unclustered, report.kept, report.seconds)
    findings = _findings(lineage, made, report.rows, details)
    pictures = {"map": label_picture(lineage, made)} if report.rows else {}
    return Output(fingerprint(made, report.version), report.rows, report.files, details, findings, pictures)


def label_picture(lineage: Lineage, made: str) -> bytes:
    """The maps with their labels; at most 20,000 rows."""
    from latent_assets.atlas.labels.picture import labels_picture

    projection = lineage.manifest("umap_model").fingerprint
    return labels_picture(lineage.storage, made, projection, lineage.shards(), lineage.profile.projection.spaces)


def judge_labels(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the labels can be read, fit together and cover the rows that have coordinates."""
    return _findings(lineage, manifest.fingerprint, manifest.rows, lineage.details(manifest))


def _findings(lineage: Lineage, made: str, rows: int, details: LabelDetails) -> list[Finding]:
    from latent_assets.atlas.labels.checks import label_problems

    storage, spaces = lineage.storage, lineage.profile.projection.spaces
    problems = label_problems(storage, made, lineage.shards(), spaces)
    placed = sum(lineage.manifests.all("umap_projection")[shard].rows for shard in lineage.shards())
    if "rows" not in problems and rows != placed:
        problems["rows"] = f"{rows} rows have a cluster or none, {placed} have coordinates"
    loose = {name: share for name, share in details.unclustered.items() if share > _MOST_UNCLUSTERED}
    judged = rows >= _JUDGED_ABOVE
    found = ", ".join(f"{name}: {share:.0%} in no cluster" for name, share in loose.items())
    facts = {f"unclustered {name}": share for name, share in details.unclustered.items()}
    return [
        Finding("labels_fit_together", "labels" not in problems, problems.get("labels", "")),
        Finding("labels_for_every_row", "rows" not in problems, problems.get("rows", ""), {"rows": rows}),
        Finding("most_rows_clustered", not (judged and loose), found if judged else "", facts),
    ]


def describe_labels(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the labels, and the names of the largest."""
    from latent_assets.atlas.labels.store import read_labels

    details: LabelDetails = lineage.details(manifest)
    facts: dict[str, Any] = {}
    labels = read_labels(lineage.storage, manifest.fingerprint)
    for space, counts in details.clusters.items():
        facts[f"{space}: clusters"] = " / ".join(map(str, counts))
        facts[f"{space}: in no cluster"] = f"{details.unclustered[space]:.1%}"
        if space in details.kept:
            facts[f"{space}: clusters of before"] = details.kept[space]
        coarse = [label for label in labels[space].labels if label.parent is None][:12]
        facts[f"{space}: largest"] = [("label", "images"), *((label.name, f"{label.rows:,}") for label in coarse)]
    return facts
