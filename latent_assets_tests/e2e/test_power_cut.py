"""Power cuts within and after whole builds: what manifests speak of is on the disk, a lost table is made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lance
import pytest

from latent_assets import progress
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.manifests import Manifest, Manifests
from latent_assets.pipeline.states import State
from latent_assets.profile import Profile
from latent_assets_tests.e2e.small_atlas import small_atlas
from latent_assets_tests.power import Disk, disk

__all__ = ["disk"]


@pytest.mark.slow
def test_a_power_cut_costs_no_artefact_and_a_lost_table_is_built_anew(
    small_profile: Callable[..., Profile], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = small_profile()
    root, committed = Path(profile.root), list[str]()
    commit = Manifests.commit

    def watched(self: Manifests, manifest: Manifest) -> Manifest:
        unsafe = set(disk.lost(root))
        assert not unsafe & set(manifest.files), f"{manifest.stage} speaks of what a power cut would take"
        if manifest.stage == "atlas_table":
            assert not [name for name in unsafe if name.startswith("lance/atlas.lance")]
        committed.append(manifest.stage)
        return commit(self, manifest)

    monkeypatch.setattr(Manifests, "commit", watched)
    with small_atlas(profile) as atlas:
        atlas.rebuild()
        assert {*committed} == {*atlas.lineage.stages}
        table = root / "lance/atlas.lance"
        assert not [name for name in disk.cut(root) if name.startswith(("lance/atlas.lance", "manifests", "images/0"))]
        after = Lineage(profile).status()
        assert {found.state for stage in after.values() for found in stage} == {State.CURRENT}
        assert lance.dataset(str(table), version="live").to_table().num_rows == 60
        assert atlas.rebuild() == set()

        # a file system that kept names without their bytes
        for file in table.rglob("*"):
            if file.is_file() and file.parent.name != "data":
                os.truncate(file, 0)
        (found,) = Lineage(profile).status(["atlas_table"])["atlas_table"]
        assert found.state is State.DAMAGED and "0 bytes" in found.why
        said: list[str] = []
        with progress.listening(lambda report: said.append(report.note) if report.lasting else None):
            made = atlas.rebuild()
        assert said == ["The table atlas had lost all its versions and is made anew."]
        assert ("atlas_table", "all") in made and {stage for stage, _ in made} <= {
            "atlas_table",
            "placement_calibration",
        }
        rows = lance.dataset(str(table), version="live").to_table(columns=["id"])
        assert len({*rows["id"].to_pylist()}) == rows.num_rows == 60
