"""Takedown: images taken out of everything that was ever made of them, so that no build brings them back.

In order: what is meant is found (`match`), tombstones are kept, a plan is noted, every stored file is rid of the rows,
a release without them is published and all others are removed, manifests say what is there now, and a record is
written. A plan outlives the process that noted it: `resume` ends what was begun. How rows are taken out of a file is
its room's business; what Dagster keeps is `defs.takedown`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from latent_assets import progress
from latent_assets.catalog.hashing import row_ids
from latent_assets.catalog.links import hosts, removal_keys, requested
from latent_assets.catalog.removals import Removals, is_listed
from latent_assets.catalog.sharding import drop_rows as drop_from_catalog
from latent_assets.catalog.shards import shard_files, stored_shard
from latent_assets.catalog.tombstones import Tombstones, add_tombstones, tombstones_of
from latent_assets.errors import NotBuiltError
from latent_assets.images.removal import all_parts, drop_images, image_facts
from latent_assets.layout import BY_FINGERPRINT, PLAN_SUFFIX, TAKEDOWNS, plan_name, takedown_name
from latent_assets.pipeline.restamping import Restamping
from latent_assets.pipeline.states import State, View

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.storage import Storage

_STAGE = "takedown"
_LISTED = 20
_FACTS = ("id", "url", "sha256")


@dataclass(frozen=True)
class Match:
    """What a takedown is about.

    ids: of rows, stored or not. rows: how many of them are stored anywhere. images: SHA-256 of their bytes as fetched.
    copies: how many of the rows were not named, but hold the same bytes. shards: keys of the shards they are in. texts:
    links and captions of the rows, to be looked for in logs; they are kept nowhere. own: what the source itself has of
    them. found: rows by where they were found.
    """

    ids: frozenset[str]
    rows: int
    images: frozenset[str]
    copies: int
    shards: tuple[str, ...]
    texts: frozenset[str]
    own: tuple[str, ...]
    found: Mapping[str, int]
    tombstones: Tombstones


@dataclass(frozen=True)
class Plan:
    """A takedown that was begun.

    named: how many entries of each kind were named. rows: how many rows of them are stored. current: artefacts that
    were current then, by stage. fitted: rows of the fitted maps then.
    """

    key: str
    reason: str
    who: str
    began: str
    named: dict[str, int]
    rows: int
    ids: list[str]
    images: list[str]
    shards: list[str]
    current: dict[str, list[str]]
    fitted: int


@dataclass(frozen=True)
class TakedownRecord:
    """What is kept of a takedown for whoever has to answer for it; it names no image but by hashes.

    removed: rows or files by where they were. release: the one without the images, None where none was live. versions:
    tags of releases that are gone. rebuilt: artefacts that the next build makes again. bucket_versions: whether the
    storage keeps older versions of objects (None: it does not say), which a takedown does not reach.
    """

    key: str
    reason: str
    who: str
    began: str
    ended: str
    named: dict[str, int]
    rows: int
    ids: list[str]
    images: list[str]
    removed: dict[str, int]
    release: int | None
    versions: list[str]
    rebuilt: list[str]
    bucket_versions: bool | None
    seconds: float
    notes: list[str] = field(default_factory=list)


# -- finding -------------------------------------------------------------------------------------------


def match(lineage: Lineage, removals: Removals) -> Match:
    """Find what is meant, in the catalog, in ledgers and journals, and in every data file of the table.

    An image that is named by link, id or bytes goes with all rows that hold the same bytes; of a domain only its own
    rows go. Rows that are stored nowhere are named all the same: they must not come.
    """
    storage = lineage.storage
    named, by_domain = set(_ids_of(removals)), set[str]()
    images: set[str] = set(removals.images)
    for facts in _all_facts(storage):
        chosen = facts.filter(_named(facts, removals))
        named |= set(chosen["id"])
        images |= set(chosen["sha256"].drop_nulls())
        if removals.domains:
            by_domain |= set(facts.filter(_of_domains(facts, removals))["id"])
    copies: set[str] = set()
    if images:
        for facts in _all_facts(storage, with_bytes=True):
            copies |= set(facts.filter(pl.col("sha256").is_in(list(images)))["id"])
    ids = named | by_domain | copies
    where = _where(lineage, ids)
    return Match(
        ids=frozenset(ids),
        rows=where.rows,
        images=frozenset(images),
        copies=len(copies - named - by_domain),
        shards=where.shards,
        texts=where.texts,
        own=where.own,
        found=where.found,
        tombstones=tombstones_of(removals.urls, removals.domains, ids, images) | tombstones_of(urls=where.keys),
    )


def _ids_of(removals: Removals) -> Iterable[str]:
    """The ids that named links have, whether or not anything of them is stored."""
    yield from removals.ids
    keys = removals.urls
    for form in (keys, "http://" + keys, "https://" + keys):
        yield from row_ids(form)


def _named(facts: pl.DataFrame, removals: Removals) -> pl.Series:
    hits = facts["id"].is_in(removals.ids.to_list())
    if len(removals.urls):
        hits = hits | removal_keys(requested(facts["url"])).is_in(removals.urls.to_list())
    if removals.images:
        hits = hits | facts["sha256"].is_in(list(removals.images)).fill_null(False)
    if len(removals.hashes) and "source_hash" in facts.columns:
        hits = hits | facts["source_hash"].is_in(removals.hashes.to_list()).fill_null(False)
    return hits


def _of_domains(facts: pl.DataFrame, removals: Removals) -> pl.Series:
    found = hosts(requested(facts["url"]))
    listed = [host for host in found.unique().drop_nulls() if is_listed(host, removals.domains)]
    return found.is_in(listed).fill_null(False)


def _all_facts(storage: Storage, with_bytes: bool = False) -> Iterator[pl.DataFrame]:
    """`id`, `url`, `sha256` of everything stored; with `with_bytes` only of what says the bytes' hash."""
    from latent_assets.atlas.removal import table_facts

    if not with_bytes:
        for shard in shard_files(storage):
            if (found := stored_shard(storage, shard, None)) is not None:
                yield found[0].select("id", "url", "source_hash", sha256=pl.lit(None, pl.String))
    for _, facts in image_facts(storage):
        yield facts
    yield from table_facts(storage)


