"""What the lineage says is what is: emptied shards, failed parents, reasons, a third embedding, two atlases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_assets.client import Atlas
from latent_assets.defs import tags
from latent_assets.defs.partitions import asset_key, partitions_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.states import State
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery
from latent_assets_tests.e2e.small_atlas import small_atlas
from latent_assets_tests.small_models import write_clip


def failures(results: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {stage: result.failed for stage, result in results.items() if result.failed}


def urls(profile: Profile) -> set[str]:
    frame = Atlas.open(profile.root).to_polars(["url"])
    return set(frame["url"])


def test_an_emptied_shard_and_an_emptied_atlas_are_published(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path
) -> None:
    """What was taken down leaves the table, also where it was the last of its shard, or of all."""
    removed = tmp_path / "takedowns.txt"
    removed.write_text("")
    profile = small_profile(filters={"remove": [str(removed)]})
    with small_atlas(profile) as atlas:
        assert failures(atlas.build()) == {}
        rows = Atlas.open(profile.root).to_polars(["url", "shard"])
        gone = set(rows.filter(rows["shard"] == "00001")["url"])
        assert len(gone) == 20
        removed.write_text("\n".join(sorted(gone)))
        assert failures(atlas.build()) == {}
        assert urls(profile) == {gallery.url(name) for name in gallery.files} - gone
        assert all(s.state is State.CURRENT for stage in atlas.lineage.status().values() for s in stage)

        removed.write_text("\n".join(gallery.url(name) for name in gallery.files))
        assert failures(atlas.build()) == {}
        empty = Atlas.open(profile.root)
        assert len(empty) == 0 and empty.search_text("anything") == []
        assert all(s.state is State.CURRENT for stage in atlas.lineage.status().values() for s in stage)

        removed.write_text("")
        assert failures(atlas.build()) == {}
        assert urls(profile) == {gallery.url(name) for name in gallery.files}


def test_what_is_behind_a_failed_stage_is_not_redone_on_its_old_parent(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path
) -> None:
    spec = write_clip(tmp_path / "clip", seed=1)
    profile = small_profile(models={"clip": spec, "vae": small_profile().models.of("vae").model_dump()})
    with small_atlas(profile) as atlas:
        assert failures(atlas.build()) == {}
        before = atlas.made()
        release = Atlas.open(profile.root).version
        Path(profile.root, "images/00001.tar").unlink()
        for url in Atlas.open(profile.root).to_polars(["url", "shard"]).filter(shard="00001")["url"]:
            gallery.statuses[url.rsplit("/", 1)[1]] = 404
        write_clip(tmp_path / "clip", seed=2)
        failed = failures(atlas.build())
        assert list(failed["image_shards"]) == ["00001"] and list(failed["clip_embeddings"]) == ["00001"]
        assert "image_shards[00001]" in failed["clip_embeddings"]["00001"]
        again = {artefact for artefact, when in atlas.made().items() if before[artefact] != when}
        assert again == {("clip_embeddings", "00000"), ("clip_embeddings", "00002")}
        assert Atlas.open(profile.root).version == release, "readers keep the release before"
        states = {s.key: s.state for s in atlas.lineage.status(["vae_latents"])["vae_latents"]}
        assert states == {"00000": State.CURRENT, "00001": State.WAITING, "00002": State.CURRENT}

        gallery.statuses.clear()
        assert failures(atlas.build(retry=["http_not_found"])) == {}
        assert len(Atlas.open(profile.root)) == 60


def test_status_says_exactly_why_something_is_stale(
    small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path
) -> None:
    spec = write_clip(tmp_path / "clip", seed=1)
    models = {"clip": spec, "vae": small_profile().models.of("vae").model_dump()}
    with small_atlas(small_profile(models=models)) as atlas:
        assert failures(atlas.build()) == {}

        def why(stage: str, profile: Profile) -> set[str]:
            return {s.why for s in Lineage(profile).status([stage])[stage] if s.state is State.STALE}

        assert why("umap_model", small_profile(models=models, projection={"min_dist": 0.5})) == {
            "projection.min_dist: 0.1 → 0.5"
        }
        assert why("thumbnails", small_profile(models=models, table={"thumbnail_size": 48})) == {
            "table.thumbnail_size: 96 → 48"
        }
        write_clip(tmp_path / "clip", seed=2)
        assert why("clip_embeddings", atlas.profile) == {"clip_model changed"}
        assert why("vae_latents", atlas.profile) == set()
        gallery.write(sorted(gallery.files)[:-1])
        assert why("laion_metadata", atlas.profile) == {"laion_source changed"}


def test_a_third_embedding_reaches_its_column_and_its_map_through_dagster(
    small_profile: Callable[..., Profile], gallery: Gallery
) -> None:
    """A file of its own, named by the profile, and no file of the package."""
    models = {name: small_profile().models.of(name).model_dump(exclude_none=True) for name in ("clip", "vae")}
    profile = small_profile(
        extensions=["latent_assets_tests.colour_histogram"],
        models={**models, "histogram": {"bins": 4}},
        projection={"spaces": ["clip", "joint", "histogram"]},
    )
    with small_atlas(profile) as atlas:
        assert failures(atlas.build()) == {}
        stage = next(row.stage for row in profile.embeddings if row.name == "histogram")
        for key in ("00000", "00001", "00002"):
            records = atlas.instance.fetch_materializations(asset_key(profile, stage), limit=10).records
            assert key in {record.partition_key for record in records}
        found = Atlas.open(profile.root)
        frame = found.to_polars(["id", "histogram", "xyz_histogram"])
        assert frame.height == 60 and frame["xyz_histogram"].to_numpy().shape == (60, 3)
        vector = np.asarray(frame["histogram"][7], np.float32)
        assert found.search_vector(vector, k=1, space="histogram")[0].id == frame["id"][7]
        assert set(found.neighbors(frame["id"][7], k=3, space="histogram")[0].xyz) == {"clip", "joint", "histogram"}
        assert atlas.rebuild() == set()


def test_two_atlases_share_an_instance(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gallery: Gallery
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "shared"))
    first = small_profile(name="first", root=str(tmp_path / "first"))
    second = small_profile(name="second", root=str(tmp_path / "second"), shards={"rows": 30})
    with small_atlas(first) as one, small_atlas(second) as other:
        assert failures(one.build()) == {} and failures(other.build()) == {}
        assert one.rebuild() == set() == other.rebuild(), "neither has overwritten the other's events"
        assert list(one.instance.get_dynamic_partitions(partitions_name(first))) == ["00000", "00001", "00002"]
        assert list(one.instance.get_dynamic_partitions(partitions_name(second))) == ["00000", "00001"]
        for profile, shards in ((first, 3), (second, 2)):
            assert len(one.instance.get_materialized_partitions(asset_key(profile, "image_shards"))) == shards


def test_a_run_records_the_versions_of_the_models_it_used(small_profile: Callable[..., Profile]) -> None:
    with small_atlas(small_profile()) as atlas:
        assert failures(atlas.build()) == {}
        profile = atlas.profile
        for stage, sources in (
            ("laion_metadata", ["laion_source"]),
            ("clip_embeddings", ["clip_model"]),
            ("vae_latents", ["vae_model"]),
        ):
            record = atlas.instance.fetch_materializations(asset_key(profile, stage), limit=1).records[0]
            event = record.asset_materialization
            assert event is not None and event.tags is not None
            for source in sources:
                assert (
                    event.tags[tags.input_version(asset_key(profile, source))] == atlas.lineage.observed(source).version
                )
            if stage != "laion_metadata":
                assert atlas.lineage.observed(sources[0]).version in str(event.metadata[f"model {sources[0]}"].value)
