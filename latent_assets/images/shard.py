"""One shard from catalog rows to finished tars and ledgers, continuing from whatever is known already.

The order of things lives here; how a row is downloaded in `fetcher`, what is known of it in `store`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import xxhash

from latent_assets.catalog.schema import CATALOG_COLUMNS
from latent_assets.catalog.shards import read_shard
from latent_assets.errors import StorageError
from latent_assets.images.decisions import Reconsidered
from latent_assets.images.download.health import Health, health_of
from latent_assets.images.download.http_client import Network
from latent_assets.images.download.request import FetchRequest
from latent_assets.images.fetcher import fetch_rows
from latent_assets.images.outcome import LedgerRow, Outcome, Reason
from latent_assets.images.store.inspection import StoredPart, inspect_part, recover_entries
from latent_assets.images.store.journal import Entry, Journal, Place, StoredImages, stored_images
from latent_assets.images.store.ledger import ledger_frame, read_ledger, shard_version
from latent_assets.images.store.parts import due_parts, known_parts, part_names, split, stored_parts
from latent_assets.images.store.sidecar import encode_sidecar
from latent_assets.images.store.tar import TarWriter
from latent_assets.layout import journal_folder, ledger_name, tar_name
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_CODE_REVISION = 2  # raise when the same bytes would be stored differently
_ROUNDS = 3  # for rows whose outcomes get lost
_OPT_OUT = "kept although opted out"
_ROBOTS_UNASKED = "/robots-unasked"  # behind the recipe of images of links whose robots.txt was not asked


@dataclass(frozen=True)
class FetchReport:
    """What is in a shard now, and what this call did.

    `rows` of the catalog have an outcome each; `ok` of them an image; `reasons` counts the rows by reason.
    `fetched` rows were asked for by this call, the others were known. `bytes` are those of the tars, `seconds` and
    `rate` (rows a second) this call's. `version` is a hash over (id, sha256 of the stored image) of all images.
    `written` tells whether a tar and its ledger were written anew.
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
    mend: bool = False,
) -> FetchReport:
    """Give every catalog row of `shard` an outcome; write its tar and ledger, or those of its parts (see `parts`).

    Rows that have an outcome are left alone, except failures whose reason is in `retry` and rows that a setting changed
    since would decide otherwise (see `decisions`). Rows that left the catalog leave the tar;
    rows whose caption or scores changed get new sidecars from what is stored. When nothing is to be done nothing is
    written.

    A tar or ledger that is gone, cut short or garbage is made anew: of what is whole, and rows that are lost are
    fetched again. That takes a look at headers; with `mend` every byte is read and compared with its hash. Raises
    StorageError when the root cannot be written.
    """
    started = time.monotonic()
    frame = read_shard(storage, shard)
    parts = part_names(shard, frame.height, profile.shards.rows)
    outdated = [part for part in known_parts(storage, shard) if part not in parts]
    fetcher = _PartFetcher(profile, storage, retry, network or Network(), outdated, frame.height, mend)
    for part, rows in split(frame, parts):
        fetcher.fetch(part, rows)
    for part in outdated:
        # the ledger last: by it the others are found when this is interrupted
        for name in (journal_folder(part), tar_name(part), ledger_name(part)):
            storage.delete(name)
    written = fetcher.written or bool(outdated)
    return _report(profile, storage, shard, fetcher.fetched, written, time.monotonic() - started)


