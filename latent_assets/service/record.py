"""Which service runs for a root: a small file in the home directory, readable by its owner only.

Nothing heavy is imported here; the command line reads it before anything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from latent_assets.profile import home
from latent_assets.storage import process_lives


@dataclass(frozen=True)
class Record:
    """A service that listens. instance: what it answers with, so that nobody else is taken for it."""

    root: str
    process: int
    host: str
    port: int
    instance: str
    token: str | None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def record_file(root: str) -> Path:
    """The file of the service of a root."""
    return home() / "services" / f"{sha256(root.rstrip('/').encode()).hexdigest()[:16]}.json"


def read_record(root: str) -> Record | None:
    """The service of a root as it is written down; None without one, or when its process has ended.

    A record that a killed process left behind is removed.
    """
    file = record_file(root)
    try:
        found = Record(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if found.root == root.rstrip("/") and process_lives(found.process):
        return found
    with suppress(OSError):
        file.unlink()
    return None


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Write a service down for the duration of the block."""
    file = record_file(record.root)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{record.process}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as opened:
        json.dump(asdict(record), opened)
    temporary.replace(file)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # another service may have written itself down since
            if json.loads(file.read_text(encoding="utf-8")).get("instance") == record.instance:
                file.unlink()
