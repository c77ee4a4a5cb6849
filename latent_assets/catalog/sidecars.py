"""What stands beside an image: `.json`, `.txt`, `.cls` and `metadata.csv`, turned into a row of the catalog.

Which sidecar belongs to which image follows from their names, here; finding the files is the business of `folder` and
`webdataset`.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import polars as pl
import xxhash

from latent_assets.catalog.columns import ANY_SCHEMA, says_nothing
from latent_assets.catalog.hashing import row_id
from latent_assets.catalog.names import whole
from latent_assets.catalog.schema import CATALOG_SCHEMA, SOURCE_COLUMNS
from latent_assets.catalog.source import IMAGE_SUFFIXES
from latent_assets.errors import SourceError
from latent_assets.text import decode_text

if TYPE_CHECKING:
    from latent_assets.catalog.findings import Findings
    from latent_assets.profile import Source

SIDECARS = frozenset({"json", "txt", "cls"})
LONGEST_SIDECAR = 4_000_000
_KEY_VALUE = re.compile(r"[\w.@-]+=")
# names that are read, and those that tools write of the file itself: they say nothing that the file does not
_USED = frozenset(name for names in ANY_SCHEMA.values() for name in names) | {
    *("file_name", "key", "uid", "status", "error_message", "sha256", "md5", "exif"),
    *("bytes", "http_status", "redirects", "stored_sha256", "origin", "recipe", "evidence"),  # of our own tars
}

Place = TypeVar("Place")


def is_image(name: str) -> bool:
    """Whether a name ends as those of images do, in small letters or capitals."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def folded(name: str) -> str:
    """A name by which those are alike that differ in capitals, or in how accents are composed."""
    return unicodedata.normalize("NFC", whole(name)).casefold()


def key_of(name: str) -> tuple[str, str]:
    """(key, extension in small letters) of an image or a sidecar: the key ends at the last dot."""
    key, _, extension = name.rpartition(".")
    return posixpath.normpath(key).lstrip("/"), extension.lower()


class Sidecars(Generic[Place]):
    """Which sidecars belong to an image, by their names. `Place` is wherever one of them lies.

    Those of its key (`v1.5_0.txt` of `v1.5_0.png`) come before those of its whole name (`v1.5_0.png.txt`), then those
    of the key up to an earlier dot, which several images share (`7.txt` of `7.0.jpg` and `7.1.jpg`) when there is no
    image of that key (`7.jpg`). Capitals, and whether accents are letters of their own (macOS), make a difference only
    where both ways of writing are there.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._images = {key_of(name)[0] for name in images}
        self._places: dict[str, dict[str, Place]] = {}
        self._names: dict[tuple[str, str], list[str]] = {}  # by key and extension
        self._folded: dict[str, str] = {}
        self._used: set[tuple[str, str]] = set()

    def add(self, name: str, place: Place) -> None:
        """A sidecar; of two of one key and extension the first stays."""
        key, extension = key_of(name)
        self._places.setdefault(key, {}).setdefault(extension, place)
        self._names.setdefault((key, extension), []).append(name)
        if key not in self._images:
            self._folded.setdefault(folded(key), key)

    def of(self, image: str) -> dict[str, Place]:
        """The sidecars of an image, by extension."""
        found: dict[str, Place] = {}
        for key in self._keys(image):
            if places := self._places.get(key):
                self._used.update((key, extension) for extension in places.keys() - found.keys())
                found = {**places, **found}
        return found

    def unused(self) -> Iterator[str]:
        """Names of the sidecars that no image took: none asked for them, or there was another in their place."""
        for key, names in self._names.items():
            yield from names[1:] if key in self._used else names

    def _keys(self, image: str) -> Iterator[str]:
        key = key_of(image)[0]
        for exact in (key, posixpath.normpath(image)):
            yield exact if exact in self._places else self._folded.get(folded(exact), exact)
        if key not in self._places:
            folder, slash, base = key.rpartition("/")
            while "." in base.strip("."):
                base = base.rpartition(".")[0]
                if (shorter := f"{folder}{slash}{base}") in self._images:
                    return
                if shorter in self._places:
                    yield shorter
                    return


def described(
    source: Source, sidecars: Mapping[str, bytes], named: Callable[[str], str], findings: Findings
) -> dict[str, Any]:
    """The catalog's columns in the sidecars of an image, their bytes by extension; `named` says their names.

    An object in a `.json` says more than the others. Sidecars that cannot be read are told to `findings`.
    """
    values: dict[str, Any] = {}
    if label := _text(sidecars.get("cls"), named("cls"), findings):
        values["category"] = label.strip() or None
    if text := _text(sidecars.get("txt"), named("txt"), findings):
        values["caption"] = caption_of(text, source.caption)
    if text := _text(sidecars.get("json"), named("json"), findings):
        values |= catalog_values(source, _object(text, named("json"), findings), named("json"), findings)
    return {column: value for column, value in values.items() if value is not None}


def caption_of(text: str, part: str) -> str | None:
    """The caption in a `.txt`; None when it is empty. `part` is `source.caption` of the profile."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if part.startswith("key:"):
        wanted = re.compile(rf"{re.escape(part.removeprefix('key:'))}(?:\.[\w-]+)?=(.*)")
        found = next((match[1].strip() for line in lines if (match := wanted.fullmatch(line))), None)
        return found or (lines[0] if lines else None)
    translated = len(lines) > 1 and all(_KEY_VALUE.match(line) for line in lines[1:])
    if lines and (part == "first_line" or (part == "auto" and translated)):
        return lines[0]
    return text.strip() or None


