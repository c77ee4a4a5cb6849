"""The automation condition, tick by tick: what a change asks for, in which order, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from latent_assets.definitions import build_defs
from latent_assets.defs import tags
from latent_assets.defs.partitions import asset_key, partitions_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile

SHARDS = ["00000", "00001", "00002"]
VECTORS = {"vae_latents", "clip_embeddings", "thumbnails"}


class Automation:
    """An instance without daemon: versions are reported, ticks evaluated."""

    def __init__(self, profile: Profile, instance: dg.DagsterInstance) -> None:
        self.lineage, self.instance = Lineage(profile), instance
        self._definitions = build_defs(lineage=self.lineage)
        self._cursor: dg.AssetDaemonCursor | None = None  # type: ignore[name-defined]

    def tick(self) -> dict[str, set[str | None]]:
        """Partitions that a tick asks for, by asset; None for an asset without partitions."""
        result = dg.evaluate_automation_conditions(self._definitions, self.instance, cursor=self._cursor)
        self._cursor = result.cursor
        found: dict[str, set[str | None]] = {}
        for name, stage in self.lineage.stages.items():
            key = asset_key(self.lineage.profile, name)
            if stage.sharded:
                if partitions := result.get_requested_partitions(key):
                    found[name] = set(partitions)
            elif result.get_num_requested(key):
                found[name] = {None}
        return found

    def observe(self, name: str, version: str) -> None:
        event = dg.AssetObservation(asset_key(self.lineage.profile, name), tags=self._versions(version))
        self.instance.report_runless_asset_event(event)

    def make(self, name: str, version: str, *partitions: str) -> None:
        key = asset_key(self.lineage.profile, name)
        for partition in partitions or (None,):
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(key, partition=partition, tags=self._versions(version))
            )

    def make_all(self, version: str) -> None:
        for name, stage in self.lineage.stages.items():
            self.make(name, version, *(SHARDS if stage.sharded else ()))

    def _versions(self, version: str) -> dict[str, str]:
        return {tags.DATA_VERSION: version, tags.DATA_VERSION_IS_OURS: "true"}


@pytest.fixture
def automation(small_profile: Callable[..., Profile]) -> Iterator[Automation]:
    with dg.DagsterInstance.ephemeral() as instance:
        found = Automation(small_profile(), instance)
        for source in found.lineage.sources:
            found.observe(source, "1")
        yield found


def register(automation: Automation, *shards: str) -> None:
    automation.instance.add_dynamic_partitions(partitions_name(automation.lineage.profile), list(shards))


def test_an_empty_atlas_is_built_stage_by_stage(automation: Automation) -> None:
    assert automation.tick() == {"laion_metadata": {None}}
    assert automation.tick() == {}, "what was asked for is not asked for again"
    register(automation, *SHARDS)
    automation.make("laion_metadata", "1")
    assert automation.tick() == {"shard_catalog": set(SHARDS)}
    automation.make("shard_catalog", "1", *SHARDS)
    assert automation.tick() == {"image_shards": set(SHARDS)}
    automation.make("image_shards", "1", "00000", "00001")
    assert automation.tick() == {stage: {"00000", "00001"} for stage in VECTORS}, "shards do not wait for each other"
    for stage in VECTORS:
        automation.make(stage, "1", "00000", "00001")
    assert automation.tick() == {}, "what is made of all shards waits for the last"
    automation.make("image_shards", "1", "00002")
    assert automation.tick() == {stage: {"00002"} for stage in VECTORS}
    for stage in VECTORS:
        automation.make(stage, "1", "00002")
    assert automation.tick() == {"embedding_manifest": {None}}
    automation.make("embedding_manifest", "1")
    assert automation.tick() == {"umap_model": {None}}
    automation.make("umap_model", "1")
    assert automation.tick() == {"umap_projection": set(SHARDS)}
    automation.make("umap_projection", "1", *SHARDS)
    assert automation.tick() == {"atlas_labels": {None}}
    automation.make("atlas_labels", "1")
    assert automation.tick() == {"atlas_table": {None}}
    automation.make("atlas_table", "1")
    assert automation.tick() == {"atlas_tiles": {None}, "placement_calibration": {None}}
    automation.make("atlas_tiles", "1")
    automation.make("placement_calibration", "1")
    assert automation.tick() == {}


@pytest.fixture
def built(automation: Automation) -> Automation:
    """Everything made, and one tick that finds nothing to do."""
    register(automation, *SHARDS)
    automation.make_all("1")
    assert automation.tick() == {}
    assert automation.tick() == {}
    return automation


def test_another_model_asks_for_what_is_made_with_it_alone(built: Automation) -> None:
    built.observe("clip_model", "2")
    assert built.tick() == {"clip_embeddings": set(SHARDS)}
    built.make("clip_embeddings", "2", *SHARDS)
    assert built.tick() == {"embedding_manifest": {None}}
    built.make("embedding_manifest", "2")
    assert built.tick() == {"umap_model": {None}}, "neither the table nor the places are made on the old map"


def test_an_observation_of_the_same_asks_for_nothing(built: Automation) -> None:
    built.observe("clip_model", "1")
    built.observe("laion_source", "1")
    assert built.tick() == {}


def test_a_list_that_grew_asks_for_the_new_shard_alone(built: Automation) -> None:
    built.observe("laion_source", "2")
    assert built.tick() == {"laion_metadata": {None}}
    register(built, "00003")
    built.make("laion_metadata", "2")
    assert built.tick() == {"shard_catalog": {*SHARDS, "00003"}}
    # one run records all of them; three have the version that they had
    built.make("shard_catalog", "1", *SHARDS)
    built.make("shard_catalog", "2", "00003")
    assert built.tick() == {"image_shards": {"00003"}}
    built.make("image_shards", "2", "00003")
    assert built.tick() == {stage: {"00003"} for stage in VECTORS}
