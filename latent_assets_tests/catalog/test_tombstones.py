"""Tombstones: rows that were taken down never come back, however they are written; nothing can be read of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from latent_assets.catalog.filters import RowFilter
from latent_assets.catalog.hashing import row_ids
from latent_assets.catalog.removals import Removals, read_removals, removals_of, together
from latent_assets.catalog.schema import CATALOG_SCHEMA
from latent_assets.catalog.tombstones import (
    NONE,
    Tombstones,
    add_tombstones,
    hashed,
    read_tombstones,
    tombstone,
    tombstones_of,
)
from latent_assets.errors import DataError, SourceError
from latent_assets.layout import TOMBSTONES
from latent_assets.profile import Filters
from latent_assets.storage import Storage


def rows(*urls: str) -> pl.DataFrame:
    frame = pl.DataFrame([{"url": url, "caption": "a caption"} for url in urls], schema=CATALOG_SCHEMA)
    return frame.with_columns(id=row_ids(frame["url"]))


def kept(tombstones: Tombstones, *urls: str) -> list[str]:
    row_filter = RowFilter(Filters(), removals_of(), tombstones)
    found = row_filter.apply(rows(*urls))
    assert row_filter.funnel.dropped.get("taken_down", 0) == len(urls) - found.height
    return found["url"].to_list()


def test_a_link_stays_away_however_it_is_written() -> None:
    (key,) = removals_of(urls=["http://example.org/a%20b.png"]).urls
    buried = tombstones_of(urls=[key])
    same = ("http://example.org/a%20b.png", "https://example.org/a b.png", "HTTP://EXAMPLE.org/a%20b.png#top")
    assert kept(buried, *same, "http://example.org/c.png") == ["http://example.org/c.png"]


def test_an_id_stays_away_also_that_of_a_path_and_of_a_link_as_it_is_written() -> None:
    for url in ("cats/07.png", "http://example.org/a b.png", "http://example.org/x.png"):
        (row_id,) = row_ids(pl.Series([url]))
        assert kept(tombstones_of(ids=[row_id]), url, "other.png") == ["other.png"]


def test_a_domain_stays_away_with_all_below_it() -> None:
    buried = tombstones_of(domains=["example.org"])
    urls = ("http://example.org/1.png", "https://img.example.org:8080/2.png", "http://notexample.org/3.png")
    assert kept(buried, *urls) == ["http://notexample.org/3.png"]
    assert buried.has_host("a.b.example.org") and not buried.has_host("org")


def test_rows_without_tombstones_are_untouched() -> None:
    row_filter = RowFilter(Filters(), removals_of())
    assert row_filter.apply(rows("http://example.org/1.png")).height == 1
    assert "taken_down" not in row_filter.funnel.dropped
    assert not NONE and tombstones_of(images=["0" * 64])


def test_they_are_kept_as_hashes_and_added_to(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_tombstones(storage) == NONE
    first = tombstones_of(urls=["example.org/secret.png"], ids=["f" * 32])
    add_tombstones(storage, first)
    second = tombstones_of(domains=["example.net"], images=["a" * 64])
    assert add_tombstones(storage, second) == first | second == read_tombstones(storage)
    text = (tmp_path / TOMBSTONES).read_text()
    assert not any(secret in text for secret in ("secret", "f" * 32, "example", "a" * 64))
    assert read_tombstones(storage).has_image("a" * 64) and not read_tombstones(storage).has_image("b" * 64)
    # what was fetched decides nothing in the catalog
    assert (first | tombstones_of(images=["c" * 64])).version == first.version != second.version


def test_a_column_is_hashed_as_a_value_is() -> None:
    column = pl.DataFrame({"url": ["example.org/ä.png", None]}).select(hashed("url", "url")).to_series().to_list()
    assert column == [tombstone("url", "example.org/ä.png"), None]


def test_tombstones_that_cannot_be_read_stop_everything(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for text in ("{", "{}", '{"format": 9, "url": []}', "[]"):
        storage.write_bytes(TOMBSTONES, text.encode())
        with pytest.raises(DataError, match=r"tombstones.json cannot be read .*put it back"):
            read_tombstones(storage)


def test_a_list_may_name_bytes_only_for_a_takedown(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{'A1' * 32}\nexample.org\n{'0f' * 16}\n")
    found = read_removals([str(path)], images=True)
    assert found.images == {"a1" * 32} and found.domains == {"example.org"} and found.ids.to_list() == ["0f" * 16]
    with pytest.raises(SourceError, match=r"line 1: .* known only once it was fetched: take it down"):
        read_removals([str(path)])
    both: Removals = together(found, removals_of(images=["b" * 64], ids=["0F" * 16]))
    assert both.images == {"a1" * 32, "b" * 64} and both.ids.to_list() == ["0f" * 16]
    for named in ({"images": ["xyz"]}, {"ids": ["12"]}, {"domains": ["no domain"]}):
        with pytest.raises(SourceError):
            removals_of(**named)
