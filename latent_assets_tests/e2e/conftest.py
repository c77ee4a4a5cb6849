"""A built atlas that tests only read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery, profile_over, serving_gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile


@dataclass(frozen=True)
class Built:
    """A finished atlas: its profile, the profile's file, the home directory of its Dagster instance, its images."""

    profile: Profile
    file: Path
    home: Path
    gallery: Gallery


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]) -> Iterator[Built]:
    """60 drawings in three spaces, published. Built once; do not change it."""
    folder = tmp_path_factory.mktemp("built")
    patch = pytest.MonkeyPatch()
    patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
    patch.delenv("DAGSTER_HOME", raising=False)
    with serving_gallery(folder / "gallery") as gallery:
        profile = profile_over(gallery, small_models, folder)
        with small_atlas(profile) as atlas:
            results = atlas.build()
        patch.undo()
        assert not any(result.failed for result in results.values())
        yield Built(profile, write_profile(profile, folder / "profile.toml"), folder / "home", gallery)
