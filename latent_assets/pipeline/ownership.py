"""Which source a root belongs to. One that is built from another would delete what the first one downloaded.

latent-assets.json      at the root: the source whose rows, images and releases are below it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latent_assets.layout import OWNER

if TYPE_CHECKING:
    from latent_assets.pipeline.manifests import Manifest
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage


def source_of(profile: Profile) -> dict[str, Any]:
    """What tells a source from others: its kind and where it is."""
    source = profile.source
    where = {"builtin": source.builtin} if source.builtin else {"path": source.path}
    return {"kind": source.kind, **where}


def owner_of(storage: Storage, catalog: Manifest | None) -> dict[str, Any] | None:
    """The source that a root belongs to, None when it belongs to none. `catalog`: the manifest of its catalog.

    Of a root from before this was noted, the manifest knows the path.
    """
    if storage.exists(OWNER):
        return dict(storage.read_json(OWNER)["source"])
    path = catalog.details.get("path") if catalog else None
    return {"path": path} if path else None


def take_root(storage: Storage, profile: Profile) -> None:
    """Note that a root belongs to the profile's source."""
    storage.write_json(OWNER, {"source": source_of(profile)})


def named(source: Mapping[str, Any]) -> str:
    """A source in words."""
    return str(source.get("path") or f"the built-in {source.get('builtin')}")
