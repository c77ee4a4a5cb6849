"""Which column of a source becomes which column of the catalog: known schemas, the profile's mapping, casting.

Nothing is read here; the functions turn a schema into Polars expressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.catalog.schema import CATALOG_SCHEMA, COLUMN_MEANING, SOURCE_COLUMNS
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Source

# catalog column -> names a source may have for it, lower case, the most specific first
KNOWN_SCHEMAS: dict[str, dict[str, tuple[str, ...]]] = {
    "laion": {
        "url": ("url",),
        "caption": ("text", "caption"),
        "width": ("width",),
        "height": ("height",),
        "similarity": ("similarity",),
        "punsafe": ("punsafe",),
        "pwatermark": ("pwatermark",),
        "source_hash": ("hash",),
        "source_url": ("source_url", "page_url"),
        "category": ("category",),
    },
    "laion-aesthetic": {
        "url": ("url",),
        "caption": ("text", "caption"),
        "width": ("width",),
        "height": ("height",),
        "similarity": ("similarity",),
        "punsafe": ("punsafe",),
        "pwatermark": ("pwatermark",),
        "aesthetic": ("aesthetic_score", "aesthetic"),
        "source_hash": ("hash",),
        "source_url": ("source_url", "page_url"),
        "category": ("category",),
    },
    "relaion": {
        "url": ("url",),
        "caption": ("caption", "text"),
        "width": ("width",),
        "height": ("height",),
        "similarity": ("similarity",),
        "punsafe": ("punsafe",),
        "pwatermark": ("pwatermark",),
        "aesthetic": ("aesthetic", "aesthetic_score"),
        "source_hash": ("hash",),
    },
    "datacomp": {
        "url": ("url",),
        "caption": ("text", "caption"),
        "width": ("original_width", "width"),
        "height": ("original_height", "height"),
        "similarity": ("clip_l14_similarity_score", "clip_b32_similarity_score"),
    },
    "coyo": {
        "url": ("url",),
        "caption": ("text", "alt", "caption"),
        "width": ("width",),
        "height": ("height",),
        "similarity": ("clip_similarity_vitl14", "clip_similarity_vitb32"),
        "punsafe": ("nsfw_score_opennsfw2",),
        "pwatermark": ("watermark_score",),
        "aesthetic": ("aesthetic_score_laion_v2",),
    },
}

# columns by which a schema is told from the others
_TELLTALES: dict[str, frozenset[str]] = {
    "datacomp": frozenset({"clip_b32_similarity_score", "clip_l14_similarity_score", "original_width", "uid"}),
    "coyo": frozenset({"clip_similarity_vitb32", "watermark_score", "aesthetic_score_laion_v2", "image_phash"}),
}

# what any of them calls a column: for files of nobody's schema and for the sidecars of images
ANY_SCHEMA: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url", "image_link"),
    "caption": ("caption", "text", "alt", "alt_text", "title", "description"),
    "source_url": ("source_url", "page_url", "webpage"),
    "category": ("category", "label", "class"),
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "similarity": ("similarity",),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "aesthetic": ("aesthetic_score", "aesthetic"),
    "source_hash": ("hash",),
}


@dataclass(frozen=True)
class ColumnMap:
    """catalog column -> column of the source, and the name of the schema it comes from."""

    schema: str
    columns: dict[str, str]


def map_columns(source: Source, found: Mapping[str, pl.DataType], file: str) -> ColumnMap:
    """Decide which column is which. The profile's mapping goes first, then the schema.

    Raises SourceError naming the file, the columns found and the mapping to write when `url` is missing, a
    mapped column is not there or a column has a type that cannot be what it is taken for.
    """
    for wanted, name in source.columns.items():
        if wanted not in SOURCE_COLUMNS:
            raise SourceError(
                f"`[source.columns]` has `{wanted}`, which is not a column of the catalog. "
                f"There are: {', '.join(SOURCE_COLUMNS)}."
            )
        if name not in found:
            raise SourceError(_complaint(file, found, f"it has no column `{name}`, which `{wanted}` is mapped to"))
    schema = recognise(found) if source.schema_name == "auto" else source.schema_name
    names = KNOWN_SCHEMAS.get(schema, ANY_SCHEMA)
    by_lower = {name.lower(): name for name in reversed(list(found))}
    columns = {wanted: by_lower[alias] for wanted, aliases in names.items() for alias in _first(aliases, by_lower)}
    columns |= source.columns
    if "url" not in columns:
        raise SourceError(_complaint(file, found, "it has no column for `url`"))
    for wanted, name in columns.items():
        if problem := _wrong_type(wanted, found[name]):
            raise SourceError(_complaint(file, found, f"its column `{name}` is {problem}, so it cannot be `{wanted}`"))
    return ColumnMap(schema, columns)


def recognise(found: Sequence[str] | Mapping[str, pl.DataType]) -> str:
    """The known schema that fits the columns best, or `any`."""
    lower = {name.lower() for name in found}
    for schema, marks in _TELLTALES.items():
        if marks & lower:
            return schema
    if {"url", "text"} <= lower and {"aesthetic", "aesthetic_score"} & lower:
        return "laion-aesthetic"
    if {"url", "text"} <= lower and {"similarity", "punsafe", "pwatermark"} & lower:
        return "laion"
    if {"url", "caption"} <= lower and {"similarity", "punsafe", "pwatermark"} & lower:
        return "relaion"
    return "any"


def cast_columns(mapping: ColumnMap, found: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """One expression per column of SOURCE_COLUMNS, cast to its dtype; what cannot be cast becomes null."""
    return [
        _cast(mapping.columns[name], found[mapping.columns[name]], CATALOG_SCHEMA[name]).alias(name)
        if name in mapping.columns
        else pl.lit(None, CATALOG_SCHEMA[name]).alias(name)
        for name in SOURCE_COLUMNS
    ]


def _cast(name: str, found: pl.DataType, wanted: type[pl.DataType]) -> pl.Expr:
    column = pl.col(name)
    if wanted == pl.String:
        if found == pl.String:
            return column
        return column.cast(pl.String, strict=False)
    if wanted == pl.Int64:
        return _cast_hash(column, found)
    if wanted == pl.Int32 and found == pl.String:
        return column.str.strip_chars().cast(pl.Float64, strict=False).cast(wanted, strict=False)
    if wanted == pl.Float32:
        number = column.str.strip_chars() if found == pl.String else column
        value = number.cast(pl.Float32, strict=False)
        return pl.when(value.is_finite()).then(value)
    return column.cast(wanted, strict=False)


def _cast_hash(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    """A hash of 64 bits as a signed number, also of an unsigned one; of a float only where it kept all digits."""
    if found == pl.UInt64:
        return column.reinterpret(signed=True)
    if found.is_float():
        return pl.when(column.abs() < 2**53, column == column.floor()).then(column).cast(pl.Int64, strict=False)
    if found == pl.String:
        number = column.str.strip_chars()
        unsigned = number.cast(pl.UInt64, strict=False).reinterpret(signed=True)
        exact = _cast_hash(number.cast(pl.Float64, strict=False), pl.Float64())
        return pl.coalesce(number.cast(pl.Int64, strict=False), unsigned, exact)
    return column.cast(pl.Int64, strict=False)


def _wrong_type(wanted: str, found: pl.DataType) -> str:
    """`of type List(Int64)` and the like when no cast can make sense of it, else the empty string."""
    if wanted == "category":  # class numbers are names too
        fits = found.is_integer() or found == pl.Boolean or _is_text(found)
    elif CATALOG_SCHEMA[wanted] == pl.String:
        fits = _is_text(found)
    else:
        fits = found.is_numeric() or found in (pl.String, pl.Null)
    return "" if fits else f"of type {found}"


def _is_text(found: pl.DataType) -> bool:
    return found in (pl.String, pl.Categorical, pl.Null) or isinstance(found, pl.Enum)


def _first(aliases: tuple[str, ...], present: Mapping[str, str]) -> tuple[str, ...]:
    return next(((alias,) for alias in aliases if alias in present), ())


def _complaint(file: str, found: Mapping[str, pl.DataType], problem: str) -> str:
    columns = ", ".join(f"{name} ({dtype})" for name, dtype in found.items()) or "none"
    return (
        f"{file}: {problem}. Columns found: {columns}. Say which is which in the profile:\n"
        '[source.columns]\nurl = "NAME OF THE COLUMN WITH LINKS"\ncaption = "NAME OF THE COLUMN WITH TEXT"'
    )


def names_markdown() -> str:
    """The names by which columns of a list and keys of a sidecar are known, as a Markdown table, for documentation."""
    lines = ["| column | names it is known by | meaning |", "|---|---|---|"]
    for column in SOURCE_COLUMNS:
        schemas = (ANY_SCHEMA, *KNOWN_SCHEMAS.values())
        of_lists = dict.fromkeys(name for schema in schemas[1:] for name in schema.get(column, ()))
        everywhere = ANY_SCHEMA[column]
        names = ", ".join(f"`{name}`" for name in everywhere)
        if further := [name for name in of_lists if name not in everywhere]:
            names += f"; lists also {', '.join(f'`{name}`' for name in further)}"
        lines.append(f"| `{column}` | {names} | {COLUMN_MEANING[column]} |")
    return "\n".join(lines) + "\n"
