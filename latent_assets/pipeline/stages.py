"""THE table of stages: every asset, what it is made from, what decides it, and the functions that make it.

Assets, fingerprints, `status`, the build order, checks and verification are derived from these rows; a stage is added
here and nowhere else. How one is made is in `makers`, named as "module:function" so that nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_assets import spaces
from latent_assets.profile import HOW_STORED, Profile
from latent_assets.spaces import Embedding, resolve

GROUPS = ("sources", "catalog", "images", "embeddings", "projection", "atlas", "generated")


@dataclass(frozen=True)
class Check:
    """A statement about one artefact. What a failed one is about is never committed, unless it only warns."""

    name: str
    description: str
    warns: bool = False


@dataclass(frozen=True)
class Finding:
    """What a check found in one artefact. `facts`: figures behind it, by name."""

    check: str
    passed: bool
    found: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """What a source or a model is now: its data version, and facts about it by name."""

    version: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What a stage made: the data version others depend on, its rows, its files (storage names), details for the
    manifest, what its checks found, and pictures (PNG or WebP by name) for whoever looks."""

    version: str
    rows: int
    files: Sequence[str] = ()
    details: Any = None
    findings: Sequence[Finding] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)


class Columns(list[tuple[str, str, bool, str]]):
    """Columns of a table, as a fact: (name, type, nullable, what it means)."""


@dataclass(frozen=True)
class Source:
    """What the atlas is made from but does not make. observe: (profile, storage) -> Observed, as "module:function"."""

    name: str
    observe: Callable[..., Observed]
    description: str
    kinds: frozenset[str]
    needed: bool = True
    group: str = "sources"


@dataclass(frozen=True)
class Stage:
    """One asset.

    parents: stages, models and sources that it reads. settings: profile -> the values that decide it, by key; cheap.
    inputs: (profile) -> what only the machine that makes it knows; None for nothing. maker: makes one artefact (see
    `makers`). judge: reads one artefact and says what its checks find. describe: details -> facts for whoever looks.
    batch: stages that one pass makes together share a name. slices: its data version for a shard is that shard's own.
    pool: what it needs that should not be used by many runs at once. opens: (lineage, manifest) -> what keeps it from
    being opened, "" for nothing; for what is more than its files. pins: (lineage, before) -> inputs that are settled
    when an artefact is made and stay with it, whatever becomes of them; `before`: those of one that is made again.
    """

    name: str
    group: str
    sharded: bool
    parents: tuple[str, ...]
    revision: int
    settings: Callable[[Profile], dict[str, Any]]
    description: str
    kinds: frozenset[str]
    checks: tuple[Check, ...]
    maker: str
    judge: str
    describe: str
    details: str
    batch: str
    pool: str
    inputs: Callable[[Profile], dict[str, Any]] | None = None
    slices: bool = False
    per_run: int | None = None
    opens: str | None = None
    pins: str | None = None

    def check(self, name: str) -> Check:
        """One of its checks by name."""
        return next(check for check in self.checks if check.name == name)


_MAKERS = "latent_assets.pipeline.makers"


def _section(profile: Profile, name: str, include: set[str] | None = None, exclude: set[str] | None = None) -> Any:
    """A table of the profile as {"name.key": value}."""
    values = getattr(profile, name).model_dump(mode="json", include=include, exclude=exclude)
    return {f"{name}.{key}": value for key, value in values.items()}


_FETCHED = {
    *HOW_STORED,
    # what decides outcomes: rows that a changed one would decide otherwise are asked again
    *("max_bytes", "max_pixels", "max_redirects", "timeout", "robots", "respect_opt_out", "allow_origins"),
}
_RETENTION = {"keep", "keep_days"}  # what is kept beside a release decides nothing in it
_THUMBNAIL = {"thumbnail_size", "thumbnail_format", "thumbnail_quality"}


def _nothing(profile: Profile) -> dict[str, Any]:
    return {}


def _catalog_settings(profile: Profile) -> dict[str, Any]:
    return {
        **_section(profile, "source"),
        **_section(profile, "filters"),
        **_section(profile, "shards", exclude={"per_run"}),
    }


def _removal_lists(profile: Profile) -> dict[str, Any]:
    digests: dict[str, Any] = resolve(f"{_MAKERS}.catalog:removal_digests")(profile)
    return digests


def _backend(profile: Profile) -> dict[str, Any]:
    return {"backend": resolve("latent_assets.projection.backend:choose_backend")(profile.projection).name}


