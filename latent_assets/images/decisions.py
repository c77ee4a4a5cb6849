"""Which setting of [fetch] decided an outcome, and whether that setting would decide otherwise now.

The ledger keeps the setting with every row that it decided: a changed one opens exactly those rows again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from latent_assets.images.outcome import LedgerRow, Outcome, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

# reason -> key of [fetch]
SETTING_OF: dict[Reason, str] = {
    Reason.PRIVATE_ADDRESS: "allow_origins",
    Reason.TOO_MANY_BYTES: "max_bytes",
    Reason.TOO_MANY_PIXELS: "max_pixels",
    Reason.ANIMATION_TOO_LARGE: "max_pixels",
    Reason.TOO_MANY_REDIRECTS: "max_redirects",
    Reason.TIMEOUT: "timeout",
    Reason.ROBOTS: "robots",
    Reason.ROBOTS_UNREACHABLE: "robots",
    Reason.X_ROBOTS_TAG: "respect_opt_out",
    Reason.TDM_RESERVATION: "respect_opt_out",
}


def decided_by(reason: Reason, settings: Fetch) -> str | None:
    """The setting that decided, as the ledger keeps it (`max_bytes=50000000`); None when no setting did."""
    key = SETTING_OF.get(reason)
    return None if key is None else f"{key}={json.dumps(getattr(settings, key))}"


class Reconsidered:
    """Tells which rows of a ledger the settings of now may decide otherwise."""

    def __init__(self, settings: Fetch) -> None:
        self._settings = settings
        self._opened: dict[str, bool] = {}

    def __call__(self, row: LedgerRow) -> bool:
        """Whether a row is to be asked again: its setting was loosened, or a limit now refuses its image."""
        if row.outcome != Outcome.OK:
            if row.recipe not in self._opened:
                self._opened[row.recipe] = self._loosened(row.recipe)
            return self._opened[row.recipe]
        limits = self._settings
        pixels = (row.width or 0) * (row.height or 0)
        return (row.bytes or 0) > limits.max_bytes or pixels > limits.max_pixels or row.redirects > limits.max_redirects

    def _loosened(self, decided: str) -> bool:
        key, _, text = decided.partition("=")
        if not text or key not in SETTING_OF.values():  # how an image was to be stored: no setting decided
            return False
        before, now = json.loads(text), getattr(self._settings, key)
        if isinstance(before, list):
            return bool({*now} - {*before})
        return bool(before and not now) if isinstance(before, bool) else bool(now > before)
