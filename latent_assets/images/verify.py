"""Reads what is stored of a shard and says what is wrong with it. Nothing is mended here: `fetch_shard` does that.

Whether so few images are a problem is the profile's to say (`download.health`), by the counts given here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from latent_assets.catalog.shards import read_shard
from latent_assets.errors import LatentAssetsError
from latent_assets.images.decode.image import decode_image
from latent_assets.images.outcome import FetchError, LedgerRow, Outcome, Reason
from latent_assets.images.store.inspection import StoredPart, inspect_part
from latent_assets.images.store.ledger import shard_version
from latent_assets.images.store.parts import due_parts, known_parts
from latent_assets.layout import catalog_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage

ACCOUNTED, READABLE = "every_row_accounted_for", "tars_readable"


@dataclass(frozen=True)
class ImageAudit:
    """What is stored of a shard, as it was read.

    `rows` are those of the ledger, `ok` of them with an image, `reasons` the rows by reason, the most frequent first.
    `version` is the data version over the images that are whole, computed from their bytes: that of the FetchReport
    when nothing is wrong. `bytes` are those of the tars. `undecodable` are ids of images that are as they were stored
    and no decoder takes (raw JPEGs may be so; only a deep audit looks). `problems` says by check what is wrong; it is
    empty when nothing is.
    """

    shard: str
    rows: int
    ok: int
    reasons: dict[str, int]
    bytes: int
    version: str
    undecodable: tuple[str, ...]
    problems: dict[str, str]


def verify_images(storage: Storage, shard: str, deep: bool = False) -> ImageAudit:
    """Read the ledgers and tars of a shard to their ends and compare them with the catalog and with one another.

    `every_row_accounted_for`: each row of the catalog has exactly one outcome. `tars_readable`: every file in the tars
    can be read, they are those of the rows that are ok, and images have the sizes and hashes that the ledger says.
    `deep` decodes every image as well. Damaged or missing files raise nothing; StorageError is raised when the root
    cannot be reached. `fetch_shard(..., mend=True)` mends what is found.
    """
    parts = [
        inspect_part(storage, part, contents=True, judge=_decoded if deep else None)
        for part in due_parts(shard, known_parts(storage, shard))
    ]
    rows = [row for part in parts for row in part.rows.values()]
    reasons = Counter(row.reason for row in rows)
    problems = {
        ACCOUNTED: _unaccounted(storage, shard, parts),
        READABLE: "; ".join(part.tar_problem for part in parts if part.tar_problem),
    }
    return ImageAudit(
        shard=shard,
        rows=len(rows),
        ok=sum(row.outcome == Outcome.OK for row in rows),
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        bytes=sum(part.bytes for part in parts),
        version=shard_version((key, digest) for part in parts for key, digest in part.hashes.items()),
        undecodable=tuple(sorted(key for part in parts for key in part.judged)),
        problems={check: text for check, text in problems.items() if text},
    )


def _unaccounted(storage: Storage, shard: str, parts: list[StoredPart]) -> str:
    """What speaks against one outcome for each row of the catalog."""
    if broken := "; ".join(part.ledger_problem for part in parts if part.ledger_problem):
        return broken
    counts = Counter(key for part in parts for key in part.rows)
    if twice := [key for key, count in counts.items() if count > 1]:
        return f"{len(twice)} rows have an outcome in two ledgers, the first is {twice[0]}"
    try:
        catalog = read_shard(storage, shard)["id"].to_list()
    except (LatentAssetsError, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        return f"{catalog_name(shard)} cannot be read ({error}): make the catalog's shard again"
    wanting = [key for key in catalog if key not in counts]
    if wanting:
        return f"{len(wanting)} of {len(catalog)} rows of the catalog have no outcome, the first is {wanting[0]}"
    if surplus := counts.keys() - set(catalog):
        return f"the ledger has {len(surplus)} rows that are not in the catalog, the first is {min(surplus)}"
    return ""


def _decoded(row: LedgerRow, data: bytes) -> str:
    """Why an image cannot be decoded, "" when it can."""
    try:
        decode_image(data)
    except FetchError as error:
        return "" if error.reason is Reason.TOO_MANY_PIXELS else error.evidence  # larger than Pillow likes, not damaged
    return ""
