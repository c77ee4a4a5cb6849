"""Data files of the table, shard by shard: what lancedb has no words for and its ground, Lance, does.

Every shard is one fragment of two data files: its rows, and their places with the clusters they are in. A file is
never changed; its name tells shard, part and content key, so that a later version takes over what is the same:

    lance/atlas.lance/data/{shard}.{part}.{content key}.{digest of its rows}{random}.lance       part: rows, coords

A commit makes a version of the table out of files. Which files are needed is decided in `release`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import pyarrow as pa

from latent_assets.atlas.content import digest_rows
from latent_assets.atlas.schema import CLUSTER, PLACE, RELEASE_KEY
from latent_assets.atlas.table import LIVE, OvertakenError, lance_address, open_table, table_options, table_uri, writing
from latent_assets.storage import filesystem, fingerprint

if TYPE_CHECKING:
    import lance

    from latent_assets.storage import Storage

Part = Literal["rows", "coords"]

_FORMAT = (2, 2)  # of Lance's files; what the installed version writes by default
_REVISION = 2  # of what stands in a file besides its content key
_DIGEST, _RANDOM = 32, 12  # digits in a file's name


@dataclass(frozen=True)
class StoredPart:
    """One data file of a shard: `name` in the table's folder `data`, bytes, the content key it was made for.

    `digest`: `content.digest_rows` of what is in it.
    """

    name: str
    size: int
    key: str
    count: int
    digest: str


@dataclass(frozen=True)
class PreparedShard:
    """The files of a shard's fragment; `written`: the bytes of those that were not there before."""

    shard: str
    rows: StoredPart
    coords: StoredPart
    written: int


@dataclass(frozen=True)
class TableFile:
    """A data file that a version needs. `size`: bytes found, None when it is not there; `expected`: bytes committed."""

    name: str
    size: int | None
    expected: int | None

    @property
    def sound(self) -> bool:
        """Whether the file is there with all its bytes. Nothing was read."""
        return self.size is not None and self.expected in (None, self.size)


Known = dict[tuple[str, Part, str], StoredPart]


def content_key(schema: pa.Schema, part: Part, key: str) -> str:
    """What a data file is made from: the caller's key, and the columns with their types and places in the schema."""
    columns = [[name, str(schema.field(name).type), schema.get_field_index(name)] for name in columns_of(schema, part)]
    return fingerprint(_REVISION, _FORMAT, part, key, columns)


def columns_of(schema: pa.Schema, part: Part) -> list[str]:
    """The columns of a part, in the order of the table."""
    return [name for name in schema.names if name.startswith((PLACE, CLUSTER)) == (part == "coords")]


def known_parts(lance_uri: str, versions: Iterable[int | str | None]) -> Known:
    """The sound data files of versions of the table, by shard, part and content key.

    Files that were not written shard by shard, are gone or have lost bytes are left out.
    """
    found: Known = {}
    sizes = stored_sizes(lance_uri)
    for version in versions:
        for fragment in _dataset(lance_uri, version).get_fragments():
            metadata = fragment.metadata
            if metadata.deletion_file is not None:
                continue  # rows were taken out by hand: the files still hold them
            for file in metadata.files:
                shard, *rest = str(file.path).split(".")
                whole = file.file_size_bytes and file.file_size_bytes == sizes.get(str(file.path))
                if len(rest) == 4 and rest[0] in ("rows", "coords") and len(rest[2]) == _DIGEST + _RANDOM and whole:
                    digest = rest[2][:_DIGEST]
                    part = StoredPart(str(file.path), file.file_size_bytes, rest[1], metadata.physical_rows, digest)
                    found.setdefault((shard, rest[0], rest[1]), part)  # type: ignore[arg-type]
    return found


