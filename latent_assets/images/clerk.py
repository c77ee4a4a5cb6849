"""What came of a row, turned into its ledger row and the image that is stored, and entered in the journal.

How rows come by their answers is the business of `rows`, what an image has to be that of `image`. Links are entered by
processes of their own (`workers`), so nothing here needs the network or the tables.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latent_assets.images.arrival import Arrival
from latent_assets.images.image import store_image
from latent_assets.images.outcome import FetchError, LedgerRow, Reason, outcome_of

if TYPE_CHECKING:
    from latent_assets.images.journal import Journal
    from latent_assets.profile import Fetch


class Clerk:
    """Makes ledger rows and images of what came, and enters them in a journal."""

    def __init__(self, settings: Fetch, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal

    def enter(self, arrivals: Sequence[Arrival]) -> None:
        """Store images, or the reasons why they are none. May be called from any thread.

        What is entered together is written together. Raises StorageError when the root is full or read-only.
        """
        self._journal.add([self._entry(arrival) for arrival in arrivals])

    def probe(self) -> None:
        """Make an image of one that is in order, and do not store it."""
        from PIL import Image

        sound = io.BytesIO()
        Image.new("RGB", (64, 48)).save(sound, "JPEG")
        store_image(sound.getvalue(), self._settings)

    def close(self) -> None:
        """End the journal: everything entered is stored."""
        self._journal.close()

    def _entry(self, arrival: Arrival) -> tuple[LedgerRow, bytes]:
        result = arrival.result
        if isinstance(result, FetchError):
            return _problem_row(arrival, result), b""
        body = b"".join(result)
        try:
            image = store_image(body, self._settings)
        except FetchError as problem:
            problem.status, problem.redirects, problem.body_bytes = arrival.status, arrival.redirects, len(body)
            return _problem_row(arrival, problem), b""
        entered = _row(
            arrival,
            Reason.OK,
            http_status=arrival.status,
            redirects=arrival.redirects,
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            stored_width=image.stored_width,
            stored_height=image.stored_height,
            stored_bytes=len(image.data),
            extension=image.extension,
            sha256=image.sha256,
            stored_sha256=image.stored_sha256,
            evidence=arrival.evidence,
        )
        return entered, image.data


def _problem_row(arrival: Arrival, problem: FetchError) -> LedgerRow:
    return _row(
        arrival,
        problem.reason,
        http_status=problem.status,
        redirects=problem.redirects,
        bytes=problem.body_bytes,
        evidence=problem.evidence or None,
    )


def _row(arrival: Arrival, reason: Reason, **about: Any) -> LedgerRow:
    row = arrival.row
    return LedgerRow(
        id=row.id,
        url=row.url,
        outcome=outcome_of(reason),
        reason=reason.value,
        fetched_at=time.time(),
        attempts=arrival.attempts,
        origin=row.origin,
        row_hash=row.row_hash,
        recipe=row.recipe,
        **about,
    )
