"""The calibrated atlas, built once through Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.generated.placement.calibrated import calibrated_profile, write_scenes


@dataclass(frozen=True)
class CalibratedAtlas:
    """A finished atlas with held-out rows; do not change it. home: of its Dagster instance."""

    profile: Profile
    file: Path
    home: Path

    @property
    def storage(self) -> Storage:
        return Storage(self.profile.root)


@pytest.fixture(scope="session")
def calibrated(
    tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]
) -> Iterator[CalibratedAtlas]:
    folder = tmp_path_factory.mktemp("calibrated")
    write_scenes(folder / "scenes")
    profile = calibrated_profile(folder, small_models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
        patch.delenv("DAGSTER_HOME", raising=False)
        with small_atlas(profile) as atlas:
            results = atlas.build()
    assert not any(result.failed for result in results.values()), results
    yield CalibratedAtlas(profile, write_profile(profile, folder / "profile.toml"), folder / "home")


@pytest.fixture(scope="session")
def placer(calibrated: CalibratedAtlas) -> ImagePlacer:
    return ImagePlacer.open(calibrated.storage)
