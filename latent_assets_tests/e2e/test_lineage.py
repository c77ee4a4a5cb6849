"""The lineage on the real graph: a build does exactly the work that is due, and Dagster agrees on what is stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import polars as pl
import pytest

from latent_assets.defs.build import Builder
from latent_assets.defs.instance import instance_home
from latent_assets.defs.partitions import asset_key
from latent_assets.pipeline.lineage import Lineage, MakeOptions, Materialized
from latent_assets.pipeline.states import State
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery, drawing
from latent_assets_tests.e2e.dagster_ui import serving_ui
from latent_assets_tests.e2e.small_atlas import SmallAtlas, small_atlas, write_profile
from latent_assets_tests.small_models import write_clip, write_vae

WHOLE = [
    *("laion_metadata", "embedding_manifest", "umap_model"),
    *("atlas_labels", "atlas_table", "atlas_tiles", "placement_calibration"),
]
SHARDED = ["shard_catalog", "image_shards", "vae_latents", "clip_embeddings", "thumbnails", "umap_projection"]
RELEASE = {("atlas_table", "all"), ("atlas_tiles", "all"), ("placement_calibration", "all")}
REFIT = {("umap_model", "all"), ("atlas_labels", "all"), *RELEASE}
AFTER_EMBEDDINGS = {("embedding_manifest", "all"), *REFIT}


def shards(stage: str, *keys: str) -> set[tuple[str, str]]:
    return {(stage, key) for key in (keys or ("00000", "00001", "00002"))}


@pytest.fixture
def atlas(small_profile: Callable[..., Profile]) -> Iterator[SmallAtlas]:
    with small_atlas(small_profile()) as found:
        yield found


def table(atlas: SmallAtlas) -> pl.DataFrame:
    dataset = lance.dataset(f"{atlas.lineage.storage.lance_uri}/atlas.lance", version="live")
    return pl.from_arrow(dataset.to_table())  # type: ignore[return-value]


def test_first_build_makes_everything_and_the_second_nothing(atlas: SmallAtlas, gallery: Gallery) -> None:
    from latent_assets.models import clip, vae

    loaded = clip._load.cache_info().misses, vae._load.cache_info().misses
    made = atlas.rebuild()
    assert clip._load.cache_info().misses - loaded[0] <= 1 and vae._load.cache_info().misses - loaded[1] <= 1
    assert atlas.instance.get_runs_count() == 11, "one run per stage, the embeddings together: models load once"
    expected = {(name, "all") for name in WHOLE}.union(*(shards(name) for name in SHARDED))
    assert made == expected
    rows = table(atlas)
    assert rows.height == 60 and rows["id"].n_unique() == 60
    assert set(rows["url"]) == {gallery.url(name) for name in gallery.files}
    requests, runs = len(gallery.requests), atlas.instance.get_runs_count()
    events = {name: atlas.materializations(name) for name in WHOLE + SHARDED}

    assert atlas.rebuild() == set()
    assert len(gallery.requests) == requests, "nothing is fetched twice"
    assert atlas.instance.get_runs_count() == runs, "a build with nothing to do starts no run"
    assert {name: atlas.materializations(name) for name in WHOLE + SHARDED} == events
    assert all(s.state is State.CURRENT for stage in atlas.lineage.status().values() for s in stage)


def test_shards_that_are_groups_of_tars(small_profile: Callable[..., Profile], gallery: Gallery) -> None:
    """Twelve tars do not fit two free partitions: two shards of six tars each, and the atlas is the same."""
    with small_atlas(small_profile(shards={"rows": 5, "max_partitions": 4})) as atlas:
        made = atlas.rebuild()
        assert {key for stage, key in made if stage == "image_shards"} == {"00000", "00001"}
        tars = sorted((Path(atlas.profile.root) / "images").rglob("*.tar"))
        assert len(tars) == 12 and {tar.parent.name for tar in tars} == {"00000", "00001"}
        rows = table(atlas)
        assert rows.height == 60 and set(rows["url"]) == {gallery.url(name) for name in gallery.files}
        assert atlas.rebuild() == set()


def test_a_changed_clip_redoes_its_vectors_and_what_follows_only(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery
) -> None:
    spec = write_clip(tmp_path / "clip", seed=1)
    profile = small_profile(models={"clip": spec, "vae": dict(small_profile().models.vae.model_dump())})  # type: ignore[union-attr]
    with small_atlas(profile) as atlas:
        atlas.rebuild()
        requests = len(gallery.requests)
        write_clip(tmp_path / "clip", seed=2)
        states = {s.stage: s.state for stage in type(atlas.lineage)(profile).status().values() for s in stage}
        assert states["vae_latents"] is State.CURRENT and states["clip_embeddings"] is State.STALE
        assert atlas.rebuild() == shards("clip_embeddings") | AFTER_EMBEDDINGS | shards("umap_projection")
        assert len(gallery.requests) == requests


def test_a_changed_vae_redoes_its_latents_and_what_follows_only(
    small_profile: Callable[..., Profile], small_models: dict[str, Any], tmp_path: Path, gallery: Gallery
) -> None:
    spec = {**write_vae(tmp_path / "vae", seed=1), "batch_size": 16}
    with small_atlas(small_profile(models={"clip": dict(small_models["clip"]), "vae": spec})) as atlas:
        atlas.rebuild()
        requests = len(gallery.requests)
        write_vae(tmp_path / "vae", seed=2)
        assert atlas.rebuild() == shards("vae_latents") | AFTER_EMBEDDINGS | shards("umap_projection")
        assert len(gallery.requests) == requests


def test_an_added_row_makes_a_new_shard_and_leaves_the_old_ones(atlas: SmallAtlas, gallery: Gallery) -> None:
    atlas.rebuild()
    requests = len(gallery.requests)
    gallery.files["new.png"] = drawing(200)
    gallery.write(sorted(gallery.files))
    made = atlas.rebuild()
    new = {(stage, "00003") for stage in SHARDED}
    projected = shards("umap_projection", "00000", "00001", "00002", "00003")
    assert made == {("laion_metadata", "all")} | new | AFTER_EMBEDDINGS | projected
    assert gallery.requests[requests:] == ["new.png"]
    assert table(atlas).height == 61


def test_a_removed_row_touches_its_shard_only(atlas: SmallAtlas, gallery: Gallery) -> None:
    atlas.rebuild()
    requests = len(gallery.requests)
    rows = table(atlas)
    gone = rows.filter(pl.col("url") == gallery.url("007.png")).row(0, named=True)
    gallery.write([name for name in sorted(gallery.files) if name != "007.png"])
    made = atlas.rebuild()
    touched = {(stage, gone["shard"]) for stage in SHARDED}
    assert made == {("laion_metadata", "all")} | touched | AFTER_EMBEDDINGS | shards("umap_projection")
    assert len(gallery.requests) == requests, "no other row is fetched again"
    assert set(table(atlas)["id"]) == set(rows["id"]) - {gone["id"]}


def test_changed_map_settings_redo_the_map_only(atlas: SmallAtlas, small_profile: Callable[..., Profile]) -> None:
    atlas.rebuild()
    atlas.profile = small_profile(projection={"min_dist": 0.5})
    assert atlas.rebuild() == REFIT | shards("umap_projection")


def test_a_seeded_build_repeats_exactly(small_profile: Callable[..., Profile], tmp_path: Path) -> None:
    tables = []
    for root in ("first", "second"):
        with small_atlas(small_profile(name=root, root=str(tmp_path / root))) as atlas:
            atlas.rebuild()
            tables.append(table(atlas).sort("id"))
    assert tables[0].equals(tables[1])


def test_failed_rows_fail_their_shard_and_the_others_go_on(atlas: SmallAtlas, gallery: Gallery) -> None:
    assert atlas.build()["laion_metadata"].done == 1
    first = table(atlas)
    victims = set(first.filter(pl.col("shard") == "00001")["url"])
    # a second gallery of links, all new, of which one shard's hosts answer 404
    atlas.lineage.storage.delete("manifests/image_shards/00001.json")
    atlas.lineage.storage.delete("images/00001.tar")
    atlas.lineage.storage.delete("images/00001.parquet")
    atlas.lineage.storage.delete("images/00001.partial")
    for url in victims:
        gallery.statuses[url.rsplit("/", 1)[1]] = 404
    results = atlas.build()
    assert list(results["image_shards"].failed) == ["00001"]
    assert "min_success" in results["image_shards"].failed["00001"]
    assert "404" in results["image_shards"].failed["00001"] or "http" in results["image_shards"].failed["00001"]
    assert "embeddings[00001]" in results["embedding_manifest"].failed["all"], "the manifest names what is missing"
    assert results["embedding_manifest"].done == results["atlas_table"].done == 0
    assert len(table(atlas)) == len(first), "readers keep the release before"
    states = {s.key: s.state for s in atlas.lineage.status()["image_shards"]}
    assert states == {"00000": State.CURRENT, "00001": State.FAILED, "00002": State.CURRENT}


def test_a_refit_continues_the_maps_that_readers_see_and_nothing_is_due_then(
    atlas: SmallAtlas, small_profile: Callable[..., Profile]
) -> None:
    atlas.rebuild()
    first = atlas.lineage.manifest("umap_model")
    assert first.recipe.inputs["continues"] is None
    # above the number of rows: as good as the same settings, under another fingerprint
    atlas.profile = small_profile(projection={"fit_rows": 999})
    assert atlas.rebuild() == REFIT | shards("umap_projection")
    second = atlas.lineage.manifest("umap_model")
    assert second.recipe.inputs["continues"].startswith("release-")
    # its own release is the one readers see now, and it is not due for that
    assert atlas.rebuild() == set()
    # nor when the release that it continues is gone; made anew, it continues what is there
    atlas.lineage.storage.delete("lance")
    again = Lineage(atlas.profile)
    assert again.artifact("umap_model").state is State.CURRENT
    forced = again.ensure(["umap_model"], options=MakeOptions(force=True))["umap_model"]
    assert isinstance(forced, Materialized) and forced.manifest.recipe.inputs["continues"] is None


def test_a_refit_with_the_same_result_can_still_be_published(
    atlas: SmallAtlas, small_profile: Callable[..., Profile]
) -> None:
    atlas.rebuild()
    atlas.profile = small_profile(projection={"fit_rows": 999})
    assert atlas.rebuild() == REFIT | shards("umap_projection")
    before = table(atlas).sort("id")
    atlas.profile = small_profile(projection={"fit_rows": 999}, table={"thumbnail_quality": 30})
    assert atlas.rebuild() == shards("thumbnails") | RELEASE
    after = table(atlas).sort("id")
    assert after.drop("thumbnail").equals(before.drop("thumbnail")) and not after.equals(before)


def test_what_another_instance_made_is_recorded_without_work(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = atlas.rebuild()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "another"))
    with small_atlas(atlas.profile) as second:
        assert second.rebuild() == set()
        for stage, key in made:
            event = second.instance.get_latest_materialization_event(asset_key(atlas.profile, stage))
            assert event is not None, stage
            if key != "all":
                assert key in second.instance.get_materialized_partitions(asset_key(atlas.profile, stage))
        runs = second.instance.get_runs_count()
        assert second.rebuild() == set() and second.instance.get_runs_count() == runs


def test_a_value_that_must_not_travel_fails_its_check_and_stops(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latent_assets.models.clip import ClipEncoder

    encode = ClipEncoder.encode_pixels
    monkeypatch.setattr(ClipEncoder, "encode_pixels", lambda self, pixels: encode(self, pixels) * float("nan"))
    results = atlas.build()
    assert set(results["clip_embeddings"].failed) == {"00000", "00001", "00002"}
    assert "not finite" in results["clip_embeddings"].failed["00000"]
    assert results["vae_latents"].failed == {}, "the other model's work is kept"
    assert results["atlas_table"].done == 0
    checks = check_results(atlas)
    assert checks["clip_embeddings_values"] is False and "clip_embeddings_rows" not in checks
    assert checks["vae_latents_values"] is True
    monkeypatch.undo()
    assert ("vae_latents", "00000") not in atlas.rebuild()


def check_results(atlas: SmallAtlas) -> dict[str, bool]:
    """The latest result of every asset check in the instance, by name."""
    records = atlas.instance.event_log_storage.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION), limit=1000, ascending=True
    )
    evaluations = [record.event_log_entry.asset_check_evaluation for record in records]
    return {found.check_name: found.passed for found in evaluations if found is not None}


@pytest.mark.slow
def test_dagster_agrees_on_what_is_stale(
    small_profile: Callable[..., Profile], tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_clip(tmp_path / "clip", seed=1)
    vae: Any = small_profile().models.vae
    profile = small_profile(models={"clip": spec, "vae": vae.model_dump()})
    with small_atlas(profile) as atlas:
        atlas.rebuild()
        file = write_profile(profile, tmp_path / "profile.toml")
        with serving_ui(str(instance_home(profile)), str(file)) as ui:
            fresh = {name: "FRESH" for name in WHOLE} | {name: ["FRESH"] * 3 for name in SHARDED}
            assert ui.staleness(WHOLE + SHARDED) == fresh
            for name, node in ui.nodes(WHOLE + SHARDED).items():
                assert node["description"] and node["groupName"] != "default" and node["kinds"], name
                assert node["owners"], name

            write_clip(tmp_path / "clip", seed=2)
            observe(atlas)
            found = ui.staleness(WHOLE + SHARDED)
            assert found["vae_latents"] == found["image_shards"] == ["FRESH"] * 3
            assert found["clip_embeddings"] == ["STALE"] * 3
            atlas.rebuild()
            assert ui.staleness(WHOLE + SHARDED) == fresh

            # one row less: one shard changes, although one run records all of them
            gallery.write([name for name in sorted(gallery.files) if name != "007.png"])
            rows = table(atlas).filter(pl.col("url") == gallery.url("007.png"))
            touched = int(rows["shard"][0])
            run_catalog(atlas)
            found = ui.staleness(WHOLE + SHARDED)
            assert found["shard_catalog"] == ["FRESH"] * 3
            assert found["image_shards"] == ["STALE" if index == touched else "FRESH" for index in range(3)]
            atlas.rebuild()
            assert ui.staleness(WHOLE + SHARDED) == fresh


def observe(atlas: SmallAtlas) -> None:
    """Record the sources' versions, as the UI's Observe button does."""
    Builder(Lineage(atlas.profile), atlas.instance)._observe()


def run_catalog(atlas: SmallAtlas) -> None:
    """Build up to and including `shard_catalog`."""
    for result in Builder(Lineage(atlas.profile), atlas.instance).build():
        if result.stage == "shard_catalog":
            break
