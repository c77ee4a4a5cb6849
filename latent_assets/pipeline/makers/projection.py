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
    from latent_assets.atlas.history import ReleaseSummary
    from latent_assets.pipeline.lineage import Lineage, MakeOptions
    from latent_assets.profile import MapLimits, Profile
    from latent_assets.projection.previous import PreviousMaps

_JUDGED_ABOVE = 100  # rows; below that the measures say little
_LISTED_RELEASES = 10
_SHOWN_MEASURES = ("trustworthiness", "continuity", "recall", "triplets", "far_outliers")
_CONTINUES = "continues"


@dataclass(frozen=True)
class ModelDetails:
    """spaces: projection.fit.SpaceFit as a dict, by space; placement: projection.placement.PlacementFigures likewise.
    unmatched: rows that only some of the models embedded.

    aligned_to: the release whose maps these continue. history: quality of the releases before, the newest first: tag,
    space, measure -> value.
    """

    spaces: dict[str, Any] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    backend: str = ""
    device: str = ""
    bytes: int = 0
    total_rows: int = 0
    unmatched: int = 0
    aligned_to: str | None = None
    history: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True)
class CoordinateDetails:
    """Rows that were in the fit, and rows that were placed."""

    fitted: int = 0
    placed: int = 0
    bytes: int = 0


