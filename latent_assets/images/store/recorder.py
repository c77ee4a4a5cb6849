"""From the result of a fetch to a ledger row and the image that is stored, both put into the journal.

How rows come by their results is the business of `fetcher`, what an image has to be that of `decode.image`. Links are
recorded in worker processes (`worker`), so nothing here needs the network or the tables.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latent_assets.images.decisions import decided_by
from latent_assets.images.decode.image import store_image
from latent_assets.images.download.request import FetchResult
from latent_assets.images.outcome import FetchError, LedgerRow, Reason, outcome_of

if TYPE_CHECKING:
    from latent_assets.catalog.tombstones import Tombstones
    from latent_assets.images.store.journal import Journal
    from latent_assets.profile import Fetch


class Recorder:
    """Makes ledger rows and images of results, and puts them into a journal."""

    def __init__(self, settings: Fetch, journal: Journal, tombstones: Tombstones) -> None:
        self._settings, self._tombstones = settings, tombstones
        self._journal = journal

    def record(self, results: Sequence[FetchResult]) -> None:
        """Store images, or the reasons why they are none. May be called from any thread.

        Results of one call are written together. Raises StorageError when the root is full or read-only.
        """
        self._journal.add([self._entry(result) for result in results])

    def probe(self) -> None:
        """Make an image of one that is in order, and do not store it."""
        from PIL import Image

        sound = io.BytesIO()
        Image.new("RGB", (64, 48)).save(sound, "JPEG")
        store_image(sound.getvalue(), self._settings)

    def close(self) -> None:
        """End the journal: everything recorded is stored."""
        self._journal.close()

    def _entry(self, result: FetchResult) -> tuple[LedgerRow, bytes]:
        if isinstance(result.content, FetchError):
            return self._problem_row(result, result.content), b""
        body = b"".join(result.content)
        try:
            image = store_image(body, self._settings)
        except FetchError as problem:
            problem.status, problem.redirects, problem.body_bytes = result.status, result.redirects, len(body)
            return self._problem_row(result, problem), b""
        if self._tombstones.has_image(image.sha256):
            buried = FetchError(Reason.TAKEN_DOWN, status=result.status, redirects=result.redirects)
            return self._problem_row(result, buried), b""
        recorded = _row(
            result,
            Reason.OK,
            http_status=result.status,
            redirects=result.redirects,
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            stored_width=image.stored_width,
            stored_height=image.stored_height,
            stored_bytes=len(image.data),
            extension=image.extension,
            sha256=image.sha256,
            stored_sha256=image.stored_sha256,
            evidence=result.evidence,
        )
        return recorded, image.data

    def _problem_row(self, result: FetchResult, problem: FetchError) -> LedgerRow:
        row = _row(
            result,
            problem.reason,
            http_status=problem.status,
            redirects=problem.redirects,
            bytes=problem.body_bytes,
            evidence=problem.evidence or None,
        )
        row.recipe = decided_by(problem.reason, self._settings) or row.recipe
        return row


def _row(result: FetchResult, reason: Reason, **about: Any) -> LedgerRow:
    request = result.request
    return LedgerRow(
        id=request.id,
        url=request.url,
        outcome=outcome_of(reason),
        reason=reason.value,
        fetched_at=time.time(),
        attempts=result.attempts,
        origin=request.origin,
        row_hash=request.row_hash,
        recipe=request.recipe,
        **about,
    )