def sources_of(profile: Profile) -> dict[str, Source]:
    """The sources and models of a profile, by name."""
    rows = [
        Source(
            "laion_source",
            resolve_later(f"{_MAKERS}.sources:observe_list"),
            "The list of images as found: files of links with captions and scores, tars, or a folder.",
            frozenset({"parquet"}),
        )
    ]
    for row in sorted(profile.embeddings, key=lambda row: row.name):
        rows.append(
            Source(
                row.source,
                resolve_later(f"{_MAKERS}.sources:observe_model", row.name),
                f"{row.model_description} The data version is the SHA-256 over its configuration and weights.",
                row.kinds,
            )
        )
    if profile.models.diffusion is not None:
        rows.append(
            Source(
                "diffusion_model",
                resolve_later(f"{_MAKERS}.sources:observe_diffusion"),
                "Text-to-image pipeline that makes new images. The data version is the SHA-256 over its configuration "
                "and weights.",
                frozenset({"pytorch", "diffusers"}),
                needed=False,  # nothing of the atlas is made from it
            )
        )
    return {row.name: row for row in rows}


def resolve_later(reference: str, *first: Any) -> Callable[..., Any]:
    """A function that is imported when it is called; `first` are its first arguments."""

    def call(*arguments: Any) -> Any:
        return resolve(reference)(*first, *arguments)

    return call


