"""How many connections and lookups at a time this process has the file descriptors for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from latent_assets.images.download.lookups import LOOKUPS_AT_ONCE
from latent_assets.limits import allow_open_files, free_descriptors

_KEPT = 24  # for the journal, the tables, the run's own records
_A_WORKER = 6  # pipes, memory and journal of a process that stores images
_A_LOOKUP = 3  # sockets and files that the system opens for one
_A_CONNECTION = 1.5  # two addresses of a name may be tried at a time
_KEPT_ALIVE = 2  # connections that wait to be used again, for each in use
_IN_USE = 256  # by the rest of the process, generously


@dataclass(frozen=True)
class Budget:
    """How many rows may be on their way at a time, connections be open (kept ones too), and names be looked up."""

    connections: int
    open: int
    lookups: int


def connection_budget(wanted: int) -> Budget:
    """What fits of `wanted` connections: the limit of open files is raised where that is allowed, then shared out."""
    kept = _KEPT + _A_WORKER * (os.cpu_count() or 1)
    allow_open_files((1 + _KEPT_ALIVE) * wanted + _A_LOOKUP * LOOKUPS_AT_ONCE + kept + _IN_USE)
    free = free_descriptors()
    lookups = max(1, min(LOOKUPS_AT_ONCE, free // (4 * _A_LOOKUP)))
    left = free - kept - _A_LOOKUP * lookups
    connections = max(1, min(wanted, int(left / _A_CONNECTION)))
    return Budget(connections, max(1, left - connections), lookups)
