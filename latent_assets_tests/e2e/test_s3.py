"""The whole graph over a root on S3: built, unchanged, changed and asked, with nothing of the atlas on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.small_atlas import small_atlas
from latent_assets_tests.s3_server import BUCKET, SECRET, s3_server


@pytest.mark.slow
def test_an_atlas_on_s3(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        profile = small_profile(root=f"s3://{BUCKET}/small")
        with small_atlas(profile) as atlas:
            assert len(atlas.rebuild()) == 6 + 6 * 3
            assert atlas.rebuild() == set()
            gallery.write([name for name in sorted(gallery.files) if name != "007.png"])
            made = atlas.rebuild()
            assert len([key for stage, key in made if stage == "image_shards"]) == 1
            found = Atlas.open(profile.root)
            assert len(found) == 59
            first = found.search_text("a circle", k=3)[0]
            assert first.id not in {hit.id for hit in found.neighbors(first.id, k=5)}
            events = [str(entry) for run in atlas.instance.get_runs() for entry in atlas.instance.all_logs(run.run_id)]
            assert events and not any(SECRET in text for text in events), "credentials stay out of logs and metadata"
    assert not Path(str(tmp_path / "root")).exists()