@dataclass(frozen=True)
class _Where:
    rows: int
    shards: tuple[str, ...]
    texts: frozenset[str]
    own: tuple[str, ...]
    keys: frozenset[str]
    found: dict[str, int]


def _where(lineage: Lineage, ids: set[str]) -> _Where:
    """Where rows are stored: their shards, and what was written of them."""
    from latent_assets.atlas.removal import table_facts

    storage = lineage.storage
    shards, texts, own = set[str](), set[str](), list[str]()
    stored_ids = set[str]()
    found = {"catalog": 0, "images": 0, "table": 0}
    wanted = list(ids)
    for shard in shard_files(storage):
        stored = stored_shard(storage, shard, None)
        rows = stored[0].filter(pl.col("id").is_in(wanted)) if stored is not None else pl.DataFrame()
        if rows.height:
            shards.add(shard)
            found["catalog"] += rows.height
            stored_ids |= set(rows["id"])
            texts |= {*rows["url"], *rows["caption"].drop_nulls(), *rows["source_url"].drop_nulls()}
            own += _own_copies(lineage, rows)
    urls = set[str]()
    for part, facts in image_facts(storage):
        rows = facts.filter(pl.col("id").is_in(wanted))
        if rows.height:
            shards.add(part.partition("/")[0])
            found["images"] += rows["sha256"].drop_nulls().len()
            urls |= set(rows["url"])
            stored_ids |= set(rows["id"])
    for facts in table_facts(storage):
        rows = facts.filter(pl.col("id").is_in(wanted))
        found["table"] = found["table"] + rows.height
        urls |= set(rows["url"])
        stored_ids |= set(rows["id"])
    texts |= urls
    links = pl.Series("url", sorted({text for text in texts if "://" in text and text in urls}), pl.String)
    keys = frozenset(removal_keys(requested(links))) if len(links) else frozenset()
    return _Where(len(stored_ids), tuple(sorted(shards)), frozenset(texts), tuple(own), keys, found)


def _own_copies(lineage: Lineage, rows: pl.DataFrame) -> list[str]:
    """What the source itself has of rows: it belongs to whoever runs this, and stays."""
    source = lineage.profile.source
    if source.kind == "metadata" and source.builtin is None:
        return []
    if source.builtin is not None:
        return [f"{url.rpartition('/')[2]} of the built-in data set" for url in rows["url"]]
    return [f"{source.path}: {path}" for path in rows["path"].drop_nulls()]


# -- planning ------------------------------------------------------------------------------------------


def begin(lineage: Lineage, found: Match, reason: str, named: Mapping[str, int]) -> Plan:
    """Keep the tombstones, and note what is to be taken out: from now on it ends, whatever ends this process."""
    from latent_assets.atlas.card import who

    now = datetime.now(UTC)
    add_tombstones(lineage.storage, found.tombstones)
    plan = Plan(
        key=f"{now:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}",
        reason=reason,
        who=who(),
        began=now.isoformat(timespec="seconds"),
        named=dict(named),
        rows=found.rows,
        ids=sorted(found.ids),
        images=sorted(found.images),
        shards=list(found.shards),
        current=_current(lineage),
        fitted=fitted.rows if (fitted := lineage.manifests.get("umap_model")) else 0,
    )
    lineage.storage.write_bytes(plan_name(plan.key), json.dumps(asdict(plan)).encode())
    return plan


def _current(lineage: Lineage) -> dict[str, list[str]]:
    """The artefacts that are current, apart from what the list of images and the tombstones are now."""
    lineage.refresh()
    view = View(lineage, bulk=True)
    found: dict[str, list[str]] = {}
    for stage in lineage.stages:
        found[stage] = [key for key in lineage.keys(stage) if _is_current(lineage, view, stage, key)]
    return found


def _is_current(lineage: Lineage, view: View, stage: str, key: str) -> bool:
    status = view.status(stage, key, strict=False)
    if status.state is State.STALE and stage == "laion_metadata" and status.manifest is not None:
        before, now = status.manifest.recipe, view.recipe(stage, key, strict=False)
        return replace(before, inputs={}) == replace(now, inputs={}) and _lists(before.inputs) == _lists(now.inputs)
    return status.state is State.CURRENT


