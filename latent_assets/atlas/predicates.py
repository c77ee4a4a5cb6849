"""Filters over the table's columns, as apps and strangers write them: a small part of SQL, read before Lance sees it.

    aesthetic >= 7 AND contains(caption, 'fox') AND NOT category IN ('flags', 'food')

    test        column (= != <> < <= > >=) value | column [NOT] BETWEEN value AND value | column [NOT] IN (value, ...)
                column [NOT] LIKE 'text' | column IS [NOT] NULL | contains(column, 'text')
    filter      tests joined by AND, OR, NOT and parentheses

Columns are those with text or numbers; values are numbers and texts in single quotes, a quote within doubled. Nothing
else is let through: a whole SQL dialect can ask for more work and memory than a machine has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from latent_assets.errors import QueryError

_LONGEST, _DEEPEST = 2_000, 32
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign><=|>=|<>|!=|[=<>(),]))"
)
_INDEXED = re.compile(r"[A-Za-z0-9]{3}")
_COMPARISONS = frozenset(["=", "!=", "<>", "<", "<=", ">", ">="])
_EXAMPLE = "Write it as in: aesthetic >= 7 AND contains(caption, 'fox')"

Token = tuple[str, str]


def checked_filter(text: str, schema: pa.Schema) -> str:
    """A filter over columns of `schema`, as Lance takes it. Raises QueryError for anything else, saying what."""
    if not isinstance(text, str) or not text.strip():
        raise QueryError(f"The filter is empty. {_EXAMPLE}")
    if len(text) > _LONGEST:
        raise QueryError(f"The filter has {len(text):,} characters, and at most {_LONGEST:,} are taken.")
    reader = _Reader(list(_tokens(text)), schema)
    found = reader.any_of(0)
    if (left := reader.peek()) is not None:
        raise QueryError(f"The filter is over at {left[1]!r}: AND or OR was expected. {_EXAMPLE}")
    return found


def filter_columns(schema: pa.Schema) -> dict[str, str]:
    """The columns that can be asked about, and whether they hold "text" or "number"."""
    kinds = {}
    for field in schema:
        if pa.types.is_string(field.type):
            kinds[field.name] = "text"
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            kinds[field.name] = "number"
    return kinds


def _tokens(text: str) -> Iterator[Token]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise QueryError(f"The filter cannot be read at {text[at : at + 20]!r}. {_EXAMPLE}")
        assert match.lastgroup is not None
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


class _Reader:
    """Reads tokens from left to right, and writes what was understood."""

    def __init__(self, tokens: Sequence[Token], schema: pa.Schema) -> None:
        self._tokens, self._at = tokens, 0
        self._columns = filter_columns(schema)

    def peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def any_of(self, depth: int) -> str:
        parts = [self._all_of(depth)]
        while self._takes("OR"):
            parts.append(self._all_of(depth))
        return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0]

    def _all_of(self, depth: int) -> str:
        parts = [self._one(depth)]
        while self._takes("AND"):
            parts.append(self._one(depth))
        return f"({' AND '.join(parts)})" if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> str:
        if depth > _DEEPEST:
            raise QueryError(f"The filter is nested deeper than {_DEEPEST} levels.")
        if self._takes("NOT"):
            return f"(NOT {self._one(depth + 1)})"
        if self._takes("("):
            found = self.any_of(depth + 1)
            self._expect(")")
            return found
        return self._test()

    def _test(self) -> str:
        kind, word = self._next("a column")
        if kind == "word" and word.lower() == "contains":
            self._expect("(")
            column = self._column(*self._next("a column"), wanted="text")
            self._expect(",")
            value = self._value("text")
            self._expect(")")
            return _contains(column, value)
        column = self._column(kind, word)
        if self._takes("IS"):
            not_null = self._takes("NOT")
            self._expect("NULL")
            return f"{column} IS {'NOT ' if not_null else ''}NULL"
        negated = "NOT " if self._takes("NOT") else ""
        holds = self._columns[column]
        if self._takes("IN"):
            self._expect("(")
            values = [self._value(holds)]
            while self._takes(","):
                values.append(self._value(holds))
            self._expect(")")
            return f"{column} {negated}IN ({', '.join(values)})"
        if self._takes("BETWEEN"):
            low = self._value(holds)
            self._expect("AND")
            return f"{column} {negated}BETWEEN {low} AND {self._value(holds)}"
        if self._takes("LIKE"):
            self._column("word", column, wanted="text")
            return f"{column} {negated}LIKE {self._value('text')}"
        kind, sign = self._next("a comparison")
        if negated or sign not in _COMPARISONS:
            raise QueryError(f"After {column} a comparison was expected, and not {sign[:40]!r}. {_EXAMPLE}")
        return f"{column} {sign} {self._value(holds)}"

    def _column(self, kind: str, name: str, wanted: str | None = None) -> str:
        if kind != "word" or name not in self._columns:
            known = ", ".join(self._columns)
            raise QueryError(f"{name[:80]!r} is no column that can be asked about. There are: {known}.")
        if wanted is not None and self._columns[name] != wanted:
            raise QueryError(f"The column {name} holds numbers, not text.")
        return name

    def _value(self, wanted: str) -> str:
        kind, value = self._next("a value")
        if kind != wanted:
            shown = "a text in single quotes" if wanted == "text" else "a number"
            raise QueryError(f"{shown} was expected, and not {value[:80]}. {_EXAMPLE}")
        return value

    def _next(self, wanted: str) -> Token:
        token = self.peek()
        if token is None:
            raise QueryError(f"The filter ends where {wanted} was expected. {_EXAMPLE}")
        self._at += 1
        return token

    def _takes(self, word: str) -> bool:
        token = self.peek()
        taken = token is not None and token[0] in ("word", "sign") and token[1].upper() == word
        self._at += taken
        return taken

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            token = self.peek()
            found = "the end" if token is None else repr(token[1][:40])
            raise QueryError(f"{word!r} was expected, and not {found}. {_EXAMPLE}")


def _contains(column: str, value: str) -> str:
    """That a column holds a text, given as a literal.

    Lance's n-gram index knows runs of three ASCII letters or digits. For a text without one it finds nothing, instead
    of reading the column; `strpos` asks no index.
    """
    return f"contains({column}, {value})" if _INDEXED.search(value) else f"strpos({column}, {value}) > 0"
