"""`key.json` beside an image in a tar: what readers of the tar get, and enough to make its ledger row anew.

Which files a tar has is decided in `shard`, how they are written in `tar`.
"""

from __future__ import annotations

import json
from typing import Any

from latent_assets.images.outcome import LedgerRow, Outcome, Reason

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_SCORES = ("aesthetic", "similarity", "punsafe", "pwatermark")
# columns of the ledger that only it would know otherwise. None of them changes from one fetch of the same bytes to
# the next: the same content gives the same tar
_LEDGER = ("bytes", "http_status", "redirects", "stored_sha256", "origin", "recipe", "evidence")


def encode_sidecar(row: LedgerRow, catalog_row: dict[str, Any]) -> bytes:
    """The sidecar: the names img2dataset's users know, the catalog's columns, and what the ledger knows besides."""
    sidecar = {
        "key": row.id,
        "url": row.url,
        "caption": catalog_row["caption"],
        "status": "success",
        "error_message": None,
        "width": row.stored_width,
        "height": row.stored_height,
        "original_width": row.width,
        "original_height": row.height,
        "sha256": row.sha256,
        "source_url": catalog_row["source_url"],
        "category": catalog_row["category"],
        **{name: catalog_row[name] for name in _SCORES},
        **{name: getattr(row, name) for name in _LEDGER},
    }
    return _ENCODER.encode(sidecar).encode()


def names_row(data: bytes, key: str) -> bool:
    """Whether bytes are the sidecar of a row, of this version or an earlier one."""
    try:
        return bool(json.loads(data)["key"] == key)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def decode_sidecar(data: bytes, key: str, extension: str, size: int) -> LedgerRow | None:
    """The ledger row of an image of `size` bytes, None when that is not its sidecar or says too little.

    When it was fetched and how often it was tried is not known any more; which catalog row the sidecars were made from
    is not either, so they are made again.
    """
    if not names_row(data, key):
        return None
    try:
        found = json.loads(data)
        return LedgerRow(
            id=key,
            url=found["url"],
            outcome=Outcome.OK.value,
            reason=Reason.OK.value,
            width=found["original_width"],
            height=found["original_height"],
            stored_width=found["width"],
            stored_height=found["height"],
            stored_bytes=size,
            extension=extension,
            sha256=found["sha256"],
            fetched_at=None,
            **{name: found[name] for name in _LEDGER},
        )
    except (TypeError, KeyError):
        return None  # of an earlier version