def stages_of(profile: Profile) -> dict[str, Stage]:
    """The stages of a profile in build order, by name."""
    rows = profile.embeddings
    vectors = tuple(row.stage for row in rows)
    encoded = (*vectors, "thumbnails")
    fetch, projection = profile.fetch, profile.projection
    stages = [
        Stage(
            name="laion_metadata",
            group="catalog",
            sharded=False,
            parents=("laion_source",),
            revision=3,
            settings=_catalog_settings,
            inputs=_removal_lists,
            slices=True,
            description="The cleaned list: columns cast, filters and removal lists applied, duplicate links collapsed, "
            "rows assigned to shards. Every dropped row is counted by reason. Registers the shard partitions.",
            kinds=frozenset({"polars", "parquet"}),
            checks=(Check("rows_accounted_for", "Rows read = rows kept + rows dropped, reason by reason."),),
            maker=f"{_MAKERS}.catalog:make_metadata",
            judge=f"{_MAKERS}.catalog:judge_metadata",
            describe=f"{_MAKERS}.catalog:describe_metadata",
            details=f"{_MAKERS}.catalog:MetadataDetails",
            batch="laion_metadata",
            pool="whole",
        ),
        Stage(
            name="shard_catalog",
            group="catalog",
            sharded=True,
            parents=("laion_metadata",),
            revision=2,
            settings=_nothing,
            description="One shard of the catalog: id, link, caption and scores of its rows. The data version is the "
            "hash of the rows, so a shard that did not change leaves everything after it alone.",
            kinds=frozenset({"polars", "parquet"}),
            checks=(
                Check("ids_unique", "No image id occurs twice in a shard."),
                Check("rows_as_assigned", "The shard holds the rows that laion_metadata assigned to it, unaltered."),
            ),
            maker=f"{_MAKERS}.catalog:make_shard",
            judge=f"{_MAKERS}.catalog:judge_shard",
            describe=f"{_MAKERS}.catalog:describe_shard",
            details=f"{_MAKERS}.catalog:ShardDetails",
            batch="shard_catalog",
            pool="catalog",
            per_run=1_000,  # a file is read and hashed: too little for a process of its own
        ),
        Stage(
            name="image_shards",
            group="images",
            sharded=True,
            parents=("shard_catalog",),
            revision=3,
            settings=lambda chosen: _section(chosen, "fetch", include=_FETCHED),
            description="Downloaded images of a shard as WebDataset tars, and a ledger with one outcome for every row "
            "of the catalog. Resumes by row. The data version is the hash of the images that are there.",
            kinds=frozenset({"aiohttp", "webdataset"}),
            checks=(
                Check("success_rate", f"At least {fetch.min_success:.0%} of the rows have an image."),
                Check("few_links_lost", f"At least {fetch.warn_success:.0%} of the rows have an image.", warns=True),
                Check("every_row_accounted_for", "The ledger has one outcome for every row of the catalog."),
                Check("tars_readable", "Every image that the ledger lists can be read from the tars."),
            ),
            maker=f"{_MAKERS}.images:make_images",
            judge=f"{_MAKERS}.images:judge_images",
            describe=f"{_MAKERS}.images:describe_images",
            details=f"{_MAKERS}.images:ImageDetails",
            batch="image_shards",
            pool="fetch",
        ),
        *(_embedding_stage(row) for row in rows),
        Stage(
            name="thumbnails",
            group="embeddings",
            sharded=True,
            parents=("image_shards",),
            revision=2,
            settings=lambda chosen: _section(chosen, "table", include=_THUMBNAIL),
            description="Small pictures of the shard's images, made while they are decoded for the models.",
            kinds=frozenset({"pillow", "arrow"}),
            checks=(
                Check("thumbnails_rows", "One thumbnail for every image of the shard that can be decoded."),
                Check("thumbnails_values", "Thumbnails decode and are no larger than asked."),
            ),
            maker=f"{_MAKERS}.embeddings:make_embeddings",
            judge=f"{_MAKERS}.embeddings:judge_thumbnails",
            describe=f"{_MAKERS}.embeddings:describe_thumbnails",
            details=f"{_MAKERS}.embeddings:ThumbnailDetails",
            batch="embeddings",
            pool="models",
        ),
        Stage(
            name="embedding_manifest",
            group="embeddings",
            sharded=False,
            parents=(*vectors, "image_shards"),
            revision=2,
            settings=_nothing,
            description="All shards' embeddings as one data version, and which of their features stand for them on the "
            "maps. Dagster does not compute staleness across an edge of 100 or more partitions; what depends on all "
            "shards depends on this instead. Names shards that are missing.",
            kinds=frozenset({"json"}),
            checks=(
                Check("rows_carried", "As many rows as images were fetched, apart from those that do not decode."),
            ),
            maker=f"{_MAKERS}.embeddings:make_manifest",
            judge=f"{_MAKERS}.embeddings:judge_manifest",
            describe=f"{_MAKERS}.embeddings:describe_manifest",
            details=f"{_MAKERS}.embeddings:ManifestDetails",
            batch="embedding_manifest",
            pool="whole",
        ),
        Stage(
            name="umap_model",
            group="projection",
            sharded=False,
            parents=("embedding_manifest",),
            revision=3,
            settings=lambda chosen: _section(chosen, "projection", exclude={"limits"}),
            inputs=_backend,
            pins=f"{_MAKERS}.projection:release_to_continue",
            description=f"UMAP to 3D of the spaces {', '.join(projection.spaces)}, fitted on all rows, or on landmarks "
            "of many, with its quality on a fixed probe set. Continues the maps of the release that readers see. cuML "
            "on a GPU, umap-learn without.",
            kinds=frozenset({"umap"}),
            checks=(
                Check("map_finite", "Every coordinate of the fit is finite."),
                Check(
                    "map_keeps_neighbours",
                    "Each map is as faithful as `[projection.limits]` asks, for rows that were "
                    "fitted and for rows that were placed.",
                ),
                Check(
                    "map_stays",
                    "Rows that the release before has lie where they lay, but for what chance moves: "
                    f"{projection.limits.max_drift:.0%} of the diameter and {projection.limits.max_drift_over_floor:g} "
                    "times the noise floor (median) at most.",
                    warns=True,
                ),
            ),
            maker=f"{_MAKERS}.projection:make_model",
            judge=f"{_MAKERS}.projection:judge_model",
            describe=f"{_MAKERS}.projection:describe_model",
            details=f"{_MAKERS}.projection:ModelDetails",
            batch="umap_model",
            pool="whole",
        ),
        Stage(
            name="umap_projection",
            group="projection",
            sharded=True,
            parents=("umap_model", *vectors),
            revision=3,
            settings=_nothing,
            description="3D coordinates of every row of a shard in every space: the fit's own for rows it was fitted "
            "on, placed among their nearest fitted rows for the others.",
            kinds=frozenset({"umap", "parquet"}),
            checks=(
                Check("coordinates_finite", "Every coordinate is finite."),
                Check("coordinates_for_every_row", "As many rows as the shard's embeddings."),
            ),
            maker=f"{_MAKERS}.projection:make_coordinates",
            judge=f"{_MAKERS}.projection:judge_coordinates",
            describe=f"{_MAKERS}.projection:describe_coordinates",
            details=f"{_MAKERS}.projection:CoordinateDetails",
            batch="umap_projection",
            pool="projection",
        ),
        Stage(
            name="atlas_table",
            group="atlas",
            sharded=False,
            parents=(
                *("laion_metadata", "shard_catalog", "image_shards", *encoded),
                *("embedding_manifest", "umap_model", "umap_projection"),
            ),
            revision=3,
            settings=lambda chosen: {
                **_section(chosen, "table", exclude=_THUMBNAIL | _RETENTION),
                "title": chosen.title,
                "attribution": chosen.attribution,
            },
            description="The LanceDB table `atlas`: one row per image with its link, caption, scores, thumbnail, "
            "vectors and coordinates. Staged as a new version, checked, then published by moving the tag `live`: "
            "readers see the old release or the new one.",
            kinds=frozenset({"lancedb"}),
            checks=(
                Check(
                    "checks_passed",
                    "The release passed every check (rows, unique ids, finite values, unit length, thumbnails, a "
                    "search) before the tag `live` was moved to it.",
                ),
                Check("rows_carried", "As many rows as have coordinates in all shards."),
            ),
            maker=f"{_MAKERS}.atlas:make_table",
            judge=f"{_MAKERS}.atlas:judge_table",
            describe=f"{_MAKERS}.atlas:describe_table",
            details=f"{_MAKERS}.atlas:TableDetails",
            batch="atlas_table",
            pool="whole",
            opens=f"{_MAKERS}.atlas:unopened",
        ),
        Stage(
            name="atlas_tiles",
            group="atlas",
            sharded=False,
            parents=("atlas_table",),
            revision=1,
            settings=_nothing,
            description="What the viewer reads: for every space an octree of the release's points, columns to colour "
            "and filter by, and the thumbnails. Static files for any web server or S3; a set per release.",
            kinds=frozenset({"numpy"}),
            checks=(
                Check("every_row_once", "Every row of the release is in the octree of every space exactly once."),
                Check("sprites_of_this_release", "Every thumbnail is that of the image whose row it stands for."),
            ),
            maker=f"{_MAKERS}.tiles:make_tiles",
            judge=f"{_MAKERS}.tiles:judge_tiles",
            describe=f"{_MAKERS}.tiles:describe_tiles",
            details=f"{_MAKERS}.tiles:TileDetails",
            batch="atlas_tiles",
            pool="whole",
        ),
        Stage(
            name="placement_calibration",
            group="generated",
            sharded=False,
            parents=("umap_model", "atlas_table"),
            revision=2,
            settings=_nothing,
            description="What is usual between real images of the release: how far held-out images are from fitted "
            "ones, in every space. A generated image is held against it: close, as usual, or like nothing here.",
            kinds=frozenset({"numpy", "safetensors"}),
            checks=(
                Check("calibration_sound", "Distances are finite and those that were measured, for every space."),
                Check("calibration_possible", "Enough images were held out to calibrate by.", warns=True),
            ),
            maker=f"{_MAKERS}.generated:make_calibration",
            judge=f"{_MAKERS}.generated:judge_calibration",
            describe=f"{_MAKERS}.generated:describe_calibration",
            details=f"{_MAKERS}.generated:CalibrationDetails",
            batch="placement_calibration",
            pool="whole",
        ),
    ]
    return {stage.name: stage for stage in stages}


