"""Takedown on S3: every object is brought here and decoded, before and after; kept versions of objects are told of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.catalog.removals import removals_of
from latent_assets.client import Atlas
from latent_assets.defs.takedown import take_down
from latent_assets.object_store import PatientS3FileSystem
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.takedown import match
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.e2e.decoded import Wanted, mentions
from latent_assets_tests.e2e.small_atlas import SmallAtlas, small_atlas
from latent_assets_tests.e2e.test_takedown import not_current, rooms, row_of, wanted
from latent_assets_tests.s3_server import BUCKET, s3_server

pytestmark = pytest.mark.slow


def brought(profile: Profile, folder: Path, what: Wanted) -> dict[str, set[str]]:
    """Where it is found in the objects below the root."""
    PatientS3FileSystem.clear_instance_cache()
    store = Storage(profile.root)._fs
    store.get(f"{profile.root}/", f"{folder}/", recursive=True)
    return mentions(folder, what)


def test_an_image_is_taken_out_of_a_bucket(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        profile = small_profile(root=f"s3://{BUCKET}/small")
        with small_atlas(profile) as atlas:
            _take_down(atlas, profile, tmp_path)


def _take_down(atlas: SmallAtlas, profile: Profile, folder: Path) -> None:
    assert not any(result.failed for result in atlas.build().values())
    row, what = row_of(atlas, "017.png"), wanted(atlas, "017.png")
    before = brought(profile, folder / "before", what)
    assert {"catalog", "images", "embeddings", "thumbnails", "projection", "lance"} <= rooms(before, "id")
    assert rooms(before, "image") == {"images"} and "lance" in rooms(before, "clip float32")
    lineage = Lineage(profile)
    found = match(lineage, removals_of(urls=[row["url"]]))
    done = take_down(lineage, atlas.instance, found, "asked", {"url": 1})
    assert done.outcome.record.bucket_versions is False
    assert brought(profile, folder / "after", what) == {}
    assert len(Atlas.open(profile.root)) == 59
    atlas.lineage = Lineage(profile)
    assert not_current(atlas) <= {"placement_calibration"}
    store = Storage(profile.root)._fs
    store.call_s3("put_bucket_versioning", Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    assert Storage(profile.root).keeps_versions() is True
    assert Storage("s3://nobucket-at-all/x").keeps_versions() is None
