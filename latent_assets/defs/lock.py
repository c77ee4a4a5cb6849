"""One writer at a time: the lock on a local root that every run and every build takes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latent_assets.errors import StorageError
from latent_assets.pipeline.lineage import Lineage

_held: set[str] = set()


@contextmanager
def exclusive(lineage: Lineage) -> Iterator[None]:
    """Let one process at a time work on a root; a block inside another of the same process passes.

    Raises StorageError naming the other process. Roots on S3 are not locked: run one build at a time there.
    """
    root = lineage.storage.root
    if root in _held:
        yield
        return
    lineage.storage.check_writable()
    if not lineage.storage.is_local:
        yield
        return
    with Path(lineage.storage.uri("build.lock")).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StorageError(
                f"Another build (process {lock.read().strip() or '?'}) works on {root}. Wait for it, or stop it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _held.add(root)
        try:
            yield
        finally:
            _held.discard(root)