def _embedding_stage(row: Embedding) -> Stage:
    """The stage of a row of the table of embeddings."""
    values = "All values are finite, all vectors have unit length." if row.unit else "All values are finite."
    return Stage(
        name=row.stage,
        group="embeddings",
        sharded=True,
        parents=("image_shards", row.source),
        revision=row.revision,
        settings=lambda profile: {
            f"models.{row.name}.{key}": value
            for key, value in profile.models.of(row.name).model_dump(mode="json", include=set(row.decides)).items()
        },
        inputs=lambda profile: resolve(f"{_MAKERS}.embeddings:number_format")(profile, row.name),
        description=row.stage_description,
        kinds=row.kinds | {"arrow"},
        checks=(
            Check(f"{row.stage}_rows", "One row for every image of the shard that can be decoded."),
            Check(f"{row.stage}_values", values),
        ),
        maker=f"{_MAKERS}.embeddings:make_embeddings",
        judge=f"{_MAKERS}.embeddings:judge_embedding",
        describe=f"{_MAKERS}.embeddings:describe_embedding",
        details=f"{_MAKERS}.embeddings:EmbeddingDetails",
        batch="embeddings",
        pool="models",
    )


def embedding_of(stage: str) -> Embedding:
    """The row of the table of embeddings that a stage is made from."""
    return next(row for row in spaces.embeddings().values() if row.stage == stage)
