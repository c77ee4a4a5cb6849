"""The atlas group: the LanceDB table that readers see, staged, checked and then published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Columns, Finding, Output

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions


@dataclass(frozen=True)
class TableDetails:
    """checks: name, passed, found and expected of every check of the release. freed: bytes of versions dropped."""

    uri: str = ""
    tag: str = ""
    version: int = 0
    replaced: int | None = None
    indexed: bool = False
    freed: int = 0
    checks: Sequence[Mapping[str, Any]] = ()


def make_table(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Stage, check and publish. With a failed check nothing is published and the release before stays live."""
    from latent_assets.atlas.checks import check
    from latent_assets.atlas.pictures import release_pictures
    from latent_assets.atlas.release import ModelInfo, describe_release
    from latent_assets.atlas.table import clean, publish, stage
    from latent_assets.pipeline.makers.old import places

    profile, storage, wanted = lineage.profile, lineage.storage, recipes["atlas_table"].fingerprint
    models = {}
    for row in profile.embeddings:
        observed = lineage.observed(row.source)
        spec = profile.models.of(row.name).model_dump(mode="json")
        models[row.name] = ModelInfo(str(observed.facts["model"]), observed.version, spec)
    projection = lineage.manifest("umap_model")
    shards = lineage.shards()
    info = describe_release(profile, storage, shards, projection.fingerprint, wanted, models)
    staged = stage(profile, storage, [places(lineage, shard) for shard in shards], info)
    checks = check(profile, storage, staged)
    if failed := [c for c in checks if not c.passed]:
        found = "; ".join(f"{c.name}: found {c.found}, expected {c.expected}" for c in failed)
        problem = Finding("checks_passed", False, f"version {staged.version} is not published: {found}")
        return {"atlas_table": Output("", 0, findings=[problem])}
    published = publish(storage, staged, checks)
    details = TableDetails(
        uri=published.uri,
        tag=published.tag,
        version=published.version,
        replaced=published.replaced,
        indexed=staged.indexed,
        freed=clean(storage),
        checks=[{"name": c.name, "passed": bool(c.passed), "found": c.found, "expected": c.expected} for c in checks],
    )
    facts = {c.name: f"found {c.found}, expected {c.expected}" for c in checks}
    findings = [Finding("checks_passed", True, "", facts), _carried(lineage, info.rows)]
    pictures = release_pictures(storage.lance_uri, published.version)
    return {"atlas_table": Output(wanted, info.rows, (), details, findings, pictures)}


def judge_table(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    return [Finding("checks_passed", True), _carried(lineage, manifest.rows)]


def _carried(lineage: Lineage, rows: int) -> Finding:
    shards = set(lineage.shards())
    placed = sum(m.rows for key, m in lineage.manifests.all("umap_projection").items() if key in shards)
    found = "" if placed == rows else f"{rows} rows in the table, {placed} with coordinates"
    return Finding("rows_carried", placed == rows, found, {"rows": rows, "rows with coordinates": placed})


def describe_table(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the release."""
    from latent_assets.atlas.schema import FIELDS

    details: TableDetails = lineage.details(manifest)
    return {
        "dagster/uri": details.uri,
        "dagster/table_name": f"{lineage.profile.name}.atlas",
        "dagster/column_schema": Columns([(f.name, f.type_text, f.nullable, f.description) for f in FIELDS]),
        "release": f"{details.tag} (tag live)",
        "checks": [("check", "found", "expected"), *((c["name"], c["found"], c["expected"]) for c in details.checks)],
    }
