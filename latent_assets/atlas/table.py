"""Stage, check, publish: a release becomes visible by moving one tag, after its checks passed.

Staging commits a new version of the Lance table that no tag names; readers follow the tag `live` and do not
see it. What the checks look at is in `checks`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta

import lance
import pyarrow as pa

from latent_assets.atlas.checks import Check
from latent_assets.atlas.dataset import (
    LIVE,
    open_table,
    release_tag,
    table_exists,
    table_options,
    table_uri,
    tags,
    writing,
)
from latent_assets.atlas.release import ReleaseInfo
from latent_assets.atlas.rows import table_batches
from latent_assets.atlas.schema import arrow_schema
from latent_assets.embeddings.store import ShardEmbeddings
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.profile import Profile
from latent_assets.storage import Storage

# commits in flight are never older than this
_UNPUBLISHED_FOR = timedelta(days=2)
_ROWS_PER_FILE = 256 * 1024


@dataclass(frozen=True)
class Staged:
    """A version of the table that no reader sees yet. `live` is the published version it would replace."""

    version: int
    live: int | None
    release: ReleaseInfo
    indexed: bool
    seconds: float


@dataclass(frozen=True)
class Release:
    """A published version: `tag` names it for ever, the tag `live` until the next one. `replaced`: the one before."""

    version: int
    tag: str
    replaced: int | None
    uri: str
    info: ReleaseInfo


def stage(profile: Profile, storage: Storage, shards: Sequence[ShardEmbeddings], release: ReleaseInfo) -> Staged:
    """Write all rows of `shards` as one new version of the table, shard by shard. No tag moves.

    `release` comes from `describe_release`. Raises DataError when a row with coordinates lacks its catalog row,
    image or embedding; nothing is committed then.
    """
    started = time.monotonic()
    present = table_exists(storage.lance_uri)
    live = tags(storage.lance_uri).get(LIVE) if present else None
    schema = arrow_schema(release.dims, release.spaces, release.to_json())
    source = _Source(table_batches(profile, storage, shards, release))
    dataset = source.write(schema, storage.lance_uri, "overwrite" if present else "create")
    indexed = release.rows > profile.table.index_above_rows and "clip" in release.dims
    if indexed:
        with writing(storage.lance_uri):
            dataset = _index(dataset, release.dims["clip"])
    return Staged(dataset.version, live, release, indexed, round(time.monotonic() - started, 3))


class _Source:
    """Feeds Lance's writer, which pulls batches from a thread of its own and wraps what goes wrong there.

    Batches are made in the caller's context (its progress listener), and their error is raised as it was.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._context = copy_context()
        self._error: Exception | None = None

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return self._context.run(next, self._batches)
        except StopIteration:
            raise
        except Exception as error:
            self._error = error
            raise

    def write(self, schema: pa.Schema, lance_uri: str, mode: str) -> lance.LanceDataset:
        """Commit all batches as one version. Raises the error of a batch, or StorageError when Lance cannot write."""
        reader = pa.RecordBatchReader.from_batches(schema, self)
        options = table_options(lance_uri)
        with writing(lance_uri):
            try:
                return lance.write_dataset(
                    reader, table_uri(lance_uri), mode=mode, max_rows_per_file=_ROWS_PER_FILE, storage_options=options
                )
            except OSError:
                if self._error is not None:
                    raise self._error from None
                raise


def _index(dataset: lance.LanceDataset, dims: int) -> lance.LanceDataset:
    """Index `clip` for search (IVF-PQ, 8 dimensions to a byte where they divide) and `id` for look-ups."""
    sub_vectors = next(parts for parts in (dims // 8, dims // 4, dims // 2, dims, 1) if parts and dims % parts == 0)
    indexed = dataset.create_index("clip", "IVF_PQ", metric="cosine", num_sub_vectors=sub_vectors)
    indexed.create_scalar_index("id", "BTREE")
    return indexed


def publish(storage: Storage, staged: Staged, checks: Sequence[Check]) -> Release:
    """Move the tag `live` to the staged version, and name it `release-N` so that it is kept.

    Raises DataError, and leaves `live` where it is, unless every check passed.
    """
    failed = [check for check in checks if not check.passed]
    if failed or not checks:
        found = "; ".join(f"{check.name}: found {check.found}, expected {check.expected}" for check in failed)
        raise DataError(
            f"The staged release (version {staged.version}) is not published: {found or 'it was not checked'}. "
            f"Readers keep {'the release before' if staged.live else 'no release'}."
        )
    dataset = open_table(storage.lance_uri, staged.version)
    tag = release_tag(staged.version)
    named = tags(storage.lance_uri)
    if tag not in named:
        with writing(storage.lance_uri):
            dataset.tags.create(tag, staged.version)
    move_live(storage, staged.version)
    return Release(staged.version, tag, named.get(LIVE), table_uri(storage.lance_uri), staged.release)


def move_live(storage: Storage, version: int) -> None:
    """Point the tag `live` at a version that is there: the one step readers see, also for going back."""
    dataset = open_table(storage.lance_uri, version)
    present = LIVE in tags(storage.lance_uri)
    with writing(storage.lance_uri):
        if present:
            dataset.tags.update(LIVE, version)
        else:
            dataset.tags.create(LIVE, version)


def clean(storage: Storage, keep: int = 3, unpublished_for: timedelta = _UNPUBLISHED_FOR) -> int:
    """Drop versions that nobody needs; returns how many bytes that freed.

    Kept: `live`, the newest `keep` releases, and every version younger than `unpublished_for`.
    """
    if not table_exists(storage.lance_uri):
        raise NotBuiltError(f"{storage.lance_uri} has no atlas table yet. Run `latent-assets build`.")
    dataset = open_table(storage.lance_uri, None)
    named = tags(storage.lance_uri)
    releases = sorted((version, tag) for tag, version in named.items() if tag == release_tag(version))
    for version, tag in releases[: -keep if keep else None]:
        if version != named.get(LIVE):
            dataset.tags.delete(tag)
    stats = dataset.cleanup_old_versions(unpublished_for, error_if_tagged_old_versions=False)
    return int(stats.bytes_removed)
