"""How many rows of a release are copies: files that are the same byte for byte, under several links or names."""

from __future__ import annotations

import polars as pl

from latent_assets.atlas.table import open_table


def copied_rows(lance_uri: str, version: int) -> int:
    """Rows whose SHA-256 another row has, too; the first of each is not counted.

    64 bits of each are compared: 8 bytes a row are held, and among 100 million rows a wrong pair is unlikely.
    """
    table = open_table(lance_uri, version)
    digests = table.search().limit(max(1, table.count_rows())).select(["sha256"]).to_batches()
    seen = [pl.Series(batch.column("sha256")).cast(pl.String).hash() for batch in digests]
    return sum(map(len, seen)) - pl.concat(seen).n_unique() if seen else 0