class _PartFetcher:
    """Finishes the parts of a shard, one after the other: only one part's rows are in memory.

    `outdated` are parts of an earlier layout, finished or not: what they hold is not fetched again.
    """

    def __init__(
        self,
        profile: Profile,
        storage: Storage,
        retry: Collection[Reason | str],
        network: Network,
        outdated: Sequence[str],
        total: int,
        mend: bool,
    ) -> None:
        self._profile, self._storage, self._network = profile, storage, network
        self._retried, self._mend = _retried(profile, retry), mend
        self._reconsidered = Reconsidered(profile.fetch)
        self._outdated, self._total, self._done = outdated, total, 0
        self.fetched = 0
        self.written = False

    def fetch(self, part: str, frame: pl.DataFrame) -> None:
        """Give the rows of a part their outcomes and write its tar and ledger if anything about them is new."""
        requests = _requests(self._profile, frame)
        journal = Journal(self._storage, part)
        pending = journal.entries()
        stored, kept = self._stored(part)
        known = self._moved({row.id for row in requests}) | kept | pending
        missing = [
            replace(row, attempts=known[row.id].row.attempts if row.id in known else 0)
            for row in requests
            if not self._settled(known.get(row.id), row)
        ]
        self._done += len(requests) - len(missing)
        if missing:
            known |= self._outcomes(part, missing, journal, pending)
        if missing or pending or not stored.sound or not _up_to_date(requests, stored.rows):
            _write(self._storage, part, frame, requests, known)
            self.written = True
        journal.delete()
        self._done += len(missing)
        self.fetched += len(missing)

    def _outcomes(
        self, part: str, missing: list[FetchRequest], journal: Journal, pending: dict[str, Entry]
    ) -> dict[str, Entry]:
        """What the journal says when every row of `missing` has an outcome that is not among those `pending`.

        On S3 a process that stores images and is killed takes along what it had not put yet: that is fetched again.
        """
        left = missing
        for _ in range(_ROUNDS):
            so_far = (self._done + len(missing) - len(left), self._total)
            fetch_rows(self._profile, self._storage, part, left, self._network, so_far)
            entries = journal.entries()
            left = [row for row in left if entries.get(row.id) in (None, pending.get(row.id))]
            if not left:
                return entries
        raise StorageError(
            f"{len(left)} rows of shard {part} were fetched, but their outcomes are gone: another process works on "
            "this shard, or ends those that store images. Build it again; what is stored is kept."
        )

    def _settled(self, entry: Entry | None, request: FetchRequest) -> bool:
        """Whether a row has an outcome that holds: of the same link or file, stored the same way, not to be retried."""
        if entry is None or entry.row.origin != request.origin or self._reconsidered(entry.row):
            return False
        if entry.row.outcome == Outcome.OK:
            same = entry.row.recipe in (request.recipe, request.recipe.removesuffix(_ROBOTS_UNASKED))
            return same and not (entry.row.evidence and _OPT_OUT in self._retried)
        return entry.row.reason not in self._retried

    def _moved(self, ids: set[str]) -> dict[str, Entry]:
        """What the parts of an earlier layout know of rows."""
        found: dict[str, Entry] = {}
        for part in self._outdated:
            entries = self._stored(part)[1] | Journal(self._storage, part).entries()
            found |= {key: entry for key, entry in entries.items() if key in ids}
        return found

    def _stored(self, part: str) -> tuple[StoredPart, dict[str, Entry]]:
        """What is stored of a part, and the outcomes that are whole. When anything is wrong every byte is looked at."""
        stored = inspect_part(self._storage, part, contents=self._mend)
        if not stored.sound and not self._mend:
            stored = inspect_part(self._storage, part, contents=True)
        return stored, recover_entries(self._storage, part) if stored.ledger_problem else stored.entries


def shard_files(storage: Storage, shard: str) -> tuple[str, ...]:
    """Storage names of the tars and ledgers that a fetched shard consists of, part by part; journals are none of them.

    Cheap: it looks whether there is a ledger and lists one folder. A file that must be there is named although it is
    not: whether it is, and whole, is for the caller to see (`Storage.size`, `verify_images`).
    """
    parts = due_parts(shard, stored_parts(storage, shard))
    return tuple(name for part in parts for name in (tar_name(part), ledger_name(part)))


def _version(ledger: pl.DataFrame) -> str:
    images = ledger.filter(pl.col("outcome") == Outcome.OK.value)
    return shard_version(zip(images["id"], images["stored_sha256"], strict=True))


