"""Which column of a source becomes which column of the catalog: known schemas, the profile's mapping, casting.

Nothing is read here; the functions turn a schema into Polars expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    schema, names = candidates(source, found)
    for name in source.columns.values():
        if name not in found:
            raise missing_column(source, name, found, file)
    columns = {wanted: aliases[0] for wanted, aliases in names.items()}
    if "url" not in columns:
        raise lacks_url(file, found)
    for wanted, name in columns.items():
        if problem := _wrong_type(wanted, found[name]):
            raise SourceError(_complaint(file, found, f"its column `{name}` is {problem}, so it cannot be `{wanted}`"))
    return ColumnMap(schema, columns)


def candidates(source: Source, found: Iterable[str]) -> tuple[str, dict[str, list[str]]]:
    """The schema that columns (or keys) belong to, and for each catalog column those that may be it, the best first.

    Raises SourceError for a mapping of a column that the catalog does not have.
    """
    for wanted in source.columns:
        if wanted not in SOURCE_COLUMNS:
            raise SourceError(
                f"`[source.columns]` has `{wanted}`, which is not a column of the catalog. "
                f"There are: {', '.join(SOURCE_COLUMNS)}."
            )
    names = list(found)
    schema = recognise(names) if source.schema_name == "auto" else source.schema_name
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(name.lower(), []).append(name)
    columns = {
        wanted: present
        for wanted, aliases in KNOWN_SCHEMAS.get(schema, ANY_SCHEMA).items()
        if (present := [name for alias in aliases for name in by_lower.get(alias, ())])
    }
    return schema, columns | {wanted: [name] for wanted, name in source.columns.items()}


def map_unnamed(source: Source, names: Sequence[str], sample: Sequence[Sequence[str]], file: str) -> ColumnMap:
    """Decide by their values which columns are which, of a csv without a header; `sample` are its first rows.

    `url` is the column of links, `caption` the one other column of words, if it is one. The profile's mapping goes
    first. Raises SourceError when nothing is a link, or when several columns may be the caption.
    """
    columns = {wanted: name for wanted, name in source.columns.items() if name in names}
    values = {name: [row[place].strip() for row in sample] for place, name in enumerate(names)}
    left = [name for name in names if name not in columns.values()]
    if "url" not in columns:
        columns["url"] = next(name for name in left if any(_is_link(value) for value in values[name]))
        left.remove(columns["url"])
    words = [name for name in left if any(map(_is_words, values[name])) and not any(map(_is_link, values[name]))]
    if "caption" not in columns and len(words) > 1:
        raise SourceError(
            f"{file} has no header, and {', '.join(words)} may be the caption. Say which is, in the profile:\n"
            f'[source.columns]\ncaption = "{words[0]}"'
        )
    if words:
        columns.setdefault("caption", words[0])
    return ColumnMap("none", columns)


def _is_link(value: str) -> bool:
    return value.lower().startswith(("http://", "https://"))


def _is_words(value: str) -> bool:
    try:
        float(value or "0")
    except ValueError:
        return True
    return False


def recognise(found: Iterable[str]) -> str:
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


UNCAST = "uncast_"
_NOTHING = ("", "nan", "none", "null", "na", "n/a", "-", "\\n")  # the last as MySQL writes it


def says_nothing(value: object) -> bool:
    """Whether a value stands for a missing one, whichever way that is written."""
    return value is None or str(value).strip().lower() in _NOTHING


def uncast_columns(mapping: ColumnMap, found: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """Columns UNCAST + name: the values that `cast_columns` makes null although they say something.

    Of those columns only where that may be: texts that have to be numbers, numbers that have to be whole ones.
    """
    expressions = []
    for wanted, name in mapping.columns.items():
        kind, dtype = found[name], CATALOG_SCHEMA[wanted]
        if dtype == pl.String or kind == dtype or (kind.is_float() and dtype == pl.Float32) or kind == pl.Null:
            continue
        said = pl.col(name).is_not_null()
        if kind == pl.String:
            said = ~pl.col(name).str.strip_chars().str.to_lowercase().is_in(_NOTHING)
        elif kind.is_float():
            said = pl.col(name).is_not_nan()
        lost = said & _cast(name, kind, dtype).is_null()
        expressions.append(pl.when(lost).then(pl.col(name)).alias(f"{UNCAST}{wanted}"))
    return expressions


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
    if found.is_decimal() or found == pl.Int128:
        whole = pl.when(column == column.cast(pl.Decimal(38, 0), strict=False)).then(column)
        unsigned = whole.cast(pl.UInt64, strict=False).reinterpret(signed=True)
        return pl.coalesce(whole.cast(pl.Int64, strict=False), unsigned)
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


def missing_column(source: Source, name: str, found: Mapping[str, pl.DataType], file: str) -> SourceError:
    """The error of a list without a column that the profile maps to one of the catalog."""
    wanted = next(wanted for wanted, mapped in source.columns.items() if mapped == name)
    return SourceError(_complaint(file, found, f"it has no column `{name}`, which `{wanted}` is mapped to"))


def lacks_url(file: str, found: Mapping[str, pl.DataType]) -> SourceError:
    """The error of a list without a column of links."""
    return SourceError(_complaint(file, found, "it has no column for `url`"))


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
