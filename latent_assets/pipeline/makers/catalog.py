"""The catalog group: the cleaned list, and its shards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.errors import SourceError
from latent_assets.layout import CATALOG
from latent_assets.pipeline.manifests import WHOLE, Manifest, Recipe
from latent_assets.pipeline.ownership import named, owner_of, source_of, take_root
from latent_assets.pipeline.stages import Columns, Finding, Output

if TYPE_CHECKING:
    from latent_assets.catalog.build import RowsWouldGoError
    from latent_assets.pipeline.lineage import Lineage, MakeOptions
    from latent_assets.profile import Profile


@dataclass(frozen=True)
class MetadataDetails:
    """shards: [rows, hash] by key. funnel: [reason, rows dropped] in the order the rules apply.

    mended: shards whose file was missing or damaged and was written again. notes: sentences about what was met in the
    source besides its rows.
    """

    shards: dict[str, Sequence[Any]] = field(default_factory=dict)
    funnel: Sequence[Sequence[Any]] = ()
    rows_read: int = 0
    bytes: int = 0
    path: str = ""
    mended: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ShardDetails:
    """captioned: rows with a caption. hosts: rows by host, the ten most frequent."""

    captioned: int = 0
    hosts: dict[str, int] = field(default_factory=dict)


def removal_digests(profile: Profile) -> dict[str, Any]:
    """Digests of the removal lists: their content counts, not their names. Raises SourceError for an unreadable one."""
    from latent_assets.catalog.source import read_range

    digests = []
    for path in profile.filters.remove:
        try:
            digests.append(hashlib.sha256(read_range(path, 0, -1)).hexdigest())
        except OSError as error:
            raise SourceError(
                f"filters.remove: {path} cannot be read ({error.strerror or error}). Correct the path: nothing is "
                "fetched without its removal lists."
            ) from error
    return {"removal lists": digests}


def make_metadata(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Bring the catalog up to date with the list of images, if it is that of the source which the root belongs to."""
    from latent_assets.catalog.build import RowsWouldGoError, build_catalog
    from latent_assets.layout import catalog_name

    owner = owner_of(lineage.storage, lineage.manifests.get("laion_metadata"))
    mine = source_of(lineage.profile)
    if owner is None:
        take_root(lineage.storage, lineage.profile)
    try:
        report = build_catalog(lineage.profile, lineage.storage, keep=owner is not None and owner != mine)
    except RowsWouldGoError as error:
        assert owner is not None
        raise _of_another_source(lineage, owner, error) from error
    if owner != mine:
        take_root(lineage.storage, lineage.profile)
    details = MetadataDetails(
        shards={shard: [entry.rows, entry.hash] for shard, entry in report.shards.items()},
        funnel=[list(step) for step in report.funnel],
        rows_read=report.rows_read,
        bytes=report.bytes,
        path=str(lineage.observed("laion_source").facts.get("path", "")),
        mended=list(report.mended),
        notes=list(report.notes),
    )
    files = [catalog_name(shard) for shard in report.shards]
    pictures = _pictures(lineage, details, report.rows_kept)
    output = Output(report.version, report.rows_kept, files, details, pictures=pictures)
    return {"laion_metadata": output}


def _of_another_source(lineage: Lineage, owner: Mapping[str, Any], found: RowsWouldGoError) -> SourceError:
    """The refusal to replace the source of a root: what would go, and what to do."""
    images = lineage.manifests.all("image_shards").values()
    count, size = sum(shard.rows for shard in images), sum(int(shard.details.get("bytes", 0)) for shard in images)
    profile = lineage.profile
    return SourceError(
        f"{profile.root} belongs to another source, {named(owner)}. With {named(source_of(profile))}, {found.gone:,} "
        f"of its {found.stored:,} rows would go, with their images ({count:,} are there, {size / 1e6:,.1f} MB) and "
        "what is made of them. Give this profile a root of its own (`root`, or another `name`), or say that the source "
        "is to be replaced: `latent-assets build --replace-source`."
    )


