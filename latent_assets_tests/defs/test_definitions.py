"""The code location: what assets there are, that each says what it is, and that loading stays light."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

import latent_assets
from latent_assets.definitions import build_defs
from latent_assets.defs import partitions
from latent_assets.errors import DataError
from latent_assets.profile import Profile, load_profile

_VECTORS = ["clip_embeddings", "vae_latents"]
_STAGES = [
    *("laion_metadata", "shard_catalog", "image_shards", *_VECTORS, "thumbnails", "embedding_manifest"),
    *("umap_model", "umap_projection", "atlas_labels", "atlas_table"),
]
LINEAGE = {
    "laion_source": ("sources", []),
    "clip_model": ("sources", []),
    "vae_model": ("sources", []),
    "diffusion_model": ("sources", []),
    "laion_metadata": ("catalog", ["laion_source"]),
    "shard_catalog": ("catalog", ["laion_metadata"]),
    "image_shards": ("images", ["shard_catalog"]),
    "vae_latents": ("embeddings", ["image_shards", "vae_model"]),
    "clip_embeddings": ("embeddings", ["clip_model", "image_shards"]),
    "thumbnails": ("embeddings", ["image_shards"]),
    "embedding_manifest": ("embeddings", [*_VECTORS, "image_shards"]),
    "umap_model": ("projection", ["embedding_manifest"]),
    "umap_projection": ("projection", [*_VECTORS, "umap_model"]),
    "atlas_labels": ("atlas", ["shard_catalog", "umap_model", "umap_projection"]),
    "atlas_table": (
        "atlas",
        [name for name in _STAGES if name != "atlas_table"],
    ),
    "atlas_tiles": ("atlas", ["atlas_table"]),
    "placement_calibration": ("generated", ["umap_model", "atlas_table"]),
    "inbox": ("generated", []),
    "generated_images": ("generated", ["inbox"]),
    "generated_projection": (
        "generated",
        ["generated_images", "umap_model", "atlas_table", "placement_calibration"],
    ),
}


@pytest.mark.parametrize("name", ["demo", "laion-6.5plus", "laion-12m"])
def test_the_lineage_is_as_designed(name: str) -> None:
    specs = build_defs(load_profile(name)).resolve_all_asset_specs()
    assert {spec.key.path[0] for spec in specs} == {name}
    found = {
        spec.key.path[-1]: (spec.group_name, sorted(dep.asset_key.path[-1] for dep in spec.deps)) for spec in specs
    }
    assert {key: (group, sorted(parents)) for key, (group, parents) in LINEAGE.items()} == found


def test_every_asset_says_what_it_is() -> None:
    for spec in build_defs(load_profile("demo")).resolve_all_asset_specs():
        name = spec.key.path[-1]
        assert spec.description and len(spec.description) > 20, name
        assert spec.owners == ["team:atlas"] and spec.kinds, name
        if LINEAGE[name][0] != "sources" and name != "inbox":
            assert spec.code_version, name


def test_every_check_of_a_sharded_asset_is_known_by_partition() -> None:
    graph = build_defs(load_profile("demo")).resolve_asset_graph()
    checks = {(key.asset_key.path[-1], key.name): graph.get_check_spec(key) for key in graph.asset_check_keys}
    for expected in (
        ("laion_metadata", "rows_accounted_for"),
        ("shard_catalog", "ids_unique"),
        ("image_shards", "success_rate"),
        ("image_shards", "every_row_accounted_for"),
        ("image_shards", "tars_readable"),
        ("clip_embeddings", "clip_embeddings_values"),
        ("vae_latents", "vae_latents_rows"),
        ("thumbnails", "thumbnails_values"),
        ("embedding_manifest", "rows_carried"),
        ("umap_projection", "coordinates_finite"),
        ("atlas_table", "checks_passed"),
    ):
        spec = checks.pop(expected)
        sharded = graph.get(spec.asset_key).partitions_def
        assert spec.partitions_def == sharded and spec.description, expected
    assert {name for name, _ in checks} <= set(LINEAGE)


def test_two_atlases_fit_into_one_code_location(small_profile: Callable[..., Profile]) -> None:
    merged = dg.Definitions.merge(build_defs(load_profile("demo")), build_defs(small_profile()))
    dg.Definitions.validate_loadable(merged)
    keys = {spec.key for spec in merged.resolve_all_asset_specs()}
    assert {dg.AssetKey(["demo", "atlas_table"]), dg.AssetKey(["small", "atlas_table"])} <= keys
    graph = merged.resolve_asset_graph()
    names = {graph.get(dg.AssetKey([p, "image_shards"])).partitions_def.name for p in ("demo", "small")}  # type: ignore[union-attr]
    assert names == {"demo/shard", "small/shard"}
    assert {job.name for job in merged.resolve_all_job_defs() if not job.name.startswith("__")} == {
        f"{profile}__{job}"
        for profile in ("demo", "small")
        for job in ("rebuild", "refresh_sources", "verify", "place_generated")
    }


def test_what_runs_by_itself_is_shipped_stopped() -> None:
    definitions = build_defs(load_profile("demo"))
    schedules = {s.name: s for s in definitions.schedules or []}
    sensors = {s.name: s for s in definitions.sensors or []}
    assert set(schedules) == {"demo__refresh_sources_schedule", "demo__verify_schedule"}
    inbox = sensors.pop("demo__inbox")
    assert inbox.default_status is dg.DefaultSensorStatus.RUNNING  # it starts nothing unless someone drops a file
    assert set(sensors) == {"demo__automation", "demo__alert_on_failure"}
    assert all(s.default_status is dg.DefaultScheduleStatus.STOPPED for s in schedules.values())
    assert all(s.default_status is dg.DefaultSensorStatus.STOPPED for s in sensors.values())


def test_runs_that_must_not_meet_share_a_pool() -> None:
    from latent_assets.defs.instance import POOL_LIMITS

    pools = {}
    for asset in build_defs(load_profile("demo")).assets or []:
        if isinstance(asset, dg.AssetSpec):
            continue
        assert isinstance(asset, dg.AssetsDefinition)
        if asset.is_executable and asset.node_def.tags.get("latent_assets/profile_hash"):
            pools |= {key.path[-1]: next(iter(asset.op.pools)) for key in asset.keys}
    assert set(pools) == {name for name, (group, _) in LINEAGE.items() if group != "sources"} - {"inbox"}
    assert pools["image_shards"] == "demo/fetch" and pools["clip_embeddings"] == pools["thumbnails"] == "demo/models"
    assert {pool.removeprefix("demo/") for pool in pools.values()} == set(POOL_LIMITS)


def test_a_profile_without_a_vae_has_no_vae_assets(small_profile: Callable[..., Profile]) -> None:
    whole = small_profile()
    assert whole.models.clip is not None
    profile = whole.model_copy(
        update={
            "models": whole.models.model_copy(update={"vae": None}),
            "projection": whole.projection.model_copy(update={"spaces": ("clip",)}),
        }
    )
    names = {spec.key.path[-1] for spec in build_defs(profile).resolve_all_asset_specs()}
    assert "clip_embeddings" in names and "vae_latents" not in names and "vae_model" not in names


def test_loading_imports_no_heavy_library() -> None:
    code = (
        "import sys, latent_assets.definitions as d; d.build_defs().resolve_implicit_global_asset_job_def(); "
        "heavy = ('torch', 'umap', 'lance', 'polars', 'pyarrow', 'open_clip', 'diffusers', 'numpy'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_imports_dagsters_internals() -> None:
    folder = Path(str(latent_assets.__file__)).parent
    private = [str(file) for file in folder.rglob("*.py") if "dagster._" in file.read_text(encoding="utf-8")]
    assert private == []


@pytest.mark.parametrize("key", ["1", "../00001", "0000a", "00001\n", "", "00001/2"])
def test_partition_keys_are_validated(key: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(DataError, match="not a shard key"):
            partitions.register(instance, load_profile("demo"), ["00000", key])
        assert instance.get_dynamic_partitions("demo/shard") == []


def test_partition_keys_are_registered_sorted() -> None:
    demo = load_profile("demo")
    with dg.DagsterInstance.ephemeral() as instance:
        assert partitions.register(instance, demo, ["00002", "00000", "00001"]) == ["00000", "00001", "00002"]
        assert partitions.register(instance, demo, ["00003", "00001"]) == ["00003"]
        assert list(instance.get_dynamic_partitions("demo/shard")) == ["00000", "00001", "00002", "00003"]
