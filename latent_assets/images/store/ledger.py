"""The ledger of a shard: exactly one row for every row of the catalog, with what became of it.

Rows that are not yet in a finished ledger live in the `journal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.images.outcome import LedgerRow, Outcome, Reason
from latent_assets.images.store.parts import stored_parts

if TYPE_CHECKING:
    from latent_assets.storage import Storage

LEDGER_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "url": pl.String(),
    "outcome": pl.Enum([outcome.value for outcome in Outcome]),
    "reason": pl.Enum([reason.value for reason in Reason]),
    "http_status": pl.Int32(),
    "redirects": pl.Int32(),
    "bytes": pl.Int64(),
    "width": pl.Int32(),
    "height": pl.Int32(),
    "stored_width": pl.Int32(),
    "stored_height": pl.Int32(),
    "stored_bytes": pl.Int64(),
    "extension": pl.String(),
    "sha256": pl.String(),
    "stored_sha256": pl.String(),
    "fetched_at": pl.Datetime("us", "UTC"),
    "attempts": pl.Int32(),
    "evidence": pl.String(),
    "origin": pl.String(),
    "row_hash": pl.String(),
    "recipe": pl.String(),
}


_FIELDS = tuple(field.name for field in fields(LedgerRow))


def ledger_name(part: str) -> str:
    """Storage name of the ledger of a shard or part (see `parts`)."""
    return f"images/{part}.parquet"


def read_ledger(storage: Storage, shard: str) -> pl.DataFrame:
    """The ledger of a shard, LEDGER_SCHEMA, part by part in the catalog's order. Raises StorageError without one."""
    parts = stored_parts(storage, shard) or [shard]
    return pl.concat(storage.read_parquet(ledger_name(part)) for part in parts)


def stored_rows(storage: Storage, part: str) -> list[LedgerRow]:
    """The rows of a part's stored ledger; none when it was never finished."""
    if not storage.exists(ledger_name(part)):
        return []
    frame = storage.read_parquet(ledger_name(part)).with_columns(pl.col("fetched_at").dt.epoch("us") / 1e6)
    return [LedgerRow(**row) for row in frame.select(_FIELDS).iter_rows(named=True)]


def ledger_frame(rows: Sequence[LedgerRow]) -> pl.DataFrame:
    """Ledger rows as a frame of LEDGER_SCHEMA."""
    values = {name: list(map(attrgetter(name), rows)) for name in LEDGER_SCHEMA}
    values["fetched_at"] = [round(seconds * 1e6) for seconds in values["fetched_at"]]
    return pl.DataFrame(values, schema=LEDGER_SCHEMA)