def write_part(
    lance_uri: str, shard: str, part: Part, key: str, ids: pa.Array, rows: pa.Table, schema: pa.Schema
) -> StoredPart:
    """Write a data file of the rows `ids`; no version has it yet. Raises StorageError when the storage refuses."""
    from lance.file import LanceFileWriter

    fields = pa.schema([schema.field(name) for name in columns_of(schema, part)])
    version = ".".join(map(str, _FORMAT))
    table = rows.select(fields.names).cast(fields)
    digest = digest_rows(ids, table)
    name = f"{shard}.{part}.{key}.{digest}{uuid4().hex[:_RANDOM]}.lance"
    with writing(lance_uri):
        path = f"{table_uri(lance_address(lance_uri))}/data/{name}"
        with LanceFileWriter(path, fields, version=version, storage_options=table_options(lance_uri)) as writer:
            for batch in table.to_batches():
                writer.write_batch(batch)
    assert writer.size_bytes is not None  # closed without an error
    return StoredPart(name, writer.size_bytes, key, table.num_rows, digest)


def read_part_ids(lance_uri: str, part: StoredPart) -> pa.Array:
    """The ids in a data file, in the order of its rows."""
    from lance.file import LanceFileReader

    path = f"{table_uri(lance_address(lance_uri))}/data/{part.name}"
    reader = LanceFileReader(path, storage_options=table_options(lance_uri), columns=["id"])
    return reader.read_all().to_table()["id"].combine_chunks()


def commit_shards(lance_uri: str, schema: pa.Schema, shards: Sequence[PreparedShard]) -> int:
    """One new version of the table, of exactly these shards in this order; returns its number. No tag moves."""
    import lance

    fragments = []
    for number, shard in enumerate(shards):
        files = [_data_file(schema, "rows", shard.rows), _data_file(schema, "coords", shard.coords)]
        fragments.append(lance.FragmentMetadata(number, files, shard.rows.count))
    operation = lance.LanceOperation.Overwrite(schema, fragments)
    with writing(lance_uri):
        options = table_options(lance_uri)
        address = table_uri(lance_address(lance_uri))
        return int(lance.LanceDataset.commit(address, operation, storage_options=options).version)


def commit_places(lance_uri: str, version: int, schema: pa.Schema, shards: Sequence[PreparedShard]) -> int | None:
    """One new version like `version`, the newest, with the places of these shards; returns its number. No tag moves.

    Its indexes stay, as none is over places. None when more than places differs: rows, shards, their order or columns.
    """
    import lance

    dataset = _dataset(lance_uri, version)
    same = dataset.schema.names == schema.names and all(
        old.equals(new, check_metadata=True) for old, new in zip(dataset.schema, schema, strict=True)
    )
    found = list(fragment_parts(lance_uri, version)) if same else []
    if [parts and (parts.shard, parts.rows.name) for _, parts in found] != [(s.shard, s.rows.name) for s in shards]:
        return None
    changed = [
        lance.FragmentMetadata(
            fragment.fragment_id,
            [_data_file(schema, "rows", shard.rows), _data_file(schema, "coords", shard.coords)],
            shard.rows.count,
        )
        for (fragment, parts), shard in zip(found, shards, strict=True)
        if parts is not None and parts.coords.name != shard.coords.name
    ]
    places = [schema.get_field_index(name) for name in columns_of(schema, "coords")]
    operation = lance.LanceOperation.Update(
        updated_fragments=changed, fields_modified=places, update_mode="rewrite_columns"
    )
    return commit_after(lance_uri, version, operation)


def commit_after(lance_uri: str, version: int, operation: lance.LanceOperation.BaseOperation) -> int:
    """Commit what was made from `version`, the newest; returns the number of the new one.

    Raises OvertakenError when another process made a version meanwhile: Lance joins some of those that meet.
    """
    import lance

    with writing(lance_uri):
        options = table_options(lance_uri)
        address = table_uri(lance_address(lance_uri))
        done = lance.LanceDataset.commit(address, operation, read_version=version, storage_options=options)
    if done.version != version + 1:
        raise OvertakenError.of(lance_uri)
    return int(done.version)


