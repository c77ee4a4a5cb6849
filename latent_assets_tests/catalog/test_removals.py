"""Removal lists bite whichever way they and the metadata are written, and what they cannot mean is refused by line."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latent_assets.catalog.links import hosts, is_plain, removal_keys, requested
from latent_assets.catalog.removals import read_removals
from latent_assets.errors import SourceError
from latent_assets.urls import UrlError, request_url
from latent_assets_tests.catalog.conftest import Collection

OTHER = "https://other.net/kept.jpg"

# several ways to write one link
SPELLINGS = [
    ("https://bücher.example.com/ü/a b.jpg", "https://xn--bcher-kva.example.com/%C3%BC/a%20b.jpg"),
    ("https://ｅｘａｍｐｌｅ.com/a", "https://example.com/a"),
    ("https://example。com/a", "https://example.com/a"),
    ("HTTPS://Example.COM/a", "https://example.com/a"),
    ("https://exa\tmple.com/\ta", "https://example.com/a"),
    (" https://example.com/a\n", "https://example.com/a"),
    ("https://example.com/a#top", "https://example.com/a"),
    ("https://example.com/a b?c d", "https://example.com/a%20b?c%20d"),
    ("https://example.com./a", "https://example.com/a"),
    ("https://example.com:443/a", "https://example.com/a"),
    ("https://user:word@example.com/a", "https://example.com/a"),
    ("https://example.com/50%.jpg", "https://example.com/50%25.jpg"),
    ("https://example.com/a?", "https://example.com/a"),
    ("https://93.184.216.34/a", "https://0x5db8d822/a"),
    ("https://[2606:2800:0:0::1]/a", "https://[2606:2800::1]/a"),
]
# what is asked for in several ways and means the same
EQUIVALENT = [
    ("http://example.com/a", "https://example.com/a"),
    ("http://example.com:80/a", "https://example.com/a"),
    ("https://example.com/%c3%bc", "https://example.com/%C3%BC"),
    ("https://example.com/%7Eme/%61.jpg", "https://example.com/~me/a.jpg"),
    ("https://example.com/b/../a/./c", "https://example.com/a/c"),
    ("https://example.com/a|b[1]", "https://example.com/a%7Cb%5B1%5D"),
]


def remaining(collection: Collection, links: list[str], listed: str | bytes) -> tuple[set[str], dict[str, int]]:
    """The links that a removal list leaves, and the funnel."""
    path = collection.folder / "removed.txt"
    path.write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    texts = [f"caption {number}" for number in range(len(links) + 1)]
    collection.write("links.parquet", pl.DataFrame({"url": [*links, OTHER], "text": texts}))
    collection.filters = {"remove": (str(path),)}
    report = collection.build()
    return set(collection.shard_of()) - {OTHER}, dict(report.funnel)


@pytest.mark.parametrize(("one", "other"), [*SPELLINGS, *EQUIVALENT])
def test_a_listed_url_is_removed_whichever_way_it_is_written(tmp_path: Path, one: str, other: str) -> None:
    for number, (listed, link) in enumerate([(one, other), (other, one), (one, one), (other, other)]):
        collection = Collection(tmp_path / str(number))
        collection.folder.mkdir()
        table = collection.folder / "removed.csv"
        pl.DataFrame({"url": [listed]}).write_csv(table)
        assert len(read_removals([str(table)]).urls) == 1
        left, funnel = remaining(collection, [link], listed.strip() + "\n")
        assert (left, funnel["removed_url"]) == (set(), 1)


@pytest.mark.parametrize(
    "other",
    ["https://example.com/b", "https://example.com/a/", "https://example.com/a?x", "https://example.com:8080/a",
     "https://www.example.com/a", "https://example.com/A", "https://example.com/a%2Fb"],
)  # fmt: skip
def test_another_url_stays(collection: Collection, other: str) -> None:
    assert remaining(collection, [other], "https://example.com/a\n")[0] == {other}


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_spellings_of_one_link_are_duplicates(collection: Collection, one: str, other: str) -> None:
    links = pl.DataFrame({"url": [one, other, OTHER], "text": list("abc")})
    collection.write("links.parquet", links)
    report = collection.build()
    rows = collection.rows()
    assert (report.rows_kept, dict(report.funnel)["duplicate_url"]) == (2, 1)
    assert sorted(rows["url_count"]) == [1, 2]
    # the id is that of what is asked for: another spelling in the next list is the same row
    collection.write("links.parquet", links[1:])
    collection.build()
    assert set(collection.rows()["id"]) == set(rows["id"])


def test_links_that_differ_are_no_duplicates(collection: Collection) -> None:
    links = ["http://example.com/a", "https://example.com/a", "https://example.com/%7Ea", "https://example.com/~a"]
    collection.write("links.parquet", pl.DataFrame({"url": links, "text": list("abcd")}))
    assert collection.build().rows_kept == 4


def test_many_buckets_find_the_same_duplicates(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latent_assets.catalog.build.bucket_count", lambda rows: 16)
    plain = [f"https://example.com/{number}.jpg" for number in range(300)]
    odd = [f"HTTPS://Example.com/{number}.jpg#x" for number in range(0, 300, 3)]
    collection.write("a.parquet", pl.DataFrame({"url": plain, "text": plain}))
    collection.write("b.parquet", pl.DataFrame({"url": odd, "text": odd}))
    report = collection.build()
    assert (report.rows_kept, dict(report.funnel)["duplicate_url"]) == (300, 100)
    assert collection.rows()["id"].n_unique() == 300


def test_ids_of_older_releases_remove(collection: Collection) -> None:
    from latent_assets.catalog.hashing import row_id

    written = "https://Example.com/a b"
    for link in (written, request_url(written)):
        left, funnel = remaining(collection, [written], f"{row_id(link.encode())}\n")
        assert (left, funnel["removed_id"]) == (set(), 1)


ONE_DOMAIN = [
    "example.com", "EXAMPLE.com.", "*.example.com", ".example.com", "example.com/", "example.com:80", "example.com/*",
    "https://example.com", "http://example.com/", "https://EXAMPLE.com:8080/*", "||example.com^", "||example.com",
    "0.0.0.0 example.com", "127.0.0.1\tlocalhost example.com # ads", "::1 example.com", "ｅｘａｍｐｌｅ．ｃｏｍ",
    "exa\tmple.com", "||*.example.com^", "||example.com:8080^", "\u200bexample.com\u00a0", "ex\u00adample.com",
    "example.com  # on request", "! a list\n[Adblock Plus 2.0]\nexample.com",
]  # fmt: skip


@pytest.mark.parametrize("listed", ONE_DOMAIN)
def test_a_domain_in_every_form(collection: Collection, listed: str) -> None:
    links = [
        "https://example.com/a", "http://example.com/b", "http://IMG.Example.com:8080/c", "https://example.com./d",
        "https://user@ｅｘａｍｐｌｅ.com/e", "https://exa\tmple.com/f",
    ]  # fmt: skip
    stay = ["https://notexample.com/a", "https://example.com.evil.net/b", "https://evil.net/https://example.com/c"]
    left, funnel = remaining(collection, links + stay, listed + "\n")
    assert (left, funnel["removed_domain"]) == (set(stay), len(links))


@pytest.mark.parametrize("listed", ["bücher.example.com", "xn--bcher-kva.example.com", "BÜCHER.example.com."])
@pytest.mark.parametrize("link", ["https://bücher.example.com/a", "https://XN--bcher-kva.example.com/a"])
def test_foreign_domains_in_both_directions(collection: Collection, listed: str, link: str) -> None:
    assert remaining(collection, [link], listed)[0] == set()


@pytest.mark.parametrize(
    ("written", "ascii"),
    [("faß.de", "xn--fa-hia.de"), ("i❤.ws", "xn--i-7iq.ws"), ("I❤️.WS.", "xn--i-7iq.ws"),
     ("bücher_x.de", "xn--bcher_x-n2a.de"), ("bu\u0308cher.de", "xn--bcher-kva.de")],
)  # fmt: skip
def test_domains_of_every_alphabet(collection: Collection, written: str, ascii: str) -> None:
    for listed, link in [(written, ascii), (ascii, written), (written, written)]:
        assert remaining(collection, [f"https://{link}/a"], listed)[0] == set()


@pytest.mark.parametrize("listed", ["2606:2800::1", "[2606:2800:0::1]", "[2606:2800::1]:80", "||[2606:2800::1]^"])
def test_addresses_of_ipv6_are_domains(collection: Collection, listed: str) -> None:
    left, funnel = remaining(collection, ["https://[2606:2800:0:0::1]/a", "http://[2606:2800::1]:80/b"], listed)
    assert (left, funnel["removed_domain"]) == (set(), 2)


def test_a_column_beside_a_link_is_no_part_of_it(collection: Collection) -> None:
    links = ["https://example.com/a", "https://example.com/b", "https://example.com/c"]
    listed = "https://example.com/a\t2030-01-01\nhttps://exa\tmple.com/\tb\n"
    assert remaining(collection, links, listed)[0] == {"https://example.com/c"}


TABLES: list[tuple[str, str | bytes]] = [
    ("a.csv", "domain;why\nexample.com;on request\n"),
    ("b.csv", "https://example.com/1,x\nhttps://example.com/2,y\n"),
    ("c.csv", "url,URL\nhttps://example.com/1,https://example.com/2\n"),
    ("d.csv", "url\nexample.com\n"),
    ("e.csv", "url\nEXAMPLE.com/1\n//example.com/2\n"),
    ("f.csv", "url\rhttps://example.com/1\rhttps://example.com/2\r"),
    ("g.jsonl", '{"url": "https://example.com/1"}\n\n{"id": null, "domain": "example.com"}\n'),
    ("h.ndjson.gz", gzip.compress(b'{"URL": "https://example.com"}\n')),
    ("i.txt.gz", gzip.compress(b"example.com\n")),
    ("j.tsv.gz", gzip.compress(b"domain\twhy\nexample.com\tx\n")),
    ("K.CSV", "URL\r\nhttps://example.com/1\r\nhttps://example.com/2\r\n"),
]


@pytest.mark.parametrize(("name", "content"), TABLES, ids=[name for name, _ in TABLES])
def test_tables_of_every_kind(collection: Collection, name: str, content: str | bytes) -> None:
    path = collection.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    links = ["https://example.com/1", "https://example.com/2", OTHER]
    collection.write("links.parquet", pl.DataFrame({"url": links, "text": list("abc")}))
    collection.filters = {"remove": (str(path),)}
    collection.build()
    assert set(collection.shard_of()) == {OTHER}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", 'url\nhttps://a.b/1\n"https://a.b/2\n', "line 3: a quote is not closed"),
        ("b.csv", "url,why\nhttps://a.b/1\n", "line 2: 1 fields where there have to be 2"),
        ("c.csv", 'domain\n"a.com\nb.com"\n', "line 2: .*has several domains"),
        ("d.csv", "hash\n5\n1_000\n", "line 3: '1_000' is no hash"),
        ("e.csv", b"url\nhttps://a.b/\xfc\n", "line 2: .*not in UTF-8"),
        ("f.csv", "link\nhttps://a.b\n", "has the columns link: name those"),
        ("g.jsonl", '{"url": "https://a.b/1"}\n{"url": ', "line 2: it is not valid JSON"),
        ("h.jsonl", '{"url": "https://a.b/1"}\n{"link": "x"}', "line 2 has the columns link"),
        ("i.jsonl", '["https://a.b/1"]', "line 1: it holds a list"),
        ("j.jsonl", '{"hash": 1.5e18}', "line 1: .*float"),
        ("k.jsonl", '{"url": "https://a.b/\\ud83d"}', "line 1: .*not in UTF-8"),
        ("l.txt.gz", gzip.compress(b"a.com\n" * 1000)[:-9], "cannot be read"),
        ("m.csv", "", "is empty"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_by_line(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=problem) as caught:
        read_removals([str(tmp_path / name)])
    assert name in str(caught.value) and "skip_bad_rows" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("listed", ["93.184.216.34", "0x5db8d822.", "http://93.184.216.34/"])
def test_addresses_are_domains(collection: Collection, listed: str) -> None:
    if listed.startswith("0x"):
        listed = f"http://{listed}/"
    assert remaining(collection, ["https://0x5db8d822/a", "http://93.184.216.34:80/b"], listed)[0] == set()


def test_a_url_without_its_scheme(collection: Collection) -> None:
    links = ["https://example.com/a.jpg", "http://example.com/b.jpg", "https://example.com/c.jpg"]
    assert remaining(collection, links, "example.com/a.jpg\n//example.com/b.jpg\n")[0] == {links[2]}


@pytest.mark.parametrize(
    "line",
    [
        "@@||example.com^", "||example.com^$third-party", "||example.com/banner^", "example.com##.ad", "/banner/*.gif",
        "*", "exam*.com", "*example.com", "https://example.com/images/*", "someone@example.com", "https://",
        "ftp://a.b/c", "htp://example.com/a", '"https://example.com/a"', "https://exa mple.com/a", "http://[::1/a",
        "localhost", "12:30",
        "a.com\tb.com", "a.com b.com", "a.com,b.com", "192.0.2.0/24", "2001:db8::/32", "http://a.b/*.gif", "http://a.b/c*",
        "URL: https://a.b/c", "“example.com”", "address=/example.com/0.0.0.0", "example.com CNAME .", "|https://a.b/c|",
        "||example.*^", "1_000_000", "https://a.b/c https://a.b/d", "12.5", "0x12ab", "36893488147419103232",
        "1.2345678901234567e18", "-1e400000000", "what is this", "see a.b/c",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(f"# on request\nexample.org\n{line}\n")
    with pytest.raises(SourceError, match=r"odd\.txt, line 3: .*start a comment with #"):
        read_removals([str(path)])


@pytest.mark.parametrize("text", ["18446744073709551615", "-1", "18446744073709551615\n"])
def test_unsigned_hashes(collection: Collection, text: str) -> None:
    path = collection.folder / "removed.csv"
    path.write_text(f"hash\n{text}\n")
    for dtype in (pl.Int64, pl.UInt64, pl.String):
        values = pl.Series(
            "hash", [2**64 - 1 if dtype == pl.UInt64 else -1, 5], pl.UInt64 if dtype == pl.UInt64 else pl.Int64
        )
        if dtype == pl.String:
            values = pl.Series("hash", ["18446744073709551615", "5"])
        frame = pl.DataFrame({"url": ["https://a.b/1", "https://a.b/2"], "text": ["x", "y"]}).with_columns(values)
        collection.write("a.parquet", frame)
        collection.filters = {"remove": (str(path),)}
        assert dict(collection.build().funnel)["removed_hash"] == 1
        assert collection.rows()["source_hash"].to_list() == [5]


def test_hashes_as_floats(tmp_path: Path) -> None:
    exact, lost = tmp_path / "exact.parquet", tmp_path / "lost.parquet"
    pl.DataFrame({"hash": [123456.0, None, -7.0]}).write_parquet(exact)
    (tmp_path / "exact.txt").write_text("123456.0\n-7.0\n1.23456e5\n")
    for path in (exact, tmp_path / "exact.txt"):
        assert sorted(read_removals([str(path)]).hashes) == [-7, 123456]
    pl.DataFrame({"hash": [5.0, 1234567890123456789.0]}).write_parquet(lost)
    with pytest.raises(SourceError, match=r"lost\.parquet, row 2: .*float.*write the integer"):
        read_removals([str(lost)])
    pl.DataFrame({"hash": pl.Series([5.0], dtype=pl.Float32)}).write_parquet(lost)
    with pytest.raises(SourceError, match=r"lost\.parquet: .*Float32"):
        read_removals([str(lost)])


def test_a_hash_that_lost_its_digits_is_none(collection: Collection) -> None:
    frame = pl.DataFrame({"url": ["https://a.b/1", "https://a.b/2"], "text": ["x", "y"], "hash": [7.0, 1.2345e18]})
    collection.write("a.parquet", frame)
    collection.build()
    assert set(collection.rows()["source_hash"]) == {7, None}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_lists_in_every_encoding(collection: Collection, encoding: str, suffix: str) -> None:
    head = "domain\n" if suffix == "csv" else ""
    path = collection.folder / f"removed.{suffix}"
    path.write_bytes(f"{head}bücher.example.com\nexample.org\n".encode(encoding))
    removals = read_removals([str(path)])
    assert removals.domains == {"xn--bcher-kva.example.com", "example.org"}


def test_marks_amid_lists_that_were_joined(collection: Collection) -> None:
    listed = codecs.BOM_UTF8 + b"example.com\r\n" + codecs.BOM_UTF8 + b"example.org\r\n"
    assert remaining(collection, ["https://example.com/a", "https://example.org/b"], listed)[0] == set()


@pytest.mark.parametrize("data", ["bücher.de\n".encode("latin-1"), "a.example.com\n".encode("utf-16-le")])
def test_lists_in_no_known_encoding_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd.txt").write_bytes(data)
    with pytest.raises(SourceError, match=r"odd\.txt.*[Ss]ave it as UTF-8"):
        read_removals([str(tmp_path / "odd.txt")])
    (tmp_path / "odd.txt").write_bytes("# coding: latin-1\nbücher.de\n".encode("latin-1"))
    assert read_removals([str(tmp_path / "odd.txt")]).domains == {"xn--bcher-kva.de"}


URLS = st.builds(
    "".join,
    st.lists(
        st.sampled_from(["http://", "HTTP://", "a.b", ".", "..", "/", "?", "#", "%", "%2", "%7e", "%C3", ":", ":80",
                         "@", "[", "]", "|", " ", "\t", "ü", "。", "a", "1", "0x7f", "-", "_", "x" * 70])
        | st.characters(exclude_categories=["Cs"]),
        max_size=12,
    ),
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(["", "http://a.b", "https://a.b/"]).flatmap(lambda s: URLS.map(lambda u: s + u)), min_size=1
    )
)
@example(["http://a.b"])
def test_columns_of_links_are_read_as_the_fetcher_reads_them(links: list[str]) -> None:
    column = pl.Series("url", links, pl.String)
    asked = requested(column)
    for link, found in zip(links, asked, strict=True):
        try:
            expected = request_url(link)
        except UrlError:
            expected = link.strip() if not is_plain_text(link) else link
        assert found == expected
    assert requested(asked).to_list() == asked.to_list()
    # the quick way and the slow one give the same keys and hosts
    for url, key, host in zip(asked, removal_keys(asked), hosts(asked), strict=True):
        if url.startswith(("http://", "https://")) and url == _or_none(url):
            assert removal_keys(pl.Series([f"http://{key}"])).item() == key
            assert url.partition("://")[2].startswith(host)


def is_plain_text(link: str) -> bool:
    return bool(pl.DataFrame({"url": [link]}).select(is_plain("url")).item())


def _or_none(url: str) -> str | None:
    try:
        return request_url(url)
    except UrlError:
        return None
