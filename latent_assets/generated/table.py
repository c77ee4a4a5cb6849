"""The LanceDB table `generated`, beside the atlas's: a row for each generated image and release it was placed on.

Rows are added, and change only when the calibration of their release does; placements on older releases stay with them.
One process writes at a time: the asset that holds the claim. Here are the columns, reading and writing; what is placed
and when is decided in `projecting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import brief, flush_table, is_absent, lance_address, table_options
from latent_assets.errors import StorageError
from latent_assets.layout import GENERATED_TABLE
from latent_assets.spaces import embeddings, spaces

if TYPE_CHECKING:
    from lancedb.table import LanceTable

_COMPACTED_FROM = 20  # fragments
_KEPT_FOR = timedelta(days=1)  # versions of the table that readers may have open

_NEIGHBORS = pa.list_(
    pa.struct(
        [("id", pa.string()), ("similarity", pa.float32()), ("distance", pa.float32()), ("size", pa.int32())],
    )
)
_BEHIND = pa.list_(
    pa.struct(
        [
            *(("field", pa.string()), ("value", pa.string()), ("count", pa.int32()), ("of", pa.int32())),
            *(("lift", pa.float32()), ("low", pa.float32()), ("high", pa.float32())),
        ]
    )
)
_PATH = pa.list_(
    pa.struct([("step", pa.int32()), ("space", pa.string()), ("xyz", pa.list_(pa.float32(), 3))]),
)
_TIME = pa.timestamp("us", tz="UTC")


def _field(name: str, kind: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable, {"description": meaning})


_FACTS = (
    _field("id", pa.string(), "SHA-256 of the file as it came, 64 hexadecimal digits"),
    _field("release", pa.int64(), "version of the atlas table on whose maps the image was placed"),
    _field("name", pa.string(), "name of the file in the inbox, without control characters"),
    _field("received", _TIME, "when the file was taken out of the inbox"),
    _field("placed", _TIME, "when it was placed on this release"),
    _field("file", pa.string(), "the original below the root of the atlas"),
    _field("bytes", pa.int64(), "size of the original"),
    _field("width", pa.int32(), "upright width of the original, in pixels"),
    _field("height", pa.int32(), "upright height of the original, in pixels"),
    _field("tool", pa.string(), "what generated it, as its metadata say", True),
    _field("prompt", pa.string(), "the prompt in its metadata or sidecar", True),
    _field("negative_prompt", pa.string(), "what the prompt excluded", True),
    _field("seed", pa.uint64(), "the seed of its noise", True),
    _field("steps", pa.int32(), "steps of denoising", True),
    _field("guidance", pa.float32(), "classifier-free guidance scale", True),
    _field("sampler", pa.string(), "sampler or scheduler", True),
    _field("model", pa.string(), "checkpoint that generated it", True),
    _field("parameters", pa.string(), "the text that prompt and parameters were read from", True),
    _field("thumbnail", pa.binary(), "WebP or JPEG file, as large as those of the atlas"),
    _field("encoder", pa.string(), "fingerprint of the models and of the size that its vectors were made with"),
    _field("calibration", pa.string(), "which measurement of what is usual in the release the verdict follows"),
    _field("verdict", pa.string(), "`usual`, `nothing is close`, `unusually close to one group` or `not calibrated`"),
    _field("explanation", pa.string(), "the verdict in one sentence with its numbers"),
    _field(
        "p_value",
        pa.float32(),
        "conformal p-value that a real image is this far from all others in any space, or has so little or so much "
        "detail",
        True,
    ),
    _field("agreement", pa.float32(), "share of near groups that all embeddings name, 0 to 1", True),
    _field("copy_of", pa.string(), "row of the atlas whose picture its pixels correlate with", True),
    _field("copy_correlation", pa.float32(), "that correlation, -1 to 1", True),
    _field(
        "copy_chance",
        pa.float32(),
        "conformal p-value that a real image is as near to one that is no near-duplicate, or correlates as well",
        True,
    ),
    _field(
        "behind",
        _BEHIND,
        "what stands behind its neighbours: count, share over that in the atlas (lift), 95 % interval",
    ),
    _field(
        "path", _PATH, "places of its way through generation on the maps of this release, where the generator told them"
    ),
)
_OF_EMBEDDING = (("{}", pa.list_(pa.float32()), "vector: {meaning}"),)
_OF_SPACE = (
    (f"{PLACE}{{}}", pa.list_(pa.float32(), 3), "place on the map of {meaning}, map units"),
    ("spread_{}", pa.float32(), "standard deviation of the neighbours' places around it, map units"),
    ("jitter_{}", pa.float32(), "standard error of the place, from leaving out halves of the neighbours, map units"),
    ("trust_{}", pa.float32(), "whether what is drawn around it is near in {name} as well, 0 to 1"),
    (
        "near_{}",
        _NEIGHBORS,
        "nearest groups of near-duplicates in {name}: row of the nearest member, similarity (1 for the same), "
        "distance, members seen",
    ),
    ("distance_{}", pa.float32(), "distance in {name} to the nearest fitted image"),
    ("percentile_{}", pa.float32(), "per cent of held-out real images that are nearer to theirs in {name}"),
    ("group_percentile_{}", pa.float32(), "per cent of the atlas's images that are nearer to another group in {name}"),
    ("p_value_{}", pa.float32(), "`p_value` of {name} alone"),
    ("verdict_{}", pa.string(), "`verdict` of {name} alone"),
)


def generated_schema(
    with_embeddings: Iterable[str] | None = None, with_spaces: Iterable[str] | None = None
) -> pa.Schema:
    """The columns of placements on a release with those embeddings and spaces (default: all that are registered).

    The columns of another release's are added beside them, and are null where a placement has none.
    """
    rows, places = embeddings(), spaces()
    found = list(_FACTS)
    for name in rows if with_embeddings is None else with_embeddings:
        for column, kind, meaning in _OF_EMBEDDING:
            text = meaning.format(name=name, meaning=rows[name].meaning)
            found.append(_field(column.format(name), kind, text, True))
    for name in places if with_spaces is None else with_spaces:
        for column, kind, meaning in _OF_SPACE:
            text = meaning.format(name=name, meaning=places[name].shows)
            found.append(_field(column.format(name), kind, text, True))
    return pa.schema(found)


def generated_schema_markdown() -> str:
    """The schema as a Markdown table, for the documentation."""
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for field in generated_schema():
        meaning = field.metadata[b"description"].decode()
        lines.append(
            f"| `{field.name}` | `{_type_text(field.type)}` | {'yes' if field.nullable else 'no'} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _type_text(kind: pa.DataType) -> str:
    """A type as a reader of the documentation sees it."""
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_type_text(field.type)}' for field in kind)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list<{_type_text(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{_type_text(kind.value_type)}>"
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))


# a placement by another calibration, or of a version before, which did not note it
_ANOTHER = "target.calibration IS NULL OR target.calibration != source.calibration"


class GeneratedTable:
    """The table in a LanceDB directory. It need not be there: then it has no rows."""

    def __init__(self, lance_uri: str) -> None:
        self._uri = lance_uri

    def open(self) -> LanceTable | None:
        """The table as it is now; None when nothing was placed yet. Raises StorageError when it cannot be read."""
        if "://" not in self._uri and not Path(self._uri).is_dir():
            return None  # connecting would make the directory
        import lancedb

        with _explained(self._uri):
            database = lancedb.connect(lance_address(self._uri), storage_options=table_options(self._uri))
            try:
                return database.open_table(GENERATED_TABLE)
            except (ValueError, OSError, RuntimeError) as error:
                if is_absent(error):
                    return None
                raise

    def placements(self) -> dict[str, dict[int, str | None]]:
        """By image the releases that it was placed on, each with the version of the calibration.

        None for placements of a version before, which did not note it.
        """
        found: dict[str, dict[int, str | None]] = {}
        for row in self._rows(["id", "release", "calibration"]):
            found.setdefault(row["id"], {})[row["release"]] = row["calibration"]
        return found

    def names(self) -> list[str]:
        """Names of its columns; [] when nothing was placed yet."""
        table = self.open()
        return list(table.schema.names) if table is not None else []

    def columns(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Columns of all rows."""
        return self._rows(names)

    def rows(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The newest placement of each of the images `ids` that was placed, by id."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), 500):
            listed = ", ".join(f"'{row_id}'" for row_id in ids[start : start + 500])
            for row in self._rows(None, f"id IN ({listed})"):
                if row["id"] not in found or found[row["id"]]["release"] < row["release"]:
                    found[row["id"]] = row
        return found

    def ages(self) -> dict[str, tuple[Any, str]]:
        """When each image was received, and where its original lies, by id."""
        return {row["id"]: (row["received"], row["file"]) for row in self._rows(["id", "received", "file"])}

    def add(self, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> int:
        """Add placements (id and release), but for those that are there already by the same calibration; one by
        another is replaced. How many rows were written."""
        if not rows:
            return 0
        import lancedb

        data = pa.Table.from_pylist([dict(row) for row in rows], schema)
        with _explained(self._uri):
            table = self.open()
            if table is None:
                database = lancedb.connect(lance_address(self._uri), storage_options=table_options(self._uri))
                database.create_table(GENERATED_TABLE, data)
                flush_table(self._uri, GENERATED_TABLE)
                return len(rows)
            self._widen(table, schema)
            # what an earlier version began with vectors of 16 bits stays so
            data = data.cast(pa.schema([f.with_type(table.schema.field(f.name).type) for f in data.schema]))
            whole = pa.schema([data.schema.field(f.name) if f.name in data.schema.names else f for f in table.schema])
            for field in whole:
                if field.name not in data.schema.names:
                    data = data.append_column(field, pa.nulls(len(data), field.type))
            merge = table.merge_insert(["id", "release"])
            merge = merge.when_matched_update_all(where=_ANOTHER)
            result = merge.when_not_matched_insert_all().execute(data.select(whole.names))
            flush_table(self._uri, GENERATED_TABLE)
            return int(result.num_inserted_rows + result.num_updated_rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete all placements of images."""
        table = self.open() if ids else None
        if table is not None:
            with _explained(self._uri):
                for start in range(0, len(ids), 500):
                    listed = ", ".join(f"'{row_id}'" for row_id in ids[start : start + 500])
                    table.delete(f"id IN ({listed})")
            flush_table(self._uri, GENERATED_TABLE)

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table anew with these rows, and remove every version before, whoever reads it."""
        table = self.open()
        if table is None:
            return
        import lancedb

        with _explained(self._uri):
            data = pa.Table.from_pylist([dict(row) for row in rows], table.schema)
            database = lancedb.connect(lance_address(self._uri), storage_options=table_options(self._uri))
            fresh = database.create_table(GENERATED_TABLE, data, mode="overwrite")
            fresh.to_lance().cleanup_old_versions(timedelta(0), delete_unverified=True)
        flush_table(self._uri, GENERATED_TABLE)

    def compact(self) -> None:
        """Join many small pieces into few, and drop versions that are older than a day."""
        table = self.open()
        if table is not None:
            with _explained(self._uri):
                if table.stats()["fragment_stats"]["num_fragments"] > _COMPACTED_FROM:
                    table.optimize(cleanup_older_than=_KEPT_FOR)

    def _rows(self, columns: list[str] | None, where: str | None = None) -> Iterator[dict[str, Any]]:
        table = self.open()
        if table is None:
            return
        with _explained(self._uri):
            # a table begun by an earlier version has fewer columns until it is written to
            absent = dict.fromkeys(set(columns or ()) - set(table.schema.names))
            search = table.search().limit(None)
            search = search.select([name for name in columns if name not in absent]) if columns else search
            for batch in (search.where(where) if where else search).to_batches():
                yield from (row | absent for row in batch.to_pylist())

    def _widen(self, table: LanceTable, schema: pa.Schema) -> None:
        """Add the columns of embeddings and spaces that the table does not have yet."""
        if new := [field for field in schema if field.name not in table.schema.names]:
            table.add_columns(pa.schema(new))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what Lance says into a StorageError that names the table."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(
            f"The table {GENERATED_TABLE} in {uri} cannot be read or written ({brief(error)}). Check the address, the "
            "credentials and the space; what was not placed is noted and placed again."
        ) from error
