"""Taking rows out of the table: a release without them, and no other version, tag, file or index that has them.

Rows are not deleted from a version, which would leave their bytes in files and indexes. A new version is made of the
data files that have none of them and of new ones for the others, indexes are trained anew, and everything else goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from latent_assets.atlas.card import ReleaseInfo, who
from latent_assets.atlas.checks import check
from latent_assets.atlas.fragments import (
    PreparedShard,
    StoredPart,
    columns_of,
    content_key,
    drop_old_versions,
    fragment_parts,
    read_part_ids,
    read_part_table,
    stored_sizes,
    write_part,
)
from latent_assets.atlas.release import Release, Staged, commit, publish
from latent_assets.atlas.table import LIVE, open_table, release_tag, table_exists, table_uri, tags, writing
from latent_assets.errors import DataError
from latent_assets.layout import ATLAS_TABLE, table_name
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_FACTS: dict[str, type[pl.DataType]] = {"id": pl.String, "url": pl.String, "sha256": pl.String}


@dataclass(frozen=True)
class TableRemoval:
    """What was taken out of the table. dropped: rows of the release that was live. published: the release without them;
    None when there was none. versions: tags that are gone. freed: bytes."""

    dropped: int
    published: Release | None
    versions: tuple[str, ...]
    freed: int


def table_facts(storage: Storage) -> Iterator[pl.DataFrame]:
    """`id`, `url` and `sha256` of the rows in every data file of the table, of whatever version it is."""
    for name in sorted(stored_sizes(storage.lance_uri)):
        with suppress(OSError, RuntimeError, ValueError):  # a file that cannot be read is not of the next version
            found = read_part_table(storage.lance_uri, name, list(_FACTS))
            if found is not None:
                frame = pl.from_arrow(found)
                assert isinstance(frame, pl.DataFrame)
                yield frame.select(pl.col(column).cast(kind) for column, kind in _FACTS.items())


def drop_rows(
    profile: Profile, storage: Storage, ids: Collection[str], describe: Callable[[ReleaseInfo], ReleaseInfo]
) -> TableRemoval:
    """Publish the live release without the rows `ids`, and remove every other version. Readers of those lose them.

    `describe` may change what the new release says of itself. Raises DataError when the new release does not pass its
    checks: then readers keep the old one, and it has the rows still.
    """
    uri = storage.lance_uri
    if not table_exists(uri):
        storage.delete(table_name(ATLAS_TABLE))
        return TableRemoval(0, None, (), 0)
    named = tags(uri)
    if LIVE not in named:
        freed = sum(file.size for file in storage.files(table_name(ATLAS_TABLE)))
        storage.delete(table_name(ATLAS_TABLE))
        return TableRemoval(0, None, tuple(sorted(named)), freed)
    before = ReleaseInfo.of_schema(open_table(uri, LIVE).schema, uri)
    shards, dropped = _without(storage, before, ids)
    counts = dict.fromkeys(before.shards, 0) | {shard.shard: shard.rows.count for shard in shards}
    card = replace(
        before,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=who(),
        rows=sum(counts.values()),
        shards=counts,
    )
    version, indexed, described = commit(profile, storage, describe(card), shards)
    staged = Staged(version, named[LIVE], described, indexed, 0.0, 0, 0, 0)
    published = publish(storage, staged, check(profile, storage, staged, empty=described.rows == 0), "takedown")
    gone = tuple(sorted(tag for tag in named if tag not in (LIVE, published.tag)))
    return TableRemoval(dropped, published, gone, keep_only(storage, version))


def _without(storage: Storage, release: ReleaseInfo, ids: Collection[str]) -> tuple[list[PreparedShard], int]:
    """The shards of the live version, those with rows of `ids` written anew; and how many rows that were."""
    uri = storage.lance_uri
    schema = release.arrow_schema()
    wanted = pa.array(sorted(ids), pa.string())
    prepared: list[PreparedShard] = []
    dropped = 0
    for fragment, parts in fragment_parts(uri, LIVE):
        if parts is not None:
            held = read_part_ids(uri, parts.rows)
            hits = int(pc.sum(pc.is_in(held, value_set=wanted)).as_py() or 0)
            if not hits:
                prepared.append(parts)
                continue
        table = fragment.to_table()
        kept = table.filter(pc.invert(pc.is_in(table["id"], value_set=wanted)))
        dropped += table.num_rows - kept.num_rows
        # one that was not written shard by shard may have several
        for shard in kept["shard"].unique().to_pylist():
            rows = kept.filter(pc.equal(kept["shard"], shard))
            prepared.append(_written(uri, shard, rows, schema, parts))
    return prepared, dropped


def _written(uri: str, shard: str, rows: pa.Table, schema: pa.Schema, before: PreparedShard | None) -> PreparedShard:
    """Data files of rows that were in others; their content keys are of no staging, which writes them once more."""
    held = rows["id"].combine_chunks()
    parts: dict[str, StoredPart] = {}
    for part in ("rows", "coords"):
        old = getattr(before, part).key if before is not None else ""
        key = content_key(schema, part, fingerprint("without", old, held.to_pylist()))  # type: ignore[arg-type]
        columns = rows.select(columns_of(schema, part))  # type: ignore[arg-type]
        parts[part] = write_part(uri, shard, part, key, held, columns, schema)  # type: ignore[arg-type]
    return PreparedShard(shard, parts["rows"], parts["coords"], parts["rows"].size + parts["coords"].size)


def keep_only(storage: Storage, version: int) -> int:
    """Remove every other version of the table, its tags, and all files that this one does not need; bytes freed.

    Raises DataError when a file is left that belongs to another version.
    """
    uri = storage.lance_uri
    table = open_table(uri, None)
    for tag, named in tags(uri).items():
        if tag != LIVE and (named != version or tag != release_tag(version)):
            with writing(uri):
                table.tags.delete(tag)
    freed = drop_old_versions(uri, timedelta(0), unverified=True)
    folder = table_name(ATLAS_TABLE)
    dataset = open_table(uri, version).to_lance()
    data = {str(file.path) for fragment in dataset.get_fragments() for file in fragment.metadata.files}
    indexes = {str(uuid) for index in dataset.describe_indices() for uuid in _uuids(index)}
    for file in list(storage.files(folder)):
        kind, _, inside = file.name.removeprefix(f"{folder}/").partition("/")
        needed = {
            "data": inside in data,
            "_indices": inside.partition("/")[0] in indexes,
            "_deletions": False,
        }.get(kind, True)
        if not needed:
            freed += file.size
            storage.delete(file.name)
    left = [int(found["version"]) for found in open_table(uri, None).list_versions()]
    if left != [version]:
        raise DataError(
            f"{table_uri(uri)} still has the versions {left}: another process writes to it. End that, and run "
            "`latent-assets takedown --resume`."
        )
    return freed


def _uuids(index: object) -> Iterator[str]:
    for segment in getattr(index, "segments", ()):
        yield str(segment.uuid)
