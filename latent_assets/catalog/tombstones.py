"""What was taken down, so that no build brings it back: hashes, from which nothing can be read.

    takedowns/tombstones.json      {"format": 1, "url": [...], "domain": [...], "id": [...], "image": [...]}

Each is the SHA-256 of its kind and its value. The catalog leaves out rows whose link, domain or id is there; the
fetcher stores no image whose bytes are. What was removed, and how, is the business of `pipeline.takedown`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from latent_assets.errors import DataError
from latent_assets.layout import TOMBSTONES
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    import polars as pl

    from latent_assets.storage import Storage

Kind = Literal["url", "domain", "id", "image"]

_FORMAT = 1
_KINDS: tuple[Kind, ...] = ("url", "domain", "id", "image")


@dataclass(frozen=True)
class Tombstones:
    """Hashes (`tombstone`) by kind. url: of `links.removal_keys`; image: of the SHA-256 of the bytes as fetched."""

    url: frozenset[str] = frozenset()
    domain: frozenset[str] = frozenset()
    id: frozenset[str] = frozenset()
    image: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in _KINDS)

    def __or__(self, other: Tombstones) -> Tombstones:
        return Tombstones(*(getattr(self, kind) | getattr(other, kind) for kind in _KINDS))

    @property
    def version(self) -> str:
        """Hash over what decides the catalog: links, domains and ids."""
        return fingerprint([sorted(getattr(self, kind)) for kind in _KINDS if kind != "image"])

    def has_image(self, sha256: str) -> bool:
        """Whether the image with these bytes was taken down."""
        return bool(self.image) and tombstone("image", sha256) in self.image

    def has_host(self, host: str) -> bool:
        """Whether a host, or a domain above it, was taken down."""
        parts = host.split(".")
        return any(tombstone("domain", ".".join(parts[start:])) in self.domain for start in range(len(parts)))


NONE = Tombstones()


def tombstone(kind: Kind, value: str) -> str:
    """The hash that is kept of something taken down: 64 hexadecimal digits."""
    return hashlib.sha256(f"{kind}:{value}".encode()).hexdigest()


def tombstones_of(
    urls: Iterable[str] = (), domains: Iterable[str] = (), ids: Iterable[str] = (), images: Iterable[str] = ()
) -> Tombstones:
    """Tombstones of links (`removal_keys`), domains, row ids and images (SHA-256 in hexadecimal digits)."""
    values: dict[Kind, Iterable[str]] = {"url": urls, "domain": domains, "id": ids, "image": images}
    return Tombstones(*(frozenset(tombstone(kind, value) for value in values[kind]) for kind in _KINDS))


def hashed(kind: Kind, column: str) -> pl.Expr:
    """The tombstones that the values of a text column have; null stays null."""
    import polars as pl  # not at the top: the processes that decode read tombstones and have no frames
    import polars_hash as plh

    text: pl.Expr = plh.concat_str(pl.lit(f"{kind}:"), pl.col(column)).chash.sha2_256()
    return text


def read_tombstones(storage: Storage) -> Tombstones:
    """Everything that was taken down. Raises DataError when the file is there and cannot be read."""
    if not storage.exists(TOMBSTONES):
        return NONE
    try:
        values = storage.read_json(TOMBSTONES)
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']}")
        return Tombstones(*(frozenset(values[kind]) for kind in _KINDS))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{storage.uri(TOMBSTONES)} cannot be read ({error}): put it back from a copy. Nothing is built "
            "without it: what was taken down would come back."
        ) from error


def add_tombstones(storage: Storage, new: Tombstones) -> Tombstones:
    """Keep what is taken down, beside what was; returns all of it. One process at a time."""
    everything = read_tombstones(storage) | new
    values = {kind: sorted(getattr(everything, kind)) for kind in _KINDS}
    storage.write_json(TOMBSTONES, {"format": _FORMAT, **values})
    return everything
