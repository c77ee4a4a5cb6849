"""The ledger of a shard: exactly one row for every row of the catalog, with what became of it.

Rows that are not yet in a finished ledger live in the `journal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.errors import DataError
from latent_assets.images.outcome import LedgerRow, Outcome, Reason
from latent_assets.images.store.parts import stored_parts
from latent_assets.layout import ledger_name
from latent_assets.storage import fingerprint

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


def read_ledger(storage: Storage, shard: str) -> pl.DataFrame:
    """The ledger of a shard, LEDGER_SCHEMA, part by part in the catalog's order. Raises DataError as `read_part`."""
    parts = stored_parts(storage, shard) or [shard]
    return pl.concat(read_part(storage, part) for part in parts)


def read_part(storage: Storage, part: str) -> pl.DataFrame:
    """The ledger of a part, LEDGER_SCHEMA. Raises DataError when it is not there or is none, with the remedy."""
    name = ledger_name(part)
    if not storage.exists(name):
        raise DataError(f"{name} is not there: fetch the shard.")
    try:
        frame = storage.read_parquet(name)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{name} cannot be read ({what}): fetch the shard again.") from error
    if dict(frame.schema) != LEDGER_SCHEMA:
        if not _of_an_earlier_version(frame):
            raise DataError(f"{name} has not the columns of a ledger: fetch the shard again.")
        frame = frame.cast(LEDGER_SCHEMA)  # type: ignore[arg-type]
    return frame


def _of_an_earlier_version(frame: pl.DataFrame) -> bool:
    """Whether a ledger differs from those of now by outcomes or reasons only that there were not yet."""
    if frame.columns != list(LEDGER_SCHEMA):
        return False
    for name, kind in LEDGER_SCHEMA.items():
        found = frame.schema[name]
        if isinstance(kind, pl.Enum) and isinstance(found, pl.Enum):
            if not set(found.categories) <= set(kind.categories):
                return False
        elif found != kind:
            return False
    return True


def ledger_rows(frame: pl.DataFrame) -> Iterator[LedgerRow]:
    """The rows of a ledger, one by one."""
    seconds = frame.with_columns(pl.col("fetched_at").dt.epoch("us") / 1e6)
    return (LedgerRow(**row) for row in seconds.select(_FIELDS).iter_rows(named=True))


def shard_version(images: Iterable[tuple[str, str | None]]) -> str:
    """The data version of a shard: a hash over (id, SHA-256 of the stored image) of every row with an image."""
    return fingerprint([list(image) for image in sorted(images)])


def ledger_frame(rows: Sequence[LedgerRow]) -> pl.DataFrame:
    """Ledger rows as a frame of LEDGER_SCHEMA."""
    values = {name: list(map(attrgetter(name), rows)) for name in LEDGER_SCHEMA}
    values["fetched_at"] = [None if seconds is None else round(seconds * 1e6) for seconds in values["fetched_at"]]
    return pl.DataFrame(values, schema=LEDGER_SCHEMA)
