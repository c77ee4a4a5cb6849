"""Sources and models: what they are now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from latent_assets.pipeline.stages import Observed
from latent_assets.spaces import embeddings, resolve

if TYPE_CHECKING:
    from latent_assets.models.weights import ModelFiles
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage


def observe_list(profile: Profile, storage: Storage) -> Observed:
    """The list of images: its version changes when a file is added, removed or written."""
    from latent_assets.catalog.source import observe_source

    found = observe_source(profile, storage)
    facts = {"path": found.path, "files": found.files, "bytes": found.bytes, "kind": profile.source.kind}
    return Observed(found.version, facts)


def observe_model(name: str, profile: Profile, storage: Storage) -> Observed:
    """The model of an embedding: its version is the digest of its files."""
    return _observed(resolve(embeddings()[name].files)(profile.models.of(name)))


def observe_diffusion(profile: Profile, storage: Storage) -> Observed:
    """The text-to-image pipeline."""
    from latent_assets.models.weights import diffusion_files

    assert profile.models.diffusion is not None
    return _observed(diffusion_files(profile.models.diffusion))


def _observed(files: ModelFiles) -> Observed:
    facts = asdict(files)
    return Observed(facts.pop("digest"), {"model": facts.pop("name"), **facts})
