"""The code location: what assets there are, that each says what it is, and that loading stays light."""

import subprocess
import sys
from collections.abc import Callable

import dagster as dg
import pytest

from latent_assets.definitions import build_defs
from latent_assets.defs import partitions
from latent_assets.errors import DataError
from latent_assets.profile import Profile, load_profile

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
    "embedding_manifest": ("embeddings", ["clip_embeddings", "vae_latents"]),
    "umap_model": ("projection", ["embedding_manifest"]),
    "umap_projection": ("projection", ["clip_embeddings", "umap_model", "vae_latents"]),
    "atlas_table": ("atlas", ["embedding_manifest", "laion_metadata", "umap_model", "umap_projection"]),
}


@pytest.mark.parametrize("name", ["demo", "laion-6.5plus", "laion-12m"])
def test_the_lineage_is_as_designed(name: str) -> None:
    specs = {spec.key.to_user_string(): spec for spec in build_defs(load_profile(name)).resolve_all_asset_specs()}
    found = {
        key: (spec.group_name, sorted(dep.asset_key.to_user_string() for dep in spec.deps))
        for key, spec in specs.items()
    }
    assert found == LINEAGE


def test_every_asset_says_what_it_is() -> None:
    for spec in build_defs(load_profile("demo")).resolve_all_asset_specs():
        name = spec.key.to_user_string()
        assert spec.description and len(spec.description) > 20, name
        assert spec.owners == ["team:atlas"] and spec.kinds, name
        if LINEAGE[name][0] != "sources":
            assert spec.code_version, name


def test_what_must_not_travel_is_blocked() -> None:
    definitions = build_defs(load_profile("demo"))
    checks = {
        (spec.asset_key.to_user_string(), spec.name): spec.blocking
        for checks in definitions.resolve_asset_graph().asset_check_keys
        for spec in [definitions.resolve_asset_graph().get_check_spec(checks)]
    }
    for expected in (
        ("laion_metadata", "rows_accounted_for"),
        ("shard_catalog", "ids_unique"),
        ("image_shards", "success_rate"),
        ("image_shards", "every_row_accounted_for"),
        ("clip_embeddings", "clip_embeddings_values"),
        ("vae_latents", "vae_latents_rows"),
        ("embedding_manifest", "rows_carried"),
        ("umap_projection", "coordinates_finite"),
        ("atlas_table", "checks_passed"),
    ):
        assert checks[expected] is True, expected


def test_a_profile_without_a_vae_has_no_vae_assets(small_profile: Callable[..., Profile]) -> None:
    whole = small_profile()
    assert whole.models.clip is not None
    profile = whole.model_copy(
        update={
            "models": whole.models.model_copy(update={"vae": None}),
            "projection": whole.projection.model_copy(update={"spaces": ("clip",)}),
        }
    )
    names = {spec.key.to_user_string() for spec in build_defs(profile).resolve_all_asset_specs()}
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
    import latent_assets

    assert latent_assets.__file__
    from pathlib import Path

    folder = Path(latent_assets.__file__).parent
    private = [str(file) for file in folder.rglob("*.py") if "dagster._" in file.read_text(encoding="utf-8")]
    assert private == []


def test_only_defs_know_dagster() -> None:
    from pathlib import Path

    import latent_assets

    folder = Path(str(latent_assets.__file__)).parent
    allowed = {"definitions.py"}
    users = {
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if "import dagster" in file.read_text(encoding="utf-8")
        and not str(file.relative_to(folder)).startswith("defs/")
    }
    assert users <= allowed


@pytest.mark.parametrize("key", ["1", "../00001", "0000a", "00001\n", "", "00001/2"])
def test_partition_keys_are_validated(key: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(DataError, match="not a shard key"):
            partitions.register(instance, ["00000", key])
        assert instance.get_dynamic_partitions("shard") == []


def test_partition_keys_are_registered_sorted() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert partitions.register(instance, ["00002", "00000", "00001"]) == ["00000", "00001", "00002"]
        assert partitions.register(instance, ["00003", "00001"]) == ["00003"]
        assert list(instance.get_dynamic_partitions("shard")) == ["00000", "00001", "00002", "00003"]
