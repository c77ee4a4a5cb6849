"""The atlas group: the LanceDB table that readers see, staged, checked and then published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from latent_assets import progress
from latent_assets.pipeline.makers.embeddings import places
from latent_assets.pipeline.manifests import WHOLE, Manifest, Recipe
from latent_assets.pipeline.stages import Columns, Finding, Output
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.atlas.checks import Check as ReleaseCheck
    from latent_assets.atlas.rows import ShardContent
    from latent_assets.pipeline.lineage import Lineage, MakeOptions
    from latent_assets.spaces import Embedding
    from latent_assets.storage import Storage


@dataclass(frozen=True)
class TableDetails:
    """checks: name, found and expected of every check of the release. written: bytes of new data files, for shards
    whose rows were `rewritten` or only `moved` on the map. freed: bytes of versions that were dropped. copies: rows
    whose file another row has, too (`copied_rows`); None where they were not counted. search: `ReleaseInfo.search`.
    """

    uri: str = ""
    tag: str = ""
    version: int = 0
    replaced: int | None = None
    indexed: bool = False
    written: int = 0
    rewritten: int = 0
    moved: int = 0
    freed: int = 0
    copies: int | None = None
    checks: Sequence[Mapping[str, Any]] = ()
    search: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def make_table(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Stage, check and publish. With a failed check nothing is published and the release before stays live."""
    from latent_assets.atlas.card import ModelInfo, describe_release
    from latent_assets.atlas.checks import check
    from latent_assets.atlas.copies import copied_rows
    from latent_assets.atlas.indexes import release_files
    from latent_assets.atlas.pictures import release_pictures
    from latent_assets.atlas.release import prune, publish, stage
    from latent_assets.atlas.table import flush_table

    profile, storage, wanted = lineage.profile, lineage.storage, recipes["atlas_table"].fingerprint
    _recover(storage)
    models = {}
    for row in profile.embeddings:
        observed = lineage.observed(row.source)
        spec = profile.models.of(row.name).model_dump(mode="json")
        models[row.name] = ModelInfo(str(observed.facts["model"]), observed.version, spec, _arithmetic(lineage, row))
    projection, labels = lineage.manifest("umap_model").fingerprint, lineage.manifest("atlas_labels").fingerprint
    info = describe_release(profile, storage, lineage.shards(), projection, wanted, models, labels)
    staged = stage(profile, storage, _contents(lineage), info, anew=options.force or options.mend)
    # a list whose last image was taken down is a release without rows, and not the release before
    checks = check(profile, storage, staged, empty=info.rows == 0)
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
        written=staged.written,
        rewritten=staged.rewritten,
        moved=staged.moved,
        freed=prune(storage, profile.table.keep, timedelta(days=profile.table.keep_days)),
        copies=copied_rows(storage.lance_uri, published.version),
        search=staged.release.search,
        checks=[{"name": c.name, "found": c.found, "expected": c.expected} for c in checks],
    )
    files = release_files(storage, published.version)
    findings = [_passed(checks), _carried(lineage, info.rows)]
    pictures = release_pictures(storage.lance_uri, published.version)
    flush_table(storage.lance_uri)
    return {"atlas_table": Output(wanted, info.rows, files, details, findings, pictures)}


def _arithmetic(lineage: Lineage, row: Embedding) -> dict[str, Any]:
    """Number format and device of an embedding's vectors, as its shards say: one under one fingerprint."""
    from latent_assets.models.precision import arithmetic

    made = [lineage.details(each) for each in lineage.manifests.all(row.stage).values()]
    facts: dict[str, Any] = {
        "dtype": ", ".join(sorted({each.dtype for each in made})),
        "device": ", ".join(sorted({each.device for each in made})),
    }
    agreement = arithmetic(row.name, lineage.profile.models.of(row.name)).agreement
    return facts | ({"agreement": asdict(agreement)} if agreement is not None else {})


def recover_table(lineage: Lineage) -> None:
    """Have readers see a release that opens, if there is one, before anything else is made; says what was done."""
    if lineage.manifests.get("atlas_table") is not None:
        with lineage.claims.holding(f"{lineage.stages['atlas_table'].batch}/{WHOLE}"):
            _recover(lineage.storage)


def _recover(storage: Storage) -> None:
    from latent_assets.atlas.recovery import recover

    if said := recover(storage):
        progress.tell("atlas_table", said)


def unopened(lineage: Lineage, manifest: Manifest) -> str:
    """Why the version of a release that was published does not open, or what readers see does not; "" when both do."""
    from latent_assets.atlas.recovery import problem_of

    return problem_of(lineage.storage, lineage.details(manifest).version)


def _contents(lineage: Lineage) -> list[ShardContent]:
    """Every shard with the versions of what its rows and its places are made from."""
    from latent_assets.atlas.rows import ShardContent

    places_of = lineage.manifests.all("umap_projection")
    clusters_of = lineage.details(lineage.manifest("atlas_labels")).shards
    parents = [name for name, stage in lineage.stages.items() if stage.sharded and name != "umap_projection"]
    rows_of = {name: lineage.manifests.all(name) for name in parents}
    return [
        ShardContent(
            shard,
            fingerprint([rows_of[name][shard].version for name in parents]),
            fingerprint(places_of[shard].version, clusters_of[shard]),
            places(lineage, shard),
        )
        for shard in lineage.shards()
    ]


def judge_table(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the release that readers see is whole and passes its checks."""
    from latent_assets.atlas.checks import check_live

    return [_passed(check_live(lineage.profile, lineage.storage)), _carried(lineage, manifest.rows)]


def _passed(checks: Sequence[ReleaseCheck]) -> Finding:
    failed = [f"{c.name}: found {c.found}, expected {c.expected}" for c in checks if not c.passed]
    facts = {c.name: f"found {c.found}, expected {c.expected}" for c in checks}
    return Finding("checks_passed", not failed, "; ".join(failed), facts)


def _carried(lineage: Lineage, rows: int) -> Finding:
    shards = set(lineage.shards())
    placed = sum(m.rows for key, m in lineage.manifests.all("umap_projection").items() if key in shards)
    found = "" if placed == rows else f"{rows} rows in the table, {placed} with coordinates"
    return Finding("rows_carried", placed == rows, found, {"rows": rows, "rows with coordinates": placed})


def describe_table(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the release."""
    from latent_assets.atlas.schema import fields_of

    details: TableDetails = lineage.details(manifest)
    dims = {row.name: 0 for row in lineage.profile.embeddings}
    fields = fields_of(dims, lineage.profile.projection.spaces, lineage.profile.table.vectors, labels=True)
    return {
        "dagster/uri": details.uri,
        "dagster/table_name": f"{lineage.profile.name}.atlas",
        "dagster/column_schema": Columns([(f.name, f.type_text, f.nullable, f.description) for f in fields]),
        "release": f"{details.tag} (tag live)",
        "searched": [
            ("vectors", "index", "lists", "looked through", "recall of the ten nearest"),
            *((name, one["index"], one["lists"], one["probes"], one["recall"]) for name, one in details.search.items()),
        ]
        if details.search
        else "exactly",
        "copies of other rows (SHA-256)": "not counted" if details.copies is None else details.copies,
        "bytes written": details.written,
        "shards rewritten": details.rewritten,
        "shards moved": details.moved,
        "checks": [("check", "found", "expected"), *((c["name"], c["found"], c["expected"]) for c in details.checks)],
    }
