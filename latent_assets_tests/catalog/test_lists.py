"""Lists that are text, as tools and people write them: keys that come late, stray quotes, no header."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_assets.catalog import csv_reader
from latent_assets.catalog.csv_reader import CsvReader
from latent_assets.catalog.findings import Findings
from latent_assets.errors import SourceError
from latent_assets_tests.catalog.conftest import Collection, aesthetics


def put(collection: Collection, name: str, content: str | bytes) -> Path:
    path = collection.folder / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def captions(collection: Collection) -> dict[str, str | None]:
    rows = collection.rows()
    return dict(zip(rows["url"].to_list(), rows["caption"].to_list(), strict=True))


def found(collection: Collection) -> dict[str, dict[str, Any]]:
    return {row["url"].rpartition("/")[2]: row for row in collection.rows().iter_rows(named=True)}


# -- jsonl ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [101, 10_001, 50_001])
def test_keys_and_types_that_come_late_lose_nothing(collection: Collection, late: int) -> None:
    rows: list[dict[str, Any]] = [{"url": f"https://e.com/{n}", "width": n} for n in range(late)]
    rows += [
        {"url": "https://e.com/a", "caption": "late", "width": 1.5, "aesthetic": "6.5"},
        {"url": "https://e.com/b", "caption": 7, "width": "640", "punsafe": 0.25, "hash": 2**64 - 1},
        {"url": "https://e.com/c", "caption": True, "WIDTH": 3, "hash": -5},
    ]
    put(collection, "a.jsonl", lines(rows))
    collection.filters, collection.shards = {"require_caption": False}, {"rows": 100_000}
    assert collection.build().rows_kept == late + 3
    got = found(collection)
    assert [got[name]["caption"] for name in "abc"] == ["late", "7", "true"]
    assert [got[name]["width"] for name in "abc"] == [1, 640, 3]
    assert (got["a"]["aesthetic"], got["b"]["punsafe"]) == (6.5, 0.25)
    assert [got[name]["source_hash"] for name in "bc"] == [-1, -5]


def test_what_cannot_be_cast_is_counted_and_named(collection: Collection) -> None:
    put(
        collection,
        "a.jsonl",
        lines(
            [
                {"url": "https://e.com/1", "caption": "c", "width": "wide", "punsafe": {"p": 1}},
                {"url": "https://e.com/2", "caption": "d", "width": 3_000_000_000, "punsafe": "NaN"},
                {"url": "https://e.com/3", "caption": ["e"], "text": "f", "width": None, "punsafe": ""},
            ]
        ),
    )
    report = collection.build()
    assert report.rows_kept == 3
    assert {url[-1]: text for url, text in captions(collection).items()} == {"1": "c", "2": "d", "3": "f"}
    told = "\n".join(report.notes)
    assert "2 values of `width` are no numbers" in told and "'wide'" in told
    assert "1 values of `punsafe` are neither text nor a number" in told
    assert "no numbers that it can hold: they count as missing (the first: 'NaN'" not in told


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_values_of_tables_that_cannot_be_cast_are_counted(collection: Collection, name: str) -> None:
    frame = pl.DataFrame({"url": [f"https://e.com/{n}" for n in range(4)], "text": "c", "height": ["1", "x", "", "y"]})
    collection.write(name, frame)
    (note,) = collection.build().notes
    assert note.startswith("2 values of `height` are no numbers") and name in note
    assert "'x' in" in note or "'y' in" in note  # parquet is read in any order


def test_missing_values_and_large_hashes_of_other_tools(collection: Collection) -> None:
    """`\\N` as MySQL writes it; unsigned hashes as decimals, as engines without unsigned integers keep them."""
    put(collection, "a.csv", "url,text,width\nhttps://e.com/1,a,\\N\nhttps://e.com/2,b,640\n")
    assert collection.build().notes == ()
    frame = pl.DataFrame({"url": [f"https://e.com/{n}" for n in range(5)], "text": "c"})
    hashes = ["18446744073709551615", "-5", "18446744073709551616", None, "9223372036854775808"]
    for dtype in (pl.Decimal(20, 0), pl.Int128):
        other = Collection(collection.folder / str(dtype)[:3])
        other.write("a.parquet", frame.with_columns(hash=pl.Series(hashes).cast(dtype)))
        (note,) = other.build().notes
        assert note.startswith("1 values of `source_hash`") and "18446744073709551616" in note
        assert {int(u[-1]): h for u, h in other.rows()["url", "source_hash"].rows()} == {
            0: -1, 1: -5, 2: None, 3: None, 4: -(2**63),
        }  # fmt: skip


def test_a_column_that_comes_twice_is_named(collection: Collection) -> None:
    put(collection, "a.csv", "url,text,text\nhttps://e.com/1,first,second\n")
    (note,) = collection.build().notes
    assert captions(collection) == {"https://e.com/1": "first"} and note.startswith("not used of the columns: text;")


def test_numbers_that_are_too_large_for_their_column_are_counted(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(3).with_columns(WIDTH=pl.Series([1.0, float("nan"), 1e12])))
    (note,) = collection.build().notes
    assert note.startswith("1 values of `width`") and "1000000000000.0" in note


def test_lone_surrogates_in_captions_are_replaced(collection: Collection) -> None:
    put(
        collection,
        "a.jsonl",
        '{"url": "https://e.com/1", "caption": "a \\ud83d b"}\n'
        '{"url": "https://e.com/2", "caption": "\\ud83d\\ude00"}\n',
    )
    collection.build()
    assert sorted(captions(collection).values(), key=str) == ["a \ufffd b", "😀"]


BAD_LINES = [
    (b'{"url": "https://e.com/2", "caption": "b"', "line 2: it is not valid JSON"),
    (b'{"url": "https://e.com/2"}, ', "line 2: it is not valid JSON"),
    (b"[1, 2]", "line 2: it holds a list, not an object"),
    (b"null", "line 2: it holds a NoneType"),
    (b'{"url": "https://e.com/\xe9", "caption": "b"}', "line 2: it is not in UTF-8"),
    (b"[" * 100_000, "line 2: it is not valid JSON"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES, ids=[problem for _, problem in BAD_LINES])
def test_a_line_that_is_no_object_is_named_or_skipped(collection: Collection, line: bytes, problem: str) -> None:
    sound = [b'{"url": "https://e.com/%d", "caption": "c"}' % n for n in (1, 3)]
    put(collection, "a.jsonl", b"\n".join([sound[0], line, b"", b"  ", sound[1]]))
    with pytest.raises(SourceError) as caught:
        collection.build()
    assert f"a.jsonl, {problem}" in str(caught.value) and "`skip_bad_rows = true`" in str(caught.value)
    collection.source = {"skip_bad_rows": True}
    report = collection.build()
    assert (report.rows_read, report.rows_kept) == (3, 2) and dict(report.funnel)["bad_row"] == 1
    assert f"a.jsonl, {problem}" in report.notes[0]


def test_a_jsonl_without_links_is_refused_with_all_its_keys(collection: Collection) -> None:
    put(collection, "a.jsonl", lines([{"a": 1}, {"b": {"url": "https://e.com"}}]))
    with pytest.raises(SourceError, match=r"no column for `url`. Columns found: a \(String\), b \(String\)"):
        collection.build()


def test_links_below_another_key_are_no_links_of_the_row(collection: Collection) -> None:
    rows = [
        {"image_url": f"https://e.com/{n}", "meta": {"url": "https://no.com", "uid": 1}, "alt": "c"} for n in (1, 2)
    ]
    put(collection, "a.jsonl", lines(rows))
    collection.build()
    assert sorted(captions(collection)) == ["https://e.com/1", "https://e.com/2"]


# -- csv -----------------------------------------------------------------------------------------------

HEAD = "url,text\n"
BAD_RECORDS = [
    ("https://e.com/2,b,c\n", "line 3: 3 fields where there have to be 2"),
    ("https://e.com/2\n", "line 3: 1 fields where there have to be 2"),
    ('https://e.com/2,"b\n', "line 3: a quote is not closed"),
    ('https://e.com/2,"b" c\n', "line 3: a quote is not closed, or"),
    ('"https://e.com/2,b\n', "line 3: a quote is "),
]


@pytest.mark.parametrize(("record", "problem"), BAD_RECORDS, ids=[problem for _, problem in BAD_RECORDS])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_record_that_is_none_is_named_or_skipped(collection: Collection, record: str, problem: str, end: str) -> None:
    text = HEAD + "https://e.com/1,a\n" + record + 'https://e.com/3,"c, d"\nhttps://e.com/4,"e\nf"\n'
    put(collection, "a.csv", text.replace("\n", end))
    with pytest.raises(SourceError) as caught:
        collection.build()
    assert f"a.csv, {problem}" in str(caught.value) and "`skip_bad_rows = true`" in str(caught.value)
    collection.source = {"skip_bad_rows": True}
    report = collection.build()
    assert (report.rows_kept, dict(report.funnel)["bad_row"]) == (3, 1)
    assert captions(collection) == {
        "https://e.com/1": "a",
        "https://e.com/3": "c, d",
        "https://e.com/4": f"e{end}f",
    }


def test_a_stray_quote_does_not_swallow_the_file(collection: Collection) -> None:
    """Polars and others read to the next quote, which may be far away, and take it all for one caption."""
    rows = [f"https://e.com/{n},picture {n}\n" for n in range(20_000)]
    rows[5_000] = 'https://e.com/5000,"12 inch" record\n'
    rows[10_000] = 'https://e.com/10000,"open\n'
    put(collection, "a.csv", HEAD + "".join(rows))
    collection.source, collection.shards = {"skip_bad_rows": True}, {"rows": 100_000}
    report = collection.build()
    assert (report.rows_kept, dict(report.funnel)["bad_row"]) == (19_998, 2)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_whatever_python_writes_as_csv_is_read_as_it_was(rows: list[list[str]], separator: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([["url", "text"], *rows])
    findings = Findings()
    reader = CsvReader(io.BytesIO(text.getvalue().encode()), "a.csv", findings, separator)
    assert reader.names == ["url", "text"]
    frames = list(reader.batches(reader.names))
    assert [list(row) for frame in frames for row in frame.rows()] == [[cell or None for cell in row] for row in rows]
    assert not findings.dropped


LINES = st.one_of(
    st.text(st.sampled_from("ab, ;'#ü"), max_size=8),
    st.sampled_from(["a,b", "https://e.com/1,x", ",", "", "a,ü", ",b", "\ufeffa,b"]),
    st.text(st.sampled_from('ab,"\r\0\udcff\ufeff'), max_size=8),
)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(LINES, ENDS), max_size=40),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([["u"], ["t", "u"]]),
)
def test_blocks_that_are_parsed_as_a_whole_give_what_each_line_gives(
    lines: list[tuple[str, str]], block: int, ends: bool, wanted: list[str]
) -> None:
    text = "u,t\n" + "".join(line + end for line, end in lines)
    data = (text if ends else text.rstrip("\r\n")).encode("utf-8", "surrogateescape")

    def read(plain: bool) -> tuple[list[tuple[str | None, ...]], dict[str, int]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_reader, "_BEGINNING", 1)
            patch.setattr(csv_reader, "_BLOCK", block if plain else 1 << 20)
            patch.setattr(csv_reader, "_FIRST", 4)
            if not plain:
                patch.setattr(csv_reader, "_plain", lambda *_: None)
            findings = Findings(skip_bad_rows=True)
            reader = CsvReader(io.BytesIO(data), "a.csv", findings, ",")
            frames = list(reader.batches(wanted))
        assert all(frame.columns == wanted for frame in frames)
        # which of the bad rows of a block is told first may differ
        counts = {what: times for what, (times, _) in findings.noted.items()}
        return [row for frame in frames for row in frame.rows()], counts

    assert read(True) == read(False)


def test_most_blocks_of_a_usual_file_are_parsed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"https://e.com/für/{n},picture {n},{n}\n" for n in range(200_000)]
    rows[60_000] = 'https://e.com/q,"quoted, and\nof two lines",7\n'
    rows[150_000] = "https://e.com/ragged,x\n"
    careful: list[int] = []
    read = csv_reader._lines
    monkeypatch.setattr(csv_reader, "_lines", lambda block: careful.append(len(block)) or read(block))
    monkeypatch.setattr(csv_reader, "_BLOCK", 1 << 18)
    findings = Findings(skip_bad_rows=True)
    data = ("url,text,n\n" + "".join(rows)).encode()
    reader = CsvReader(io.BytesIO(data), "a.csv", findings)
    frame = pl.concat(reader.batches(["n", "url"]))
    assert frame.height == 199_999 and frame["n"].head(3).to_list() == ["0", "1", "2"]
    assert findings.noted["rows could not be read and were left out"][1].startswith("a.csv, line 150003: 2 fields")
    assert sum(careful) < len(data) / 5


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab\",\n\r;'\ufeff \t"), max_size=60))
def test_no_text_breaks_the_csv_reader_and_every_line_counts(text: str) -> None:
    """Whatever stands there: with bad rows skipped, lines without a quote that have two fields are rows."""
    sound = "https://e.com/last,caption\n"
    findings = Findings(skip_bad_rows=True)
    reader = CsvReader(io.BytesIO(("url,text\n" + text + "\n" + sound).encode()), "a.csv", findings, ",")
    rows = [row for frame in reader.batches(reader.names) for row in frame.rows()]
    assert rows[-1] == ("https://e.com/last", "caption") or '"' in text


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_told_by_the_first_lines(collection: Collection, separator: str) -> None:
    rows = [["URL", "TEXT", "WIDTH"], *([f"https://e.com/{n}", "a, b", str(n)] for n in range(3))]
    put(collection, "a.csv", "".join(separator.join(row) + "\n" for row in rows))
    collection.build()
    assert collection.rows()["width"].sort().to_list() == [0, 1, 2] and set(captions(collection).values()) == {"a, b"}


# -- without header, without columns -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("https://e.com/1,a picture\nhttps://e.com/2,another\n", {"a picture", "another"}),
        ("a picture,https://e.com/1\n,https://e.com/2\n", {"a picture"}),
        ("7,https://e.com/1,a picture,640\n8,https://e.com/2,another,480\n", {"a picture", "another"}),
        ('"https://e.com/1"\n"https://e.com/2"\n', {None}),
        ("HTTPS://e.com/1;a picture\nhttps://e.com/2;another\n", {"a picture", "another"}),
    ],
)
def test_a_csv_without_a_header_is_a_source(collection: Collection, text: str, caption: set[str | None]) -> None:
    put(collection, "a.csv", text)
    report = collection.build()
    assert set(captions(collection).values()) == caption
    assert report.rows_kept == (1 if len(caption) == 1 and None not in caption else 2)


def test_a_csv_without_a_header_and_with_several_captions_asks_which(collection: Collection) -> None:
    put(collection, "a.csv", "https://e.com/1,red,a picture\n")
    with pytest.raises(SourceError, match=r"column_2, column_3 may be the caption.*\n\[source\.columns\]\ncaption ="):
        collection.build()
    collection.source = {"columns": {"caption": "column_3", "category": "column_2"}}
    collection.build()
    row = collection.rows().row(0, named=True)
    assert (row["caption"], row["category"]) == ("a picture", "red")


@pytest.mark.parametrize("name", ["links.txt", "links.TXT", "links.txt.gz"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_plain_links_are_a_source(collection: Collection, name: str, mark: bytes) -> None:
    text = "# a comment\nhttps://e.com/1\n\n  https://e.com/für 2.jpg\r\nhttp://e.com/1\n"
    data = mark + text.encode("utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-8")
    path = put(collection, name, gzip.compress(data) if name.endswith(".gz") else data)
    collection.source = {"path": str(path)}
    report = collection.build()
    assert set(captions(collection)) == {"https://e.com/1", "https://e.com/für 2.jpg", "http://e.com/1"}
    assert report.rows_read == 3


def test_plain_links_of_old_macs(collection: Collection) -> None:
    put(collection, "links.txt", "https://e.com/1\rhttps://e.com/2\r\rhttps://e.com/3\r")
    collection.build()
    assert set(captions(collection)) == {f"https://e.com/{n}" for n in (1, 2, 3)}


def test_a_table_named_txt_is_told_by_its_tabs(collection: Collection) -> None:
    put(collection, "links.txt", "https://e.com/1\t\nhttps://e.com/2\ta caption\n")
    with pytest.raises(SourceError, match=r"links\.txt, line 2: a tab.*named \.tsv"):
        collection.build()
    collection.source = {"skip_bad_rows": True}
    assert dict(collection.build().funnel)["bad_row"] == 1


def test_plain_links_need_no_captions_unless_the_profile_says_so(collection: Collection) -> None:
    put(collection, "links.txt", "https://e.com/1\n")
    assert collection.build().rows_kept == 1
    collection.filters = {"require_caption": True}
    report = collection.build()
    assert (report.rows_kept, dict(report.funnel)["no_caption"]) == (0, 1)


def test_texts_beside_tables_are_no_lists_and_are_named(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(2))
    put(collection, "README.txt", "read me")
    put(collection, "LICENSE.md", "free")
    report = collection.build()
    assert report.rows_kept == 2
    assert report.notes == ("2 files were left out: they are no lists (the first: LICENSE.md)",)


# -- encodings -----------------------------------------------------------------------------------------

LIST = "url,text\nhttps://e.com/für,Zoë\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_lists_say_in_which_encoding_they_are(collection: Collection, name: str, encoding: str) -> None:
    text = LIST if name == "a.csv" else lines([{"url": "https://e.com/für", "text": "Zoë"}])
    put(collection, name, text.encode(encoding))
    collection.build()
    assert captions(collection) == {"https://e.com/für": "Zoë"}


def test_a_csv_declares_its_encoding_in_a_comment(collection: Collection) -> None:
    put(collection, "a.csv", ("# coding: latin-1\n" + LIST).encode("latin-1"))
    collection.build()
    assert captions(collection) == {"https://e.com/für": "Zoë"}


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_other_encodings_are_refused_with_file_and_line(collection: Collection, name: str) -> None:
    put(
        collection,
        name,
        ("url,text\n" if name == "a.csv" else "url\n").encode() + "https://e.com/für,Zoë\n".encode("latin-1"),
    )
    with pytest.raises(SourceError, match=rf"{name}, line 2: it is not in UTF-8"):
        collection.build()


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.txt.gz"])
def test_half_a_packed_list_is_named(collection: Collection, name: str) -> None:
    text = "".join(f"https://e.com/{n * 7919},{n}\n" for n in range(5_000))
    packed = gzip.compress((HEAD + text if name == "a.csv.gz" else lines([{"url": text}] * 9)).encode())
    put(collection, name, packed[: len(packed) // 2])
    with pytest.raises(SourceError, match=rf"{name} cannot be read"):
        collection.build()
