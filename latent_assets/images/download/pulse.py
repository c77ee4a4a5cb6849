"""Whether this process stood still (a closed lid, SIGSTOP, a frozen machine): the event loop misses its own beats.

Time that passes then is nobody's fault: connections, deadlines and name servers had no chance.
"""

from __future__ import annotations

import asyncio
import time

_INTERVAL = 0.25  # seconds
_MISSED = 1.0  # seconds beyond it: more than a loop with much to do is late
STANDSTILL = "standstill"


class Pulse:
    """Beats in the running event loop until it is closed. Times are those of `now`: the machine's sleep counts."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self.now()
        self._stood_still = float("-inf")
        self._timer = self._loop.call_later(_INTERVAL, self._beat)

    @staticmethod
    def now() -> float:
        """Seconds since the machine was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()

    def stood_still(self, since: float) -> bool:
        """Whether this process stood still at any time since then."""
        self._notice()
        return self._stood_still >= since

    def close(self) -> None:
        """Beat no more."""
        self._timer.cancel()

    def _beat(self) -> None:
        self._notice()
        self._timer = self._loop.call_later(_INTERVAL, self._beat)

    def _notice(self) -> None:
        now = self.now()
        if now - self._last > _INTERVAL + _MISSED:
            self._stood_still = now
        self._last = now
