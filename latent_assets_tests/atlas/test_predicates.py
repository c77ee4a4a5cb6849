"""Filters: what is let through says the same as it was written, and nothing else is let through."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_assets.atlas.predicates import checked_filter, filter_columns
from latent_assets.atlas.schema import arrow_schema
from latent_assets.errors import QueryError

SCHEMA = arrow_schema({"clip": 4}, ("clip",))


def test_columns_with_text_or_numbers_can_be_asked_about() -> None:
    columns = filter_columns(SCHEMA)
    assert columns["caption"] == columns["id"] == "text" and columns["aesthetic"] == columns["source_hash"] == "number"
    assert not {"clip", "thumbnail", "xyz_clip"} & set(columns)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("aesthetic >= 7", "aesthetic >= 7"),
        ("aesthetic>=7.5e0 and width<>-3", "(aesthetic >= 7.5e0 AND width <> -3)"),
        ("contains(caption, 'it''s')", "strpos(caption, 'it''s') > 0"),
        ("contains(caption, 'the fox')", "contains(caption, 'the fox')"),
        ("a_b", None),
        ("NOT (category = 'x' OR category IS NULL)", "(NOT (category = 'x' OR category IS NULL))"),
        ("category not in ('x', 'y') AND url like '%.png'", "(category NOT IN ('x', 'y') AND url LIKE '%.png')"),
        ("width between 1 and 5 and height is not null", "(width BETWEEN 1 AND 5 AND height IS NOT NULL)"),
        ("width = 1 or width = 2 and height = 3", "(width = 1 OR (width = 2 AND height = 3))"),
        ("caption = '--'", "caption = '--'"),
    ],
)
def test_what_is_understood_is_written_as_lance_takes_it(written: str, taken: str | None) -> None:
    if taken is None:
        with pytest.raises(QueryError):
            checked_filter(written, SCHEMA)
    else:
        assert checked_filter(written, SCHEMA) == taken


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (7, "empty"),
        ("aesthetic", "ends where a comparison"),
        ("aesthetic >", "ends where a value"),
        ("aesthetic = 'seven'", "a number was expected"),
        ("caption = 7", "a text in single quotes was expected"),
        ('caption = "x"', "cannot be read at"),
        ("clip = 1", "no column that can be asked about"),
        ("thumbnail IS NULL", "no column that can be asked about. There are: id, url"),
        ("contains(width, '1')", "holds numbers, not text"),
        ("width LIKE '1%'", "holds numbers, not text"),
        ("repeat(caption, 1000000000) = ''", "'repeat' is no column"),
        ("1 = 1", "'1' is no column"),
        ("width = 1; DROP TABLE atlas", "cannot be read at"),
        ("width = 1 UNION", "is over at 'UNION'"),
        ("width = 1 -- x", "cannot be read at"),
        ("width = height", "a number was expected, and not height"),
        ("caption = 'open", "cannot be read at"),
        ("(width = 1", "')' was expected, and not the end"),
        ("width = 1)", "is over at ')'"),
        ("width NOT = 1", "a comparison was expected"),
        ("width IN ()", "a number was expected"),
        ("NOT " * 40 + "width = 1", "nested deeper"),
        ("(" * 900 + "width = 1" + ")" * 900, "nested deeper"),
        ("width = 1 OR " * 400 + "width = 1", "characters"),
    ],
)
def test_anything_else_is_refused_with_a_reason(written: str, said: str) -> None:
    with pytest.raises(QueryError) as refused:
        checked_filter(written, SCHEMA)
    assert said in str(refused.value)


@given(st.text(alphabet="()'=<>, ANDORNTwidthcaption10.%-\";/*\\\x00\n", max_size=60))
def test_no_text_gets_through_that_is_not_of_the_grammar(text: str) -> None:
    """Whatever is let through is letters, numbers and signs of the grammar outside of its quoted texts."""
    schema = pa.schema([("width", pa.int32()), ("caption", pa.string())])
    try:
        taken = checked_filter(text, schema)
    except QueryError:
        return
    outside = "".join(taken.split("'")[::2])
    assert set(outside) <= set("widthcaptionsANDORNTUILKEBW0123456789+-.eE()=<>!, \n")
    assert checked_filter(taken, schema) == taken
