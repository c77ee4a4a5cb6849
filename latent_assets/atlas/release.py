"""Stage, publish, roll back, prune: a release becomes visible by moving one tag, after its checks passed.

Staging prepares data files for the shards that changed and commits one new version of the table that no tag names;
readers follow the tag `live` and do not see it. What must be true of it is in `checks`, how files become a version
in `fragments`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.content import content_hash
from latent_assets.atlas.fragments import (
    Known,
    PreparedShard,
    StoredPart,
    commit_places,
    commit_shards,
    content_key,
    drop_old_versions,
    known_parts,
    read_part_ids,
    version_times,
    write_card,
    write_part,
)
from latent_assets.atlas.history import Action, note_move, superseded
from latent_assets.atlas.indexes import VECTOR_KIND, are_kept, build_indexes, list_count
from latent_assets.atlas.recall import choose_lists, make_probes
from latent_assets.atlas.rows import ShardContent, read_places, read_rows, with_clusters
from latent_assets.atlas.schema import RELEASE_KEY
from latent_assets.atlas.table import (
    LISTS,
    LIVE,
    OvertakenError,
    flush_table,
    open_table,
    release_tag,
    table_exists,
    table_uri,
    tags,
    writing,
)
from latent_assets.errors import DataError, NotBuiltError, QueryError
from latent_assets.progress import report

if TYPE_CHECKING:
    import pyarrow as pa

    from latent_assets.atlas.checks import Check
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

# longer than any read or commit takes
_LONGEST_READ = timedelta(days=2)
_STAGINGS = 5  # times that a version is made again when others make theirs


@dataclass(frozen=True)
class Staged:
    """A version of the table that no reader sees yet. `live` is the published version it would replace.

    `indexed`: whether vectors are searched through an index. `written`: bytes of data files that were not there
    before; `rewritten`, `moved`: how many shards had their rows, or their places only, written.
    """

    version: int
    live: int | None
    release: ReleaseInfo
    indexed: bool
    seconds: float
    written: int
    rewritten: int
    moved: int


@dataclass(frozen=True)
class Release:
    """A published version: `tag` names it for ever, the tag `live` until the next one. `replaced`: the one before."""

    version: int
    tag: str
    replaced: int | None
    uri: str
    info: ReleaseInfo


def stage(
    profile: Profile, storage: Storage, shards: Sequence[ShardContent], release: ReleaseInfo, anew: bool = False
) -> Staged:
    """Make one new version of the table out of `shards`, in their order, writing only what changed. No tag moves.

    `release` comes from `describe_release`. `anew`: write everything, whatever is there. Raises DataError when a row
    with coordinates lacks its catalog row, thumbnail or embedding; nothing is committed then.
    """
    started = time.monotonic()
    present = table_exists(storage.lance_uri)
    live = tags(storage.lance_uri).get(LIVE) if present else None
    known = {} if anew else stored_parts(storage)
    prepared: list[PreparedShard] = []
    done = 0
    for content in shards:
        report("atlas_table", done, release.rows, note=f"shard {content.shard}")
        if release.shards[content.shard]:
            prepared.append(prepare(storage, content, release, known))
            done += prepared[-1].rows.count
    report("atlas_table", done, release.rows)
    version, indexed, described = commit(profile, storage, release, prepared, anew)
    rewritten = sum(shard.written > shard.coords.size for shard in prepared)
    return Staged(
        version,
        live,
        described,
        indexed,
        round(time.monotonic() - started, 3),
        sum(shard.written for shard in prepared),
        rewritten,
        sum(shard.written > 0 for shard in prepared) - rewritten,
    )


def stored_parts(storage: Storage) -> Known:
    """The data files that a new version can take over: those of the newest version and of `live`."""
    if not table_exists(storage.lance_uri):
        return {}
    live = [LIVE] if LIVE in tags(storage.lance_uri) else []
    return known_parts(storage.lance_uri, [None, *live])


def prepare(storage: Storage, content: ShardContent, release: ReleaseInfo, known: Known) -> PreparedShard:
    """The data files of one shard of `release`: those of `known` whose content is the same, the others written now.

    Shards can be prepared in any order, by several processes at once; no version has their files before `commit`.
    A shard without rows has no files: leave it out. Raises DataError as `stage` does.
    """
    uri = storage.lance_uri
    schema = release.arrow_schema()
    features = sorted(release.features.items())
    rows_key = content_key(schema, "rows", f"{content.rows_key} {features}")
    coords_key = content_key(schema, "coords", f"{content.coords_key} {rows_key}")
    rows = known.get((content.shard, "rows", rows_key))
    coords = known.get((content.shard, "coords", coords_key))
    if rows is not None and coords is not None and rows.count == coords.count:
        return PreparedShard(content.shard, rows, coords, 0)
    ids, places = read_places(storage, release.projection, content.shard, release.spaces)
    if release.labels:
        places = with_clusters(storage, release.labels, content.shard, release.spaces, ids, places)
    written = 0
    # places stand beside rows by their order alone
    if rows is None or not read_part_ids(uri, rows).equals(ids):
        table = read_rows(storage, content, ids, release.features)
        rows = write_part(uri, content.shard, "rows", rows_key, ids, table, schema)
        written = rows.size
    coords = write_part(uri, content.shard, "coords", coords_key, ids, places, schema)
    return PreparedShard(content.shard, rows, coords, written + coords.size)


def commit(
    profile: Profile, storage: Storage, release: ReleaseInfo, shards: Sequence[PreparedShard], anew: bool = True
) -> tuple[int, bool, ReleaseInfo]:
    """Make a version of the table out of prepared shards. Without `anew` indexes are kept where only places changed.

    Returns its number, whether vectors are indexed, and the release as it says of itself: with the hash of its rows.
    Raises OvertakenError when others make versions all the time, which is what the claim on the table prevents.
    """
    columns = release.arrow_schema()
    digests = [{shard.shard: part.digest for shard, part in parts} for parts in _parts(shards)]
    described = replace(release, content=content_hash(columns, *digests))
    for turn in range(_STAGINGS):
        with suppress(OvertakenError):  # the files are there: only the version has to be made again
            return _committed(profile, storage, described, shards, anew)
        time.sleep(random.uniform(0.0, 0.5 * 2**turn))
    return _committed(profile, storage, described, shards, anew)


def _committed(
    profile: Profile, storage: Storage, release: ReleaseInfo, shards: Sequence[PreparedShard], anew: bool
) -> tuple[int, bool, ReleaseInfo]:
    """Rows, then indexes, then what measuring them adds to the card: a version of the table each."""
    schema = release.arrow_schema(described=True)
    rows = sum(shard.rows.count for shard in shards)
    if not anew and (moved := _moved(profile, storage, release, shards, schema)) is not None:
        return moved
    version = commit_shards(storage.lance_uri, schema, shards)
    if not rows:
        return version, False, release
    vectors = rows > profile.table.index_above_rows and bool(release.dims)
    report("atlas_table", rows, rows, note="indexes")
    version = build_indexes(storage, version, release, vectors)
    if not vectors:
        return version, False, release
    described = replace(release, search=_searched(storage.lance_uri, version, release))
    return write_card(storage.lance_uri, version, described.to_json()), True, described


def _moved(
    profile: Profile, storage: Storage, release: ReleaseInfo, shards: Sequence[PreparedShard], schema: pa.Schema
) -> tuple[int, bool, ReleaseInfo] | None:
    """A version with other places, and the rows and indexes of the newest one; None where that is not enough."""
    uri = storage.lance_uri
    if not table_exists(uri):
        return None
    table = open_table(uri, None)
    rows = sum(shard.rows.count for shard in shards)
    vectors = rows > profile.table.index_above_rows and bool(release.dims)
    if RELEASE_KEY.encode() not in (table.schema.metadata or {}):
        return None
    before = ReleaseInfo.of_schema(table.schema, uri)
    if not rows or table.count_rows() != rows or not are_kept(table, before, release, vectors):
        return None
    version = commit_places(uri, int(table.version), schema, shards)
    if version is None:
        return None
    described = replace(release, search=before.search)
    return write_card(uri, version, described.to_json()), vectors, described


def _parts(shards: Sequence[PreparedShard]) -> list[list[tuple[PreparedShard, StoredPart]]]:
    return [[(shard, shard.rows) for shard in shards], [(shard, shard.coords) for shard in shards]]


def _searched(lance_uri: str, version: int, release: ReleaseInfo) -> dict[str, dict[str, Any]]:
    """How the vectors of a version are searched: in as many lists as it takes to find what is near; and that share."""
    table = open_table(lance_uri, version)
    found = {}
    for name, probe in make_probes(table, release.metrics).items():
        total = list_count(table.count_rows())
        candidates = sorted({min(total, LISTS * 2**step) for step in range(5)} | {total})
        lists, recall = choose_lists(table, name, probe, candidates)
        found[name] = {"index": VECTOR_KIND, "lists": total, "probes": lists, "recall": round(recall, 4)}
    return found


def staged_version(storage: Storage, version: int) -> Staged:
    """A version that was staged before, to be checked and published now.

    Raises NotBuiltError when there is no such version, QueryError for one that is a release already.
    """
    table = open_table(storage.lance_uri, version)
    named = tags(storage.lance_uri)
    if release_tag(version) in named:
        raise QueryError(
            f"Version {version} is a release already: `latent-assets releases rollback {version}` shows it to readers."
        )
    info = ReleaseInfo.of_schema(table.schema, storage.lance_uri)
    return Staged(version, named.get(LIVE), info, bool(info.search), 0.0, 0, 0, 0)


def publish(storage: Storage, staged: Staged, checks: Sequence[Check], action: Action = "publish") -> Release:
    """Move the tag `live` to the staged version, and name it `release-N` so that it is kept.

    Everything that the version consists of is on the disk before, and the tags are afterwards. Raises DataError, and
    leaves `live` where it is, unless every check passed, and when another release was published since this one was
    staged.
    """
    failed = [check for check in checks if not check.passed]
    if failed or not checks:
        found = "; ".join(f"{check.name}: found {check.found}, expected {check.expected}" for check in failed)
        raise DataError(
            f"The staged release (version {staged.version}) is not published: {found or 'it was not checked'}. "
            f"Readers keep {'the release before' if staged.live else 'no release'}."
        )
    table = open_table(storage.lance_uri, staged.version)
    if staged.version != tags(storage.lance_uri).get(LIVE):
        note_move(storage, action, staged.version, staged.live)
    tag = release_tag(staged.version)
    flush_table(storage.lance_uri)
    if tag not in tags(storage.lance_uri):
        with writing(storage.lance_uri):
            table.tags.create(tag, staged.version)
    move_live(storage, staged.version)
    return Release(staged.version, tag, staged.live, table_uri(storage.lance_uri), staged.release)


def rollback(storage: Storage, version: int) -> None:
    """Point the tag `live` at a version that is there, back or forwards again: the one step readers see.

    Raises NotBuiltError when there is no such version, DataError when another process moved the tag just now.
    """
    open_table(storage.lance_uri, version)
    note_move(storage, "rollback", version, tags(storage.lance_uri).get(LIVE))
    move_live(storage, version)


def move_live(storage: Storage, version: int) -> None:
    """Point `live` at a version that is there. Whoever calls this has noted the move (`history`)."""
    table = open_table(storage.lance_uri, version)
    present = LIVE in tags(storage.lance_uri)
    with writing(storage.lance_uri):
        if present:
            table.tags.update(LIVE, version)
        else:
            table.tags.create(LIVE, version)
    flush_table(storage.lance_uri)


def prune(storage: Storage, keep: int = 3, younger_than: timedelta = _LONGEST_READ) -> int:
    """Drop versions that nobody needs, and the files only they have; returns how many bytes that freed.

    Kept: `live`, the newest `keep` releases, those that were `live` less than `younger_than` ago (somebody may still
    read them), and every version made less than that ago.
    """
    if not table_exists(storage.lance_uri):
        raise NotBuiltError(f"{storage.lance_uri} has no atlas table yet. Run `latent-assets build`.")
    table = open_table(storage.lance_uri, None)
    for tag in dropped_by(storage, keep, younger_than).values():
        table.tags.delete(tag)
    return drop_old_versions(storage.lance_uri, younger_than)


def dropped_by(storage: Storage, keep: int = 3, younger_than: timedelta = _LONGEST_READ) -> dict[int, str]:
    """The releases that `prune` drops: version -> tag."""
    named = tags(storage.lance_uri)
    found = sorted((version, tag) for tag, version in named.items() if tag == release_tag(version))
    made = version_times(storage.lance_uri)
    left, since = superseded(storage), datetime.now(UTC) - younger_than
    return {
        version: tag
        for version, tag in found[: -keep if keep else None]
        if version != named.get(LIVE) and max(made[version], left.get(version, made[version])) <= since
    }
