"""The catalog's columns are documented, and ids and orders are what they are said to be."""

from __future__ import annotations

import polars as pl
import xxhash

from latent_assets.catalog.hashing import id_heads, id_starts, ids_and_heads, row_id, row_ids
from latent_assets.catalog.schema import CATALOG_SCHEMA, COLUMN_MEANING, shard_key


def test_every_column_has_its_meaning() -> None:
    assert list(COLUMN_MEANING) == list(CATALOG_SCHEMA)


def test_row_ids() -> None:
    urls = ["https://example.com/ü.jpg", "", None, "x" * 10_000, "a"]
    assert row_ids(pl.Series(urls, dtype=pl.String)).to_list() == [
        xxhash.xxh3_128_hexdigest((url or "").encode()) for url in urls
    ]
    assert row_ids(pl.Series([], dtype=pl.String)).to_list() == []
    starts = pl.DataFrame({"url": urls}, schema={"url": pl.String}).drop_nulls().select(id_starts("url"))
    ids, heads = ids_and_heads(pl.Series(urls, dtype=pl.String))
    assert ids.to_list() == row_ids(pl.Series(urls, dtype=pl.String)).to_list()
    assert heads.to_list() == id_heads(ids).to_list() == [int(key[:16], 16) for key in ids]
    ids = row_ids(pl.Series([url for url in urls if url is not None]))
    assert starts["url"].to_list() == [int(key[:4], 16) for key in ids]
    assert row_id(b"a") == xxhash.xxh3_128_hexdigest(b"a")
    assert [shard_key(0), shard_key(41), shard_key(9999)] == ["00000", "00041", "09999"]
