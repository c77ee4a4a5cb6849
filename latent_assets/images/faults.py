"""Faults of this side while images are fetched: waited for, then named. They are never the outcome of a row.

Which errors are such faults is known to `limits`; here is how long they are borne.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from latent_assets.errors import ResourceError
from latent_assets.limits import NAMES

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_SHORTEST_PATIENCE = 10.0


def patience(timeout: float) -> float:
    """Seconds that a fault may last without anything succeeding beside it, for rows that take `timeout` at most."""
    return max(_SHORTEST_PATIENCE, 3 * timeout)


class FaultWatch:
    """How long faults have lasted, by resource: as long as something gets through in between, they are waited for.

    May be told of from any thread.
    """

    def __init__(self, patience: float, now: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._now = patience, now
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()

    def passed(self) -> None:
        """Something was done that needed files, memory and ports: those are not what is lacking (any more)."""
        if self._since:
            with self._lock:
                self._since = {name: since for name, since in self._since.items() if name == NAMES}

    def resolved(self) -> None:
        """The name server answered."""
        if self._since:
            with self._lock:
                self._since.pop(NAMES, None)

    def begin_again(self) -> None:
        """This process stood still: what lasted until then is not known to last."""
        with self._lock:
            self._since.clear()

    def met(self, fault: ResourceError, times: int) -> float:
        """Seconds to wait until what met the fault, for so many `times` now, is tried again.

        Raises ResourceError when that fault has lasted too long.
        """
        with self._lock:
            lasted = self._now() - self._since.setdefault(fault.resource, self._now())
        if lasted > self._patience:
            raise ResourceError(f"{fault} This has lasted for {lasted:.0f} s.", fault.resource) from fault
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(times, 10)) * random.uniform(0.5, 1.5)
