"""The catalog's columns are documented, and ids and orders are what they are said to be."""

from __future__ import annotations

import polars as pl
import xxhash

from latent_assets.catalog.schema import CATALOG_SCHEMA, COLUMN_MEANING, row_ids, shard_key, sorted_by_id


def test_every_column_has_its_meaning() -> None:
    assert list(COLUMN_MEANING) == list(CATALOG_SCHEMA)


def test_row_ids() -> None:
    url = "https://example.com/ü.jpg"
    assert row_ids([url.encode()]) == [xxhash.xxh3_128_hexdigest(url.encode())]
    assert [shard_key(0), shard_key(41), shard_key(9999)] == ["00000", "00041", "09999"]


def test_sorting_by_id_holds_for_ids_that_share_their_first_half() -> None:
    ids = ["ab" * 8 + "ff" * 8, "ab" * 8 + "00" * 8, "00" * 16, "ff" * 16, "ab" * 8 + "77" * 8]
    frame = pl.DataFrame({"id": ids, "n": range(5)})
    assert sorted_by_id(frame)["id"].to_list() == sorted(ids)
    assert sorted_by_id(frame)["n"].to_list() == [2, 1, 4, 0, 3]
    assert sorted_by_id(frame.head(0)).height == 0