def _lists(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "taken down"}


def unfinished(storage: Storage) -> list[Plan]:
    """Takedowns that were begun and have not ended, the oldest first."""
    return [Plan(**storage.read_json(f"{TAKEDOWNS}/{name}")) for name in storage.list(TAKEDOWNS, PLAN_SUFFIX)]


def refuse_unfinished(storage: Storage) -> None:
    """Raise NotBuiltError when a takedown has not ended: what is built meanwhile could hold what is taken out."""
    if plans := unfinished(storage):
        raise NotBuiltError(
            f"A takedown of {plans[0].began[:19]} UTC has not ended: run `latent-assets takedown --resume` first."
        )


def records(storage: Storage) -> list[TakedownRecord]:
    """The takedowns that have ended, the oldest first."""
    names = [name for name in storage.list(TAKEDOWNS, ".json") if not name.endswith(PLAN_SUFFIX)]
    found = [storage.read_json(f"{TAKEDOWNS}/{name}") for name in names]
    return [TakedownRecord(**values) for values in found if "began" in values]


# -- taking out ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A takedown that has ended: its record, and pictures of what was made anew, by stage, key and name."""

    record: TakedownRecord
    pictures: Mapping[tuple[str, str], Mapping[str, bytes]]


def carry_out(lineage: Lineage, plan: Plan, notes: Sequence[str] = ()) -> Outcome:
    """Take everything out that the plan names; what was taken out before is left alone.

    Call it while no artefact is made (`Claims.alone`). Raises DataError when the release without the images does not
    pass its checks: the plan stays, and so does the old release.
    """
    from latent_assets.atlas.labels.removal import drop_rows as drop_from_labels
    from latent_assets.generated.removal import drop_mentions

    started = time.monotonic()
    storage, ids = lineage.storage, frozenset(plan.ids)
    removed: dict[str, int] = {}

    def step(name: str, work: Callable[[], int]) -> None:
        progress.report(_STAGE, len(removed), None, "", note=name)
        removed[name] = work()

    step("catalog", lambda: _drop_from_catalog(storage, ids))
    step("images", lambda: sum(drop_images(storage, part, ids).images for part in all_parts(storage)))
    step("vectors and thumbnails", lambda: _drop_vectors(storage, ids))
    step("fitted points", lambda: _drop_points(storage, ids))
    step("labels", lambda: drop_from_labels(storage, ids))
    restamping = Restamping(lineage, plan.shards, plan.current, plan.fitted)
    table = restamping.run(ids)
    removed["table"] = table.dropped
    step("placements of generated images", lambda: (drop_mentions(storage, ids, plan.images)).placements)
    step("pictures", lambda: restamping.drop_pictures())
    record = TakedownRecord(
        key=plan.key,
        reason=plan.reason,
        who=plan.who,
        began=plan.began,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        named=plan.named,
        rows=plan.rows,
        ids=_hashed_ids(plan.ids),
        images=_hashed_images(plan.images),
        removed=removed,
        release=table.published.version if table.published else None,
        versions=list(table.versions),
        rebuilt=restamping.rebuilt,
        bucket_versions=storage.keeps_versions(),
        seconds=round(time.monotonic() - started, 3),
        notes=list(notes),
    )
    storage.write_json(takedown_name(plan.key), asdict(record))
    storage.delete(plan_name(plan.key))
    return Outcome(record, restamping.pictures)


def _hashed_ids(ids: Iterable[str]) -> list[str]:
    return sorted(tombstones_of(ids=ids).id)


def _hashed_images(images: Iterable[str]) -> list[str]:
    return sorted(tombstones_of(images=images).image)


def _drop_from_catalog(storage: Storage, ids: frozenset[str]) -> int:
    before = _catalog_rows(storage)
    drop_from_catalog(storage, shard_files(storage), ids)
    return before - _catalog_rows(storage)


def _catalog_rows(storage: Storage) -> int:
    from latent_assets.catalog.shards import read_index

    return sum(entry.rows for entry in read_index(storage).values())


def _drop_vectors(storage: Storage, ids: frozenset[str]) -> int:
    """From features, latents and thumbnails, of whatever model or setting they are."""
    from latent_assets.embeddings.store import drop_rows

    dropped = 0
    for room in BY_FINGERPRINT:
        for file in list(storage.files(room)):
            if file.name.endswith(".arrow"):
                dropped += drop_rows(storage, file.name, ids) or 0
    return dropped


def _drop_points(storage: Storage, ids: frozenset[str]) -> int:
    """From fitted maps and coordinates, of whatever fit they are."""
    from latent_assets.projection.removal import drop_coordinates, drop_from_model, placed_shards

    dropped = 0
    for fingerprint in storage.folders("projection"):
        found = drop_from_model(storage, fingerprint, ids)
        dropped += found.dropped if found else 0
        for shard in placed_shards(storage, fingerprint):
            drop_coordinates(storage, fingerprint, shard, ids)
    return dropped