def write_card(lance_uri: str, version: int, card: str) -> int:
    """A version like `version`, the newest, that says of itself what `card` (JSON) says; its number. No tag moves."""
    dataset = _dataset(lance_uri, version)
    with writing(lance_uri):
        dataset.update_schema_metadata({RELEASE_KEY: card})
    if dataset.version != version + 1:
        raise OvertakenError.of(lance_uri)
    return int(dataset.version)


def _data_file(schema: pa.Schema, part: Part, stored: StoredPart) -> lance.fragment.DataFile:
    from lance.fragment import DataFile

    # a fresh schema numbers its fields in order: no column has others below it
    fields = [schema.get_field_index(name) for name in columns_of(schema, part)]
    major, minor = _FORMAT
    return DataFile(stored.name, fields, list(range(len(fields))), major, minor, stored.size)


def fragment_parts(
    lance_uri: str, version: int | str | None
) -> Iterator[tuple[lance.fragment.LanceFragment, PreparedShard | None]]:
    """The fragments of a version, each with the files of its shard; None for one not written shard by shard."""
    known = known_parts(lance_uri, [version])
    by_name = {part.name: (shard, kind, part) for (shard, kind, _), part in known.items()}
    for fragment in _dataset(lance_uri, version).get_fragments():
        found = {}
        for file in fragment.metadata.files:
            if str(file.path) in by_name:
                shard, kind, part = by_name[str(file.path)]
                found[kind] = part
        whole = set(found) == {"rows", "coords"} and fragment.metadata.deletion_file is None
        yield fragment, PreparedShard(shard, found["rows"], found["coords"], 0) if whole else None


def read_part_table(lance_uri: str, name: str, columns: list[str]) -> pa.Table | None:
    """Columns of any data file of the table by its name; None for one that has not all of them."""
    from lance.file import LanceFileReader

    path, options = f"{table_uri(lance_uri)}/data/{name}", table_options(lance_uri)
    if not set(columns) <= set(LanceFileReader(path, storage_options=options).metadata().schema.names):
        return None
    return LanceFileReader(path, storage_options=options, columns=columns).read_all().to_table()


def table_files(storage: Storage, version: int | str | None = LIVE) -> list[TableFile]:
    """The data files of a version of the table, with the bytes they should have and have. None of them is read.

    Raises NotBuiltError when there is no such version, StorageError when the storage refuses.
    """
    fragments = _dataset(storage.lance_uri, version).get_fragments()
    sizes = stored_sizes(storage.lance_uri)
    files = [file for fragment in fragments for file in fragment.metadata.files]
    return [TableFile(str(file.path), sizes.get(str(file.path)), file.file_size_bytes) for file in files]


def stored_sizes(lance_uri: str) -> dict[str, int]:
    """Bytes of everything in the table's folder of data files, by name."""
    folder = f"{table_uri(lance_uri)}/data"
    if "://" not in folder:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
        return {}
    store, _ = filesystem(folder)
    with suppress(FileNotFoundError):
        return {item["name"].rsplit("/", 1)[-1]: int(item["size"]) for item in store.ls(folder, detail=True)}
    return {}


def version_times(lance_uri: str) -> dict[int, datetime]:
    """When each version of the table was made, UTC."""
    found = open_table(lance_uri, None).list_versions()
    # Lance gives local time without its zone
    return {int(version["version"]): version["timestamp"].astimezone(UTC) for version in found}


def drop_old_versions(lance_uri: str, older_than: timedelta, unverified: bool = False) -> int:
    """Remove untagged versions of that age and the files only they have; returns the bytes freed.

    Files that no version ever had (a build was killed) go when they are seven days old; with `unverified` at once,
    also those of a process that is writing now.
    """
    with writing(lance_uri):
        stats = _dataset(lance_uri, None).cleanup_old_versions(
            older_than, delete_unverified=unverified, error_if_tagged_old_versions=False
        )
    return int(stats.bytes_removed)


def _dataset(lance_uri: str, version: int | str | None) -> lance.LanceDataset:
    return open_table(lance_uri, version).to_lance()
