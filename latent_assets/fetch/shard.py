"""One shard from catalog rows to a finished tar and ledger, continuing from whatever is known already.

The order of things lives here; how a row is downloaded in `rows`, what is known of it in `journal` and `ledger`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from latent_assets.catalog.schema import CATALOG_COLUMNS, row_hashes
from latent_assets.catalog.sharding import read_shard
from latent_assets.errors import StorageError
from latent_assets.fetch.health import Health, health_of
from latent_assets.fetch.journal import Entry, ImageReader, Journal, Place, reading_images
from latent_assets.fetch.ledger import LedgerRow, ledger_frame, ledger_name, stored_rows
from latent_assets.fetch.outcome import Outcome, Reason
from latent_assets.fetch.rows import Wanted, fetch_rows
from latent_assets.fetch.tar import IMAGE_EXTENSIONS, TarWriter, index_members, tar_name
from latent_assets.fetch.web import Network
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_CODE_REVISION = 1  # raise when the same bytes would be stored differently
_OPT_OUT = "kept although opted out"
_SCORES = ("aesthetic", "similarity", "punsafe", "pwatermark")


@dataclass(frozen=True)
class FetchReport:
    """What is in a shard now, and what this call did.

    `rows` of the catalog have an outcome each; `ok` of them an image; `reasons` counts the rows by reason.
    `fetched` rows were asked for by this call, the others were known. `bytes` are those of the tar, `seconds` and
    `rate` (rows a second) this call's. `version` is a hash over (id, sha256 of the stored image) of all images.
    `written` tells whether the tar and ledger were written anew.
    """

    shard: str
    rows: int
    ok: int
    reasons: dict[str, int]
    fetched: int
    bytes: int
    seconds: float
    rate: float
    version: str
    health: Health
    written: bool


def recipe(profile: Profile) -> str:
    """Identifies how images are stored: 16 hexadecimal digits. A row stored by another recipe is fetched again."""
    fetch = profile.fetch
    quality = fetch.quality if fetch.format in ("jpeg", "webp") else None
    size = fetch.size if fetch.resize != "none" and fetch.format != "raw" else None
    resize = fetch.resize if fetch.format != "raw" else "none"
    return fingerprint("images", _CODE_REVISION, resize, size, fetch.format, quality)[:16]


def fetch_shard(
    profile: Profile,
    storage: Storage,
    shard: str,
    *,
    retry: Collection[Reason | str] = (),
    network: Network | None = None,
) -> FetchReport:
    """Give every catalog row of `shard` an outcome; write `images/{shard}.tar` and `images/{shard}.parquet`.

    Rows that have an outcome are left alone, except failures whose reason is in `retry`. Rows that left the catalog
    leave the tar; rows whose caption or scores changed get new sidecars from what is stored. When nothing is
    to be done nothing is written. Raises StorageError when the root cannot be written.
    """
    started = time.monotonic()
    frame = read_shard(storage, shard)
    wanted = _wanted(profile, frame)
    journal = Journal(storage, shard)
    try:
        stored = {row.id: row for row in stored_rows(storage, shard)}
        pending = journal.entries()
        known = _known(storage, shard, stored) | pending
        again = _again(profile, retry)
        missing = [row for row in wanted if not _settled(known.get(row.id), row, again)]
        if missing:
            attempts = {row.id: known[row.id].row.attempts for row in missing if row.id in known}
            fetch_rows(profile, storage, missing, attempts, journal, network or Network(), total=len(wanted))
            journal.close()
            known |= journal.entries()
        written = bool(missing or pending) or not _up_to_date(wanted, stored)
        if written:
            _write(storage, shard, frame, wanted, known)
        journal.delete()
    finally:
        journal.close()
    return _report(profile, storage, shard, len(missing), written, time.monotonic() - started)


def shard_report(profile: Profile, storage: Storage, shard: str) -> FetchReport:
    """What a finished shard holds, without doing anything. Raises StorageError when it was never finished."""
    return _report(profile, storage, shard, 0, False, 0.0)


def shard_version(rows: Iterable[LedgerRow]) -> str:
    """Hash over (id, sha256 of the stored image) of every row with an image, sorted by id."""
    return fingerprint(sorted((row.id, row.stored_sha256) for row in rows if row.outcome == Outcome.OK))


def _wanted(profile: Profile, frame: pl.DataFrame) -> list[Wanted]:
    made_by = recipe(profile)
    rows = row_hashes(frame, CATALOG_COLUMNS)
    # a file's size and time decide whether it is read again; a link's scores do not
    origins = row_hashes(frame, ["url", "path"] if profile.source.kind == "metadata" else ["path", "source_hash"])
    return [
        Wanted(id=key, url=url, path=path, origin=origin, row_hash=row, recipe=made_by)
        for key, url, path, origin, row in zip(frame["id"], frame["url"], frame["path"], origins, rows, strict=True)
    ]


def _known(storage: Storage, shard: str, stored: dict[str, LedgerRow]) -> dict[str, Entry]:
    """The outcomes of a finished ledger, with the places of the images. An outcome whose image is gone is none."""
    places: dict[str, Place] = {}
    if stored and storage.exists(tar_name(shard)):
        with storage.open(tar_name(shard)) as file:
            for name, (offset, size) in index_members(file).items():
                key, _, extension = name.rpartition(".")
                if extension in IMAGE_EXTENSIONS:
                    places[key] = Place(tar_name(shard), offset, size)
    known: dict[str, Entry] = {}
    for key, row in stored.items():
        place = places.get(key)
        if row.outcome != Outcome.OK:
            known[key] = Entry(row, None)
        elif place is not None and place.size == row.stored_bytes:
            known[key] = Entry(row, place)
    return known


def _again(profile: Profile, retry: Collection[Reason | str]) -> frozenset[str]:
    """The reasons to try again; _OPT_OUT when images kept in spite of an opt-out may not be kept any more."""
    reasons = {Reason(reason).value for reason in retry}
    return frozenset(reasons | {_OPT_OUT} if profile.fetch.respect_opt_out else reasons)


def _settled(entry: Entry | None, wanted: Wanted, again: Collection[str]) -> bool:
    """Whether a row has an outcome that holds: of the same link or file, stored the same way, not to be retried."""
    if entry is None or entry.row.origin != wanted.origin:
        return False
    if entry.row.outcome == Outcome.OK:
        return entry.row.recipe == wanted.recipe and not (entry.row.evidence and _OPT_OUT in again)
    return entry.row.reason not in again


def _up_to_date(wanted: list[Wanted], stored: dict[str, LedgerRow]) -> bool:
    return len(stored) == len(wanted) and all(
        row.id in stored and stored[row.id].row_hash == row.row_hash for row in wanted
    )


def _write(storage: Storage, shard: str, frame: pl.DataFrame, wanted: list[Wanted], known: dict[str, Entry]) -> None:
    """Tar and ledger in the catalog's order: the same content gives the same bytes."""
    if lost := [want.id for want in wanted if want.id not in known]:
        raise StorageError(
            f"{len(lost)} rows of shard {shard} have no outcome any more: another process finished this shard at the "
            "same time. Build it again; what is stored is kept."
        )
    rows: list[LedgerRow] = []
    with storage.writing(tar_name(shard)) as path, path.open("wb", buffering=1 << 20) as file:
        tar = TarWriter(file)
        with reading_images(storage) as images:
            for catalog_row, want in zip(frame.iter_rows(named=True), wanted, strict=True):
                entry = known[want.id]
                row = replace(entry.row, row_hash=want.row_hash, url=want.url)
                rows.append(row)
                if entry.place is not None:
                    _write_image(tar, images, entry.place, row, catalog_row)
        tar.close()
    storage.write_parquet(ledger_name(shard), ledger_frame(rows), compression="zstd")


def _write_image(
    tar: TarWriter, images: ImageReader, place: Place, row: LedgerRow, catalog_row: dict[str, Any]
) -> None:
    tar.add(f"{row.id}.{row.extension}", images.read(place))
    tar.add(f"{row.id}.txt", (catalog_row["caption"] or "").encode())
    tar.add(f"{row.id}.json", json.dumps(_sidecar(row, catalog_row), ensure_ascii=False).encode())


def _sidecar(row: LedgerRow, catalog_row: dict[str, Any]) -> dict[str, Any]:
    """`key.json`: the names img2dataset's users know, and the catalog's columns."""
    return {
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
    }


def _report(profile: Profile, storage: Storage, shard: str, fetched: int, written: bool, seconds: float) -> FetchReport:
    rows = stored_rows(storage, shard)
    reasons: dict[str, int] = {}
    for row in rows:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    return FetchReport(
        shard=shard,
        rows=len(rows),
        ok=reasons.get(Reason.OK, 0),
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        fetched=fetched,
        bytes=storage.size(tar_name(shard)),
        seconds=seconds,
        rate=fetched / seconds if seconds else 0.0,
        version=shard_version(rows),
        health=health_of(profile.fetch, reasons),
        written=written,
    )
