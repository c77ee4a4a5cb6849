"""The release that is live, opened with its models, and followed: a new one is loaded beside it, then takes its place.

Requests hold the release they began with. One that cannot be loaded is reported, and the old one stays.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from latent_assets.atlas.history import find_release
from latent_assets.atlas.table import LIVE, has_words, open_table
from latent_assets.client import Atlas
from latent_assets.errors import LatentAssetsError, NotBuiltError
from latent_assets.generated.placement.calibration import calibration_version
from latent_assets.generated.placement.placing import ImagePlacer, calibration_key
from latent_assets.images.decode.image import load_decoders
from latent_assets.service.texts import TextVectors

if TYPE_CHECKING:
    from lancedb.table import LanceTable

    from latent_assets.storage import Storage

_EVERY, _EVERY_REMOTE = 1.0, 10.0  # seconds between looks at the tag, on disk and on S3
_KEPT_OPEN = 4  # releases before the live one
_log = logging.getLogger("latent_assets.service")


@dataclass(frozen=True)
class KeptRelease:
    """A release that can be read, without its models and maps."""

    table: LanceTable
    atlas: Atlas


@dataclass(frozen=True)
class OpenRelease(KeptRelease):
    """A release with everything that answers from it. calibration: the version of what is usual in it."""

    placer: ImagePlacer
    calibration: str | None

    @property
    def version(self) -> int:
        """Version of the table."""
        return self.placer.version

    @cached_property
    def texts(self) -> TextVectors:
        """The vectors of what is searched for, by the CLIP model of the release."""
        return TextVectors(lambda texts: self.atlas.clip.encode_text(texts))

    @classmethod
    def open(cls, storage: Storage, tag: str) -> OpenRelease:
        """Open the release that a tag names. Raises NotBuiltError when it is not there."""
        table = open_table(storage.lance_uri, tag)
        placer = ImagePlacer(storage, table)
        return cls(
            table, Atlas(table, storage.lance_uri), placer, calibration_version(storage, calibration_key(placer.info))
        )

    def load(self) -> None:
        """Load the models and the maps, so that no request waits for them. Raises ModelError."""
        from PIL import Image

        load_decoders()
        blank = Image.new("RGB", (64, 64), "white")
        self.placer.place(blank)
        if "clip" in self.placer.encoders:
            self.texts.vector("blank")
        if has_words(self.table):
            self.atlas.search_text("blank", k=1, mode="words")


class LiveRelease:
    """Follows the tag `live` in a thread of its own."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._current: OpenRelease | None = None
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)
        self._then: Callable[[OpenRelease], None] | None = None
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._before: OrderedDict[int, KeptRelease] = OrderedDict()

    def start(self, then: Callable[[OpenRelease], None] | None = None) -> None:
        """Begin to follow; returns at once. then: what else has to be loaded once there is a release."""
        self._then = then
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stop.set()

    @property
    def current(self) -> OpenRelease | None:
        """The newest release that is loaded; None before the first."""
        return self._current

    def kept(self, version: int) -> KeptRelease:
        """A release that is kept, the live one or one before it; a few stay open.

        Raises NotBuiltError for one that is gone.
        """
        if self._current is not None and self._current.version == version:
            return self._current
        with self._lock:
            if version not in self._before:
                tag = find_release(self._storage.lance_uri, str(version)).tag
                table = open_table(self._storage.lance_uri, tag)
                self._before[version] = KeptRelease(table, Atlas(table, self._storage.lance_uri))
            self._before.move_to_end(version)
            while len(self._before) > _KEPT_OPEN:
                self._before.popitem(last=False)
            return self._before[version]

    @property
    def waits(self) -> bool:
        """Whether there is no release to load."""
        return self._current is None and self._looked.is_set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:  # whatever a store or a model raises: the next look may do better
                known = isinstance(error, LatentAssetsError)
                if self.problem != str(error):
                    _log.error("the release that is live cannot be served: %s", error, exc_info=not known)
                self.problem = str(error)
            self._looked.set()
            self._stop.wait(_EVERY if self._storage.is_local else _EVERY_REMOTE)

    def look(self) -> None:
        """Load the release that is live, unless it is the current one."""
        try:
            found = OpenRelease.open(self._storage, LIVE)
        except NotBuiltError:
            self.problem = None
            return
        # a release is published before it is measured what is usual in it
        known = self._current
        if known is not None and (known.version, known.calibration) == (found.version, found.calibration):
            self.problem = None
            return
        found.load()
        self._current, self.problem = found, None
        _log.info("release %d of %s is served", found.version, found.atlas.info.profile)
        if self._then is not None:
            then, self._then = self._then, None
            then(found)
