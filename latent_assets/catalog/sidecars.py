"""What stands beside an image: `.json`, `.txt`, `.cls` and `metadata.csv`, turned into a row of the catalog.

Finding them is the business of `folder` and `webdataset`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl
import xxhash

from latent_assets.catalog.columns import ANY_SCHEMA
from latent_assets.catalog.hashing import row_id
from latent_assets.catalog.notes import note_unused
from latent_assets.catalog.schema import CATALOG_SCHEMA, SOURCE_COLUMNS
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Source

# names that are read, and those that tools write of the file itself: they say nothing that the file does not
_USED = frozenset(name for names in ANY_SCHEMA.values() for name in names) | {
    *("file_name", "key", "uid", "status", "error_message", "sha256", "md5", "exif"),
    *("bytes", "http_status", "redirects", "stored_sha256", "origin", "recipe", "evidence"),  # of our own tars
}


def read_json(data: bytes, name: str) -> dict[str, Any]:
    """The object in a `.json` sidecar. Raises SourceError when it holds none."""
    try:
        value = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise SourceError(f"{name} is not valid JSON ({error}): correct it or take it away.") from error
    if not isinstance(value, dict):
        raise SourceError(f"{name} holds a {type(value).__name__}, not an object with a caption: correct it.")
    return value


def read_text(data: bytes) -> str | None:
    """The caption in a `.txt` sidecar; None when it is empty."""
    return data.decode("utf-8", "replace").strip().removeprefix("\ufeff") or None


def catalog_values(source: Source, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The catalog's columns found in a sidecar, by the profile's mapping, then by the usual names."""
    by_lower = {str(key).lower(): value for key, value in sidecar.items()}
    used = _USED.union(name.lower() for name in source.columns.values()) if source.columns else _USED
    note_unused("sidecars", (str(key) for key, value in sidecar.items() if str(key).lower() not in used and value))
    found: dict[str, Any] = {}
    for column in SOURCE_COLUMNS:
        names = (source.columns[column],) if column in source.columns else ANY_SCHEMA.get(column, ())
        value = next((by_lower[name.lower()] for name in names if by_lower.get(name.lower()) is not None), None)
        if (converted := _converted(value, CATALOG_SCHEMA[column])) is not None:
            found[column] = converted
    return found


def file_hash(*facts: object) -> int:
    """A signed 64-bit hash of what is known of a file without reading it."""
    digest = xxhash.xxh3_64_digest(json.dumps(facts).encode())
    return int.from_bytes(digest, "big", signed=True)


def catalog_frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows (with `path` and the columns they have) as a frame of CATALOG_SCHEMA; ids come from the paths' names.

    Each row has a key `name`: the path below the source, or tar and member.
    """
    records = [
        {
            **{column: row.get(column) for column in CATALOG_SCHEMA},
            "id": row_id(str(row["name"]).encode("utf-8", "surrogateescape")),
            "url_count": 1,
        }
        for row in rows
    ]
    return pl.DataFrame(records, schema=CATALOG_SCHEMA)


def _converted(value: Any, dtype: type[pl.DataType]) -> Any:
    """A JSON value as the column's type, None when it cannot be."""
    if value is None or isinstance(value, list | dict):
        return None
    if dtype == pl.String:
        return str(value).strip() or None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if dtype == pl.Float32:
        return number
    limit = 2**31 if dtype == pl.Int32 else 2**63
    whole = int(value) if isinstance(value, int) else int(number)
    return whole if -limit <= whole < limit else None
