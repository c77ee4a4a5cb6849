"""Encodings of texts from outside: what is read, what is refused and with which words."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest

from latent_assets.errors import ProfileError, SourceError
from latent_assets.text import decode_leniently, decode_text, utf8_file

TEXT = "url,text\r\nhttps://example.com/für,Zoë 😀\r\n"

MARKED = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "two marks": codecs.BOM_UTF8 * 2 + TEXT.encode(),
    "utf-16-le": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32-le": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    "utf-32-be": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("data", MARKED.values(), ids=MARKED)
def test_marked_text_is_read_from_bytes_and_from_files(data: bytes, tmp_path: Path) -> None:
    assert decode_text(data, "list.csv") == TEXT
    assert decode_leniently(data) == TEXT
    plain, packed = tmp_path / "list.csv", tmp_path / "list.csv.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    for path in (plain, packed):
        with utf8_file(path, "list.csv") as file:
            content = file.read_bytes()
            assert (gzip.decompress(content) if file.suffix == ".gz" else content) == TEXT.encode()
            assert (file == path) == (data == TEXT.encode())  # copied only when it has to be


def test_a_large_text_is_copied_whole(tmp_path: Path) -> None:
    text = "https://example.com/für/😀\n" * 100_000
    (tmp_path / "large.csv").write_bytes(text.encode("utf-16"))
    with utf8_file(tmp_path / "large.csv", "large.csv") as file:
        assert file.read_bytes() == text.encode()
    assert not file.exists()


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("für".encode("latin-1"), "ISO-8859-1"),
        ("# -*- coding: latin-1 -*-\nfür".encode("latin-1"), None),
        ("# a list\n# vim: set fileencoding=cp1252 :\nfür".encode("cp1252"), None),
        ("für".encode("utf-16-le"), "utf-16-le"),
        (codecs.BOM_UTF8 + "für".encode(), "latin-1"),  # the mark knows better than who sent it
        ("für".encode(), "unheard-of"),
    ],
)
def test_declared_encodings_are_read(data: bytes, charset: str | None) -> None:
    assert decode_text(data, "list.txt", charset).splitlines()[-1] == "für"
    assert decode_leniently(data, charset).splitlines()[-1] == "für"


@pytest.mark.parametrize("charset", ["utf-7", "punycode", "base64", "rot13", "idna", "unicode_escape", "undefined"])
def test_what_is_no_encoding_of_texts_is_not_used(charset: str) -> None:
    assert decode_text(b"Disallow: /a+b\\n", "robots.txt", charset) == "Disallow: /a+b\\n"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("für".encode("latin-1"), "not text in UTF-8"),
        ("fur".encode("utf-16-le"), "zero bytes"),
        ("ab".encode("utf-32-be"), "zero bytes"),
        (codecs.BOM_UTF16_LE + b"a\0b", "not text in UTF-16"),
        (codecs.BOM_UTF8 + b"f\xfcr", "not text in UTF-8"),
    ],
)
def test_the_rest_is_refused_with_its_name(data: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"/lists/mine\.csv.*{complaint}.*[Ss]ave it as UTF-8"):
        decode_text(data, "/lists/mine.csv")
    with pytest.raises(ProfileError, match="mine"):
        decode_text(data, "mine.toml", error=ProfileError)
    (tmp_path / "mine.csv").write_bytes(data)
    if b"\0" in data:
        with pytest.raises(SourceError, match=r"/lists/mine\.csv"), utf8_file(tmp_path / "mine.csv", "/lists/mine.csv"):
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"Disallow: /f\xfcr\nDisallow: /b",
        "Disallow: /a\nDisallow: /b".encode("utf-16-be"),
        b"Disallow: /a\n" + codecs.BOM_UTF8 + b"Disallow: /b",
        codecs.BOM_UTF16_LE + "Disallow: /a\nDisallow: /b\n".encode("utf-16-le") + b"x",
    ],
)
def test_lenient_reading_keeps_every_line_it_can(data: bytes) -> None:
    assert "Disallow: /b" in decode_leniently(data).splitlines()


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        (b"Disallow: /f\xfcr/", None, "Disallow: /f%FCr/"),
        ("Disallow: /für/".encode() + b"\xff\xe9", "utf-8", "Disallow: /für/%FF%E9"),
        (b"Disallow: /f\xfcr/", "latin-1", "Disallow: /für/"),
        (b"Disallow: /\xed\xa0\xbd/", None, "Disallow: /%ED%A0%BD/"),
    ],
)
def test_bytes_that_are_no_text_stand_as_they_do_in_urls(data: bytes, charset: str | None, text: str) -> None:
    assert decode_leniently(data, charset) == text


@pytest.mark.parametrize("declared", ["# coding: latin-1\n", "# links\n# -*- coding: cp1252 -*-\n"])
def test_a_file_that_declares_its_encoding_is_copied_without_the_declaration(declared: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes((declared + "url,text\na,für\n").encode("cp1252"))
    with utf8_file(tmp_path / "list.csv", "list.csv") as file:
        lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["url,text", "a,für"] and len(lines) == declared.count("\n") + 2
    assert "coding" not in lines
