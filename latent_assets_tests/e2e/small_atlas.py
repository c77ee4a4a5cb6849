"""A small atlas for end-to-end tests: built through Dagster, with an account of the work each build did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from latent_assets.defs.build import Builder, StageResult
from latent_assets.defs.instance import open_instance
from latent_assets.defs.partitions import asset_key
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile, profile_toml


@dataclass
class SmallAtlas:
    """A profile, its lineage and its Dagster instance."""

    profile: Profile
    lineage: Lineage
    instance: dg.DagsterInstance

    def build(self, retry: Sequence[str] = ()) -> dict[str, StageResult]:
        """What `latent-assets build` does, without the display."""
        self.lineage = Lineage(self.profile)
        return {result.stage: result for result in Builder(self.lineage, self.instance).build(retry=retry)}

    def made(self) -> dict[tuple[str, str], float]:
        """When each artefact was made."""
        stages = self.lineage.stages
        return {(name, key): m.created for name in stages for key, m in self.lineage.manifests.all(name).items()}

    def rebuild(self) -> set[tuple[str, str]]:
        """Build, and return exactly the artefacts that this build made."""
        before = self.made()
        results = self.build()
        assert not any(result.failed for result in results.values()), {k: r.failed for k, r in results.items()}
        return {key for key, when in self.made().items() if before.get(key) != when}

    def materializations(self, asset: str) -> int:
        """Materialization events of an asset so far."""
        return len(self.instance.fetch_materializations(asset_key(self.profile, asset), limit=10_000).records)


@contextmanager
def small_atlas(profile: Profile) -> Iterator[SmallAtlas]:
    """Open a profile's instance; nothing is built yet."""
    with open_instance(profile) as instance:
        yield SmallAtlas(profile, Lineage(profile), instance)


def write_profile(profile: Profile, file: Path) -> Path:
    """A resolved profile as a TOML file, for a process of its own."""
    file.write_text(profile_toml(profile), encoding="utf-8")
    return file