def _requests(profile: Profile, frame: pl.DataFrame) -> list[FetchRequest]:
    links = profile.source.kind == "metadata"
    made_by = recipe(profile) + ("" if profile.fetch.robots or not links else _ROBOTS_UNASKED)
    rows = _row_hashes(frame, CATALOG_COLUMNS)
    # a file's size and time decide whether it is read again; a link's scores do not
    origins = _row_hashes(frame, ["url", "path"] if links else ["path", "source_hash"])
    return [
        FetchRequest(id=key, url=url, path=path, origin=origin, row_hash=row, recipe=made_by)
        for key, url, path, origin, row in zip(frame["id"], frame["url"], frame["path"], origins, rows, strict=True)
    ]


def _row_hashes(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """One hash per row over the named columns: 16 hexadecimal digits each."""
    names = list(columns)
    digest = xxhash.xxh3_64_hexdigest
    return [digest(repr(row).encode("utf-8", "surrogatepass")) for row in frame.select(names).iter_rows()]


def _retried(profile: Profile, retry: Collection[Reason | str]) -> frozenset[str]:
    """The reasons to try again; _OPT_OUT when images kept in spite of an opt-out may not be kept any more."""
    reasons = {Reason(reason).value for reason in retry}
    return frozenset(reasons | {_OPT_OUT} if profile.fetch.respect_opt_out else reasons)


def _up_to_date(requests: list[FetchRequest], stored: dict[str, LedgerRow]) -> bool:
    return len(stored) == len(requests) and all(
        row.id in stored and stored[row.id].row_hash == row.row_hash for row in requests
    )


def _write(
    storage: Storage, part: str, frame: pl.DataFrame, requests: list[FetchRequest], known: dict[str, Entry]
) -> None:
    """Tar and ledger in the catalog's order: the same content gives the same bytes."""
    rows: list[LedgerRow] = []
    with storage.writing(tar_name(part)) as path, path.open("wb", buffering=0) as file, TarWriter(file) as tar:
        with stored_images(storage) as images:
            for catalog_row, request in zip(frame.iter_rows(named=True), requests, strict=True):
                entry = known[request.id]
                row = entry.row
                if (row.row_hash, row.url) != (request.row_hash, request.url):
                    row = replace(row, row_hash=request.row_hash, url=request.url)
                rows.append(row)
                if entry.place is not None:
                    _write_image(tar, images, entry.place, row, catalog_row)
        ledger = ledger_frame(rows)  # while the disk takes the images
        tar.close()
    storage.write_parquet(ledger_name(part), ledger, compression="zstd")


def _write_image(
    tar: TarWriter, images: StoredImages, place: Place, row: LedgerRow, catalog_row: dict[str, Any]
) -> None:
    tar.copy(f"{row.id}.{row.extension}", images.handle(place), place.offset, place.size)
    tar.add(f"{row.id}.txt", (catalog_row["caption"] or "").encode())
    tar.add(f"{row.id}.json", encode_sidecar(row, catalog_row))


def _report(profile: Profile, storage: Storage, shard: str, fetched: int, written: bool, seconds: float) -> FetchReport:
    ledger = read_ledger(storage, shard)
    counted = ledger.group_by("reason").len().select(pl.col("reason").cast(pl.String), "len")
    reasons = dict(sorted(counted.iter_rows(), key=lambda item: (-item[1], item[0])))
    return FetchReport(
        shard=shard,
        rows=ledger.height,
        ok=reasons.get(Reason.OK, 0),
        reasons=reasons,
        fetched=fetched,
        bytes=sum(storage.size(tar_name(part)) for part in stored_parts(storage, shard)),
        seconds=seconds,
        rate=fetched / seconds if seconds else 0.0,
        version=_version(ledger),
        health=health_of(profile.fetch, reasons),
        written=written,
    )