def release_to_continue(lineage: Lineage, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The release whose maps a fit starts from and is turned onto: the one that readers see, None before the first.

    A fit that is made again continues the release that it continued, while that is there: it is the same fit.
    """
    from latent_assets.atlas.history import releases
    from latent_assets.atlas.table import table_exists

    uri = lineage.storage.lance_uri
    found = releases(uri) if table_exists(uri) else []
    named = {_named(release): release.live for release in found}
    if before is not None and (before[_CONTINUES] is None or before[_CONTINUES] in named):
        return dict(before)
    return {_CONTINUES: next((name for name, live in named.items() if live), None)}


def _named(release: ReleaseSummary) -> str:
    """A release as nothing else is called: by its tag, and by what it was made from."""
    return f"{release.tag} {release.info.fingerprint[:12]}"


def _previous_maps(lineage: Lineage, name: str | None) -> PreviousMaps | None:
    """The places of all rows of the release of that name."""
    import polars as pl

    from latent_assets.atlas.history import releases
    from latent_assets.atlas.table import open_table
    from latent_assets.projection.previous import COLUMN, PreviousMaps

    if name is None:
        return None
    release = next(each for each in releases(lineage.storage.lance_uri) if _named(each) == name)
    columns = ["id", *(f"{COLUMN}{space}" for space in release.info.spaces)]
    table = open_table(lineage.storage.lance_uri, release.version)
    frame = pl.from_arrow(table.search().select(columns).limit(None).to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return PreviousMaps(release.tag, frame)


def make_model(lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions) -> Mapping[str, Output]:
    """Fit all spaces on the embeddings that the manifest lists, as a later state of the maps that readers see."""
    from latent_assets.pipeline.makers.embeddings import places
    from latent_assets.projection.features import FeatureChoice
    from latent_assets.projection.fit import fit_map
    from latent_assets.projection.header import read_header
    from latent_assets.projection.model import model_files

    recipe = recipes["umap_model"]
    wanted, continued = recipe.fingerprint, recipe.inputs[_CONTINUES]
    embedded = lineage.manifest("embedding_manifest")
    shards = [places(lineage, shard) for shard in lineage.shards()]
    chosen = {name: FeatureChoice(**choice) for name, choice in lineage.details(embedded).features.items()}
    previous = _previous_maps(lineage, continued)
    report = fit_map(lineage.profile, lineage.storage, shards, wanted, chosen, previous)
    details = ModelDetails(
        spaces={name: asdict(space) for name, space in report.spaces.items()},
        placement=read_header(lineage.storage, wanted)["placement"],
        backend=report.backend,
        device=report.device,
        bytes=report.bytes,
        total_rows=report.total_rows,
        unmatched=report.unmatched,
        aligned_to=report.aligned_to,
        history=_history(lineage),
    )
    findings = _findings(lineage.profile, details, report.rows)
    pictures = {}
    if findings[0].passed and report.rows:
        pictures["map"] = model_picture(lineage, wanted, details.spaces)
        if previous is not None and report.aligned_to:
            pictures["moves"] = _moves_picture(lineage, wanted, previous)
    # the fit is stored under its fingerprint: another fingerprint is another version, even with the same content
    version = fingerprint(wanted, report.version)
    files = model_files(lineage.storage, wanted)
    return {"umap_model": Output(version, report.rows, files, details, findings, pictures)}


def _history(lineage: Lineage) -> list[list[Any]]:
    """The quality of the releases that are there, the newest first."""
    from latent_assets.atlas.history import releases
    from latent_assets.atlas.table import table_exists

    uri = lineage.storage.lance_uri
    found = releases(uri)[:_LISTED_RELEASES] if table_exists(uri) else []
    return [
        [release.tag, space, {name: value for name, value in measures.items() if isinstance(value, float)}]
        for release in found
        for space, measures in release.info.quality.items()
    ]


def _moves_picture(lineage: Lineage, model_fingerprint: str, previous: PreviousMaps) -> bytes:
    """Each map before and after, the rows that moved most joined to where they were."""
    from latent_assets.plots import moves_picture
    from latent_assets.projection.model import load_model

    model = load_model(lineage.storage, model_fingerprint)
    states = {}
    for space, coords in model.coords.items():
        shared = previous.shared(str(space), model.ids)
        if shared is not None and shared.known.any():
            states[str(space)] = (shared.places[shared.known], coords[shared.known])
    return moves_picture(states, f"Moves since {previous.release}")


def judge_model(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the fitted maps can be read, are finite, and how well they keep neighbours."""
    import numpy as np

    from latent_assets.projection.model import read_model

    details: ModelDetails = lineage.details(manifest)
    judged = _findings(lineage.profile, details, manifest.rows)
    try:
        model = read_model(lineage.storage, manifest.fingerprint)
        broken = [str(space) for space, xyz in model.coords.items() if not np.isfinite(xyz).all()]
        if len(model.ids) != manifest.rows:
            broken.append(f"{len(model.ids)} rows instead of {manifest.rows}")
    except Exception as error:  # whatever the reader makes of damaged bytes
        broken = [f"cannot be read ({type(error).__name__}: {error})"]
    found = f"the fitted maps: {', '.join(broken)}" if broken else ""
    return [Finding("map_finite", not broken, found), *judged[1:]]


def _findings(profile: Profile, details: ModelDetails, rows: int) -> list[Finding]:
    broken = [name for name, space in details.spaces.items() if not _finite(space)]
    limits, judged = profile.projection.limits, rows >= _JUDGED_ABOVE
    poor: list[str] = []
    facts: dict[str, Any] = {}
    for name, space in details.spaces.items():
        for which, quality in (("fitted", space["quality"]), ("placed", space.get("placed"))):
            # a figure is None where there are too few rows to define it
            for measure, (limit, least) in _limits(limits).items():
                value = (quality or {}).get(measure)
                if value is None:
                    continue
                facts[f"{name}, {which} rows: {measure}"] = value
                if judged and (value < limit if least else value > limit):
                    key = f"projection.limits.{'min' if least else 'max'}_{measure}"
                    poor.append(f"{name}, {which} rows: {measure} is {value:.3f}, `{key}` is {limit:g}")
    return [
        Finding("map_finite", not broken, f"{', '.join(broken)}: coordinates that are not finite" if broken else ""),
        Finding("map_keeps_neighbours", not poor, "; ".join(poor), facts),
        _stays(limits, details),
    ]


def _limits(limits: MapLimits) -> dict[str, tuple[float, bool]]:
    """For each judged measure its limit, and whether that is the least."""
    return {
        "trustworthiness": (limits.min_trustworthiness, True),
        "continuity": (limits.min_continuity, True),
        "recall": (limits.min_recall, True),
        "triplets": (limits.min_triplets, True),
        "far_outliers": (limits.max_far_outliers, False),
    }


def _stays(limits: MapLimits, details: ModelDetails) -> Finding:
    """Whether rows lie where they lay; a map that continues none cannot have moved."""
    moved: list[str] = []
    facts: dict[str, Any] = {}
    for name, space in details.spaces.items():
        drift, floor = space.get("drift"), space.get("floor")
        if not drift or not floor:
            continue
        facts |= {f"{name}: median displacement": drift["median"], f"{name}: noise floor": floor["median"]}
        if drift["median"] > limits.max_drift or drift["median"] > limits.max_drift_over_floor * floor["median"]:
            moved.append(
                f"{name}: half of the rows moved by more than {drift['median']:.2%} of the diameter, by chance alone "
                f"that is {floor['median']:.2%}"
            )
    return Finding("map_stays", not moved, "; ".join(moved), facts)


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
        "continues": details.aligned_to or "no earlier map",
    }
    for name, space in details.spaces.items():
        facts[f"{name}: seconds"] = round(space["seconds"], 2)
        for which, measures in (("", space["quality"]), (", placed rows", space.get("placed") or {})):
            for measure, value in measures.items():
                if value is not None:
                    facts[f"{name}{which}: {measure.replace('_', ' ')}"] = round(float(value), 4)
        for what, found in (("drift", space.get("drift")), ("noise floor", space.get("floor"))):
            for measure, value in (found or {}).items():
                if value is not None:
                    facts[f"{name}: {what}, {measure}"] = round(float(value), 5)
    if details.history:
        facts["quality of the releases before"] = _history_table(details)
    for name, found in details.placement.items():
        facts[f"{name}: recall of the index"] = round(found["index_recall"], 4)
        if found["error"] is not None:
            facts[f"{name}: leave-one-out error, share of the diameter"] = round(found["error"], 4)
            facts[f"{name}: leave-one-out error, 95th percentile"] = round(found["error_p95"], 4)
    return facts


def _history_table(details: ModelDetails) -> list[tuple[str, ...]]:
    """This fit and the releases before, a line for each map."""
    measures = [name for name in _SHOWN_MEASURES if any(name in row[2] for row in details.history)]
    mine = [("this fit", name, space["quality"]) for name, space in details.spaces.items()]
    return [
        ("release", "map", *(name.replace("_", " ") for name in measures)),
        *(
            (tag, space, *("–" if (value := found.get(name)) is None else f"{value:.4f}" for name in measures))
            for tag, space, found in (*mine, *details.history)
        ),
    ]


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
