"""The data set in the package, made to look like any other: a metadata file and a server on loopback.

Only these two functions know that a source is built in; everything after reads links and fetches them.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from latent_assets import progress
from latent_assets.errors import ProfileError, SourceError
from latent_assets.layout import SOURCE
from latent_assets.profile import home
from latent_assets.storage import explained

if TYPE_CHECKING:
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_STANDBY_SECONDS = 0.2


def prepare(profile: Profile, storage: Storage) -> Path:
    """Write the built-in data set below the root (once) and return the path of its metadata parquet."""
    from latent_assets.openmoji import dataset, server

    folder = _folder(profile, storage)
    metadata, stamp = folder / "metadata.parquet", folder / "version.json"
    host, port = _address(profile)
    wanted = {"data": dataset.dataset_version(), "size": profile.fetch.size, "origin": profile.source.origin}
    if metadata.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return metadata
    with explained(storage, SOURCE, reading=False):
        dataset.render_all(
            _pictures(profile, storage),
            size=profile.fetch.size,
            progress=lambda done, total: progress.report("laion_source", done, total, "pictures"),
        )
        dataset.write_metadata(metadata, server.base_url(host, port), size=profile.fetch.size)
        stamp.write_text(json.dumps(wanted))
    return metadata


@contextmanager
def serving(profile: Profile, storage: Storage) -> Iterator[None]:
    """Serve a built-in data set on `source.origin` inside the block; does nothing for other sources.

    When another process already serves the same pictures there, that server is used, and ours takes its place
    as soon as it stops. Raises SourceError when something else holds the port.
    """
    if profile.source.builtin is None:
        yield
        return
    prepare(profile, storage)
    with ExitStack() as stack:
        standby = _Standby(profile, _pictures(profile, storage), stack)
        standby.start()
        try:
            yield
        finally:
            standby.stop()


class _Standby:
    """Our server, or the wish to start it once the one that answers now is gone."""

    def __init__(self, profile: Profile, pictures: Path, stack: ExitStack) -> None:
        self._origin = profile.source.origin or ""
        self._host, self._port = _address(profile)
        self._pictures = pictures
        self._stack = stack
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._serve():
            return
        if not _same_pictures(self._origin, self._pictures):
            raise SourceError(
                f"Port {self._port} of {self._host} is taken by something else, so the built-in data set cannot be "
                "served there: stop that process, or give `source.origin` and `fetch.allow_origins` of the profile "
                "another port."
            )
        self._thread = threading.Thread(target=self._wait, name="demo-server-standby", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _wait(self) -> None:
        while not self._stopped.wait(_STANDBY_SECONDS):
            if self._serve():
                return

    def _serve(self) -> bool:
        from latent_assets.openmoji import server

        try:
            self._stack.enter_context(server.serve(self._pictures, self._host, self._port))
        except server.PortTakenError:
            return False
        return True


def _folder(profile: Profile, storage: Storage) -> Path:
    """A local directory: below the root, or below the home directory when the root is not local."""
    return Path(storage.uri(SOURCE)) if storage.is_local else home() / SOURCE / profile.name


def _pictures(profile: Profile, storage: Storage) -> Path:
    return _folder(profile, storage) / f"pictures-{profile.fetch.size}"


def _address(profile: Profile) -> tuple[str, int]:
    parts = urlsplit(profile.source.origin or "")
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ProfileError(
            f"`source.origin` is {profile.source.origin!r}: write http://127.0.0.1:PORT with the port the built-in "
            "data set is to be served on."
        )
    return parts.hostname, parts.port


def _same_pictures(origin: str, pictures: Path) -> bool:
    """Whether the server on `origin` answers with our bytes for one of our pictures."""
    from latent_assets.openmoji import server

    sample = min(pictures.glob("*.png"))
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{origin}/{server.PREFIX}/{sample.name}", timeout=5) as answer:
            return bool(answer.read(10_000_000) == sample.read_bytes())
    except (urllib.error.URLError, OSError, ValueError):
        return False