def judge_metadata(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the funnel adds up."""
    details: MetadataDetails = lineage.details(manifest)
    dropped = sum(count for _, count in details.funnel)
    kept = sum(rows for rows, _ in details.shards.values())
    accounted = details.rows_read == kept + dropped and kept == manifest.rows
    facts = {"read": details.rows_read, "kept": kept, "dropped": dropped}
    found = "" if accounted else f"{details.rows_read} rows read, {kept} kept, {dropped} dropped"
    return [Finding("rows_accounted_for", accounted, found, facts)]


def describe_metadata(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the catalog, and its columns."""
    from latent_assets.catalog.schema import CATALOG_SCHEMA, COLUMN_MEANING, NEVER_NULL

    details: MetadataDetails = lineage.details(manifest)
    columns = [(name, str(kind), name not in NEVER_NULL, COLUMN_MEANING[name]) for name, kind in CATALOG_SCHEMA.items()]
    mended = {"shards written again, damaged": ", ".join(details.mended)} if details.mended else {}
    notes = {"noted in the source": "\n".join(f"- {note}" for note in details.notes)} if details.notes else {}
    return (
        mended
        | {
            "dagster/uri": lineage.storage.uri(CATALOG),
            "dagster/column_schema": Columns(columns),
            "source": details.path,
            "shards": len(details.shards),
            "rows read": details.rows_read,
            "rows/s": round(details.rows_read / max(manifest.seconds, 1e-9), 1),
            "dropped, by reason": [("step", "rows"), *((reason, f"{count:,}") for reason, count in details.funnel)],
        }
        | notes
    )


def _pictures(lineage: Lineage, details: MetadataDetails, kept: int) -> dict[str, bytes]:
    """The funnel, and distributions of sizes, scores and caption lengths over the first shards, random samples all."""
    import polars as pl

    from latent_assets.catalog.funnel_chart import funnel_chart
    from latent_assets.catalog.shards import read_shard
    from latent_assets.plots import histogram_picture

    pictures = {"funnel": funnel_chart(details.rows_read, details.funnel, kept)}
    frames = [read_shard(lineage.storage, shard) for shard in sorted(details.shards)[:4]]
    rows = pl.concat(frames) if frames else pl.DataFrame()
    values: dict[str, Any] = {
        name: rows[name].cast(pl.Float64).to_numpy()
        for name in ("width", "height", "aesthetic", "similarity", "punsafe")
        if name in rows.columns and rows[name].is_not_null().any()
    }
    if "caption" in rows.columns and rows.height:
        values["caption length"] = rows["caption"].str.len_chars().cast(pl.Float64).to_numpy()
    histograms = histogram_picture(values, {"width": "px", "height": "px", "caption length": "characters"})
    return pictures | ({"histograms": histograms} if histograms else {})


def make_shard(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Take over a shard as `laion_metadata` wrote it."""
    from latent_assets.catalog.shards import read_shard
    from latent_assets.layout import catalog_name

    rows, digest = _assigned(lineage, key)
    problems = _problems(lineage, key)
    if problems:
        # the file is the catalog's to write: it is due again
        lineage.note_damage("shard_catalog", key, "; ".join(problems.values()))
        findings = [Finding(check, False, found) for check, found in problems.items()]
        return {"shard_catalog": Output(digest, rows, (), ShardDetails(), findings)}
    frame = read_shard(lineage.storage, key)
    hosts = frame["url"].str.extract(r"^\w+://([^/:]+)", 1).value_counts(sort=True).head(10) if frame.height else None
    details = ShardDetails(
        captioned=int(frame["caption"].is_not_null().sum()),
        hosts={} if hosts is None else {str(host): int(count) for host, count in hosts.iter_rows()},
    )
    findings = [Finding(check, True, "", {"rows": rows}) for check in ("ids_unique", "rows_as_assigned")]
    return {"shard_catalog": Output(digest, rows, [catalog_name(key)], details, findings)}


def judge_shard(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether a shard holds the rows that were assigned to it."""
    problems = _problems(lineage, manifest.key)
    checks = ("ids_unique", "rows_as_assigned")
    return [Finding(check, check not in problems, problems.get(check, ""), {"rows": manifest.rows}) for check in checks]


def describe_shard(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of a shard."""
    details: ShardDetails = lineage.details(manifest)
    return {"captioned rows": details.captioned, "hosts, most frequent": details.hosts}


def _assigned(lineage: Lineage, shard: str) -> tuple[int, str]:
    details: MetadataDetails = lineage.details(lineage.manifest("laion_metadata", WHOLE))
    rows, digest = details.shards[shard]
    return rows, digest


def _problems(lineage: Lineage, shard: str) -> dict[str, str]:
    """What is wrong with the file of a shard."""
    from latent_assets.catalog.shards import catalog_problems

    rows, digest = _assigned(lineage, shard)
    return catalog_problems(lineage.storage, shard, rows, digest)