def catalog_values(source: Source, sidecar: Mapping[str, Any], place: str, findings: Findings) -> dict[str, Any]:
    """The catalog's columns found in a sidecar, by the profile's mapping, then by the usual names."""
    by_lower = {str(key).lower(): value for key, value in sidecar.items()}
    used = _USED.union(name.lower() for name in source.columns.values()) if source.columns else _USED
    findings.unused("sidecars", (str(key) for key, value in sidecar.items() if str(key).lower() not in used and value))
    found: dict[str, Any] = {}
    for column in SOURCE_COLUMNS:
        names = (source.columns[column],) if column in source.columns else ANY_SCHEMA.get(column, ())
        value = next((by_lower[name.lower()] for name in names if by_lower.get(name.lower()) is not None), None)
        if (converted := _converted(value, CATALOG_SCHEMA[column])) is not None:
            found[column] = converted
        elif not says_nothing(value):
            example = f"{str(value)[:80]!r} in {place}"
            findings.note(f"values of `{column}` in sidecars cannot be one: they count as missing", 1, example)
    return found


def file_hash(*facts: object) -> int:
    """A signed 64-bit hash of what is known of a file without reading it."""
    digest = xxhash.xxh3_64_digest(json.dumps(facts).encode())
    return int.from_bytes(digest, "big", signed=True)


def catalog_frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows (with `path` and the columns they have) as a frame of CATALOG_SCHEMA; ids come from the paths' names.

    Each row has a key `name`: the path below the source, or tar and member. Texts that have no encoding get one.
    """
    records = [
        {
            **{column: _whole(row.get(column)) for column in CATALOG_SCHEMA},
            "id": row_id(str(row["name"]).encode("utf-8", "surrogateescape")),
            "url_count": 1,
        }
        for row in rows
    ]
    return pl.DataFrame(records, schema=CATALOG_SCHEMA)


def _whole(value: Any) -> Any:
    return whole(value) if isinstance(value, str) else value


def _text(data: bytes | None, name: str, findings: Findings) -> str:
    """The text of a sidecar, "" when there is none, or none that can be read."""
    if data is None:
        return ""
    try:
        text = decode_text(data, name)
    except SourceError as error:
        findings.bad_sidecar(str(error).rstrip("."))
        return ""
    if not text.strip():
        findings.note("sidecars are empty", 1, name)
        return ""
    return text


def _object(text: str, name: str, findings: Findings) -> dict[str, Any]:
    """The object in a `.json` sidecar."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        findings.bad_sidecar(f"{name} is not valid JSON ({error})")
        return {}
    if not isinstance(value, dict):
        findings.bad_sidecar(f"{name} holds a {type(value).__name__}, not an object with a caption")
        return {}
    return value


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
    whole_number = int(value) if isinstance(value, int) else int(number)
    return whole_number if -limit <= whole_number < limit else None
