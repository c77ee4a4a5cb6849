"""The Dagster UI tells the truth, and what is clicked there works: real webserver, real daemon, real runs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from latent_assets.defs.instance import instance_home, limit_pools, open_instance
from latent_assets.defs.partitions import asset_key
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.states import State
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Gallery, drawing
from latent_assets_tests.e2e.dagster_ui import DagsterUI, serving_ui
from latent_assets_tests.e2e.small_atlas import SmallAtlas, write_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEYS = [f"{n:05}" for n in range(8)]
SHARDED = ["shard_catalog", "image_shards", "vae_latents", "clip_embeddings", "thumbnails"]


@dataclass(frozen=True)
class Served:
    """An atlas of 8 shards, its profile's file, and a Dagster that serves it."""

    profile: Profile
    file: Path
    gallery: Gallery
    ui: DagsterUI
    instance: dg.DagsterInstance

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "latent_assets.cli", *arguments, "-p", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def states(self, stage: str) -> dict[str, State]:
        return {found.key: found.state for found in Lineage(self.profile).status([stage])[stage]}

    def failures(self) -> list[str]:
        """What the failed runs say."""
        failed = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        return [f"{run.job_name} {run.asset_selection} {run.tags}: {self.ui.errors(run.run_id)}" for run in failed]

    def events(self, stage: str) -> Counter[str | None]:
        """Materializations by partition."""
        records = self.instance.fetch_materializations(asset_key(self.profile, stage), limit=1_000).records
        return Counter(record.partition_key for record in records)


@pytest.fixture
def served(small_profile: Callable[..., Profile], gallery: Gallery, tmp_path: Path) -> Iterator[Served]:
    profile = small_profile(shards={"rows": 8, "per_run": 4}, fetch={"min_success": 0.3})
    file = write_profile(profile, tmp_path / "profile.toml")
    with open_instance(profile) as instance:
        limit_pools(instance, profile)
        with serving_ui(str(instance_home(profile)), str(file), daemon=True) as ui:
            yield Served(profile, file, gallery, ui, instance)


def test_from_an_empty_instance_to_the_table_by_clicks_alone_beside_a_build(served: Served) -> None:
    """Runs that meet wait for each other; every shard is one event; checks are known per shard."""
    ui = served.ui
    assert ui.wait_for_run(ui.launch(["laion_metadata"])) == "SUCCESS"
    backfill = ui.backfill(SHARDED, KEYS)
    beside = subprocess.Popen(
        [sys.executable, "-m", "latent_assets.cli", "build", "-p", str(served.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ended = ui.wait_for_backfill(backfill)
        said, _ = beside.communicate(timeout=300)
    finally:
        beside.kill()
    assert ended == "COMPLETED_SUCCESS", served.failures()
    assert beside.returncode == 0, said
    for run in served.instance.get_runs():
        assert run.status is dg.DagsterRunStatus.SUCCESS, (run.run_id, ui.errors(run.run_id))
        assert run.tags["latent_assets/profile_hash"] == served.profile.fingerprint
    assert len(served.gallery.requests) == 60, "no image was fetched by two"
    for stage in SHARDED:
        assert set(served.events(stage)) == set(KEYS)
        assert ui.partitions(stage)["materialized"] == KEYS and ui.partitions(stage)["failed"] == []
        check = Lineage(served.profile).stages[stage].checks[0].name
        assert ui.check(stage, check)["succeeded"] == KEYS
    for name in ("laion_metadata", "embedding_manifest", "umap_model", "atlas_table"):
        assert ui.staleness([name]) == {name: "FRESH"}
    made = SmallAtlas(served.profile, Lineage(served.profile), served.instance).made()
    before = served.events("image_shards")
    again = ui.launch(SHARDED, "00003")
    assert ui.wait_for_run(again) == "SUCCESS"
    assert SmallAtlas(served.profile, Lineage(served.profile), served.instance).made() == made
    told = served.instance.fetch_materializations(asset_key(served.profile, "image_shards"), limit=1).records[0]
    assert told.run_id == again and told.asset_materialization is not None and told.partition_key == "00003"
    assert served.events("image_shards") - before == Counter({"00003": 1})
    assert told.asset_materialization.metadata["work"].value == "unchanged, nothing done"

    # a profile that changed after the code location was loaded is no profile to run with
    text = served.file.read_text()
    served.file.write_text(text.replace("min_dist = 0.1", "min_dist = 0.4"))
    assert served.file.read_text() != text
    run = ui.launch(["shard_catalog"], "00000")
    assert ui.wait_for_run(run) == "FAILURE"
    assert "changed after this code location was loaded" in ui.errors(run) and "reload" in ui.errors(run)


def test_one_bad_shard_blocks_itself_alone(served: Served) -> None:
    ui = served.ui
    assert ui.wait_for_run(ui.launch(["laion_metadata"])) == "SUCCESS"
    assert ui.wait_for_backfill(ui.backfill(["shard_catalog"], KEYS)) == "COMPLETED_SUCCESS"
    from latent_assets.catalog.shards import read_shard

    for url in read_shard(Lineage(served.profile).storage, "00005")["url"]:
        served.gallery.statuses[url.rsplit("/", 1)[1]] = 404
    others = [key for key in KEYS if key != "00005"]
    assert ui.wait_for_backfill(ui.backfill(SHARDED[1:], KEYS)) == "COMPLETED_FAILED"
    for stage in SHARDED[1:]:
        assert ui.partitions(stage)["materialized"] == others, stage
        assert ui.partitions(stage)["failed"] == ["00005"], stage
        assert set(served.events(stage).values()) == {1}, "one event for each shard"
    success = ui.check("image_shards", "success_rate")
    assert success["failed"] == ["00005"] and success["succeeded"] == others
    # another shard that succeeds does not turn it green
    assert ui.wait_for_run(ui.launch(["image_shards"], "00002", config={})) == "SUCCESS"
    assert ui.check("image_shards", "success_rate")["failed"] == ["00005"]
    manifest = ui.launch(["embedding_manifest"])
    assert ui.wait_for_run(manifest) == "FAILURE" and "[00005]" in ui.errors(manifest)


def test_damage_is_seen_by_checks_and_mended_by_a_build(served: Served) -> None:
    ui, root = served.ui, Path(served.profile.root)
    assert served.cli("build").returncode == 0
    made = SmallAtlas(served.profile, Lineage(served.profile), served.instance).made()
    requests = len(served.gallery.requests)

    (root / "images/00001.tar").unlink()
    vectors = next(path for path in root.glob("embeddings/*/00002.arrow"))
    vectors.write_bytes(vectors.read_bytes()[:-64])
    catalog = root / "catalog/00003.parquet"
    whole = catalog.read_bytes()
    catalog.write_bytes(whole[:4] + bytes(len(whole) - 8) + whole[-4:])

    # without being asked, by a look: what is gone and what is cut short
    assert served.states("image_shards")["00001"] is State.DAMAGED
    stage = next(row.stage for row in served.profile.embeddings if served.states(row.stage)["00002"] is State.DAMAGED)
    # by reading, one check alone and all of them
    checked = ui.launch(checks=[("image_shards", "tars_readable")], partition="00001")
    assert ui.wait_for_run(checked) == "SUCCESS"
    assert ui.check("image_shards", "tars_readable")["failed"] == ["00001"]
    assert ui.wait_for_run(ui.launch(checks=[("shard_catalog", "rows_as_assigned")])) == "SUCCESS"
    assigned = ui.check("shard_catalog", "rows_as_assigned")
    assert assigned["failed"] == ["00003"] and assigned["succeeded"] == [key for key in KEYS if key != "00003"]
    assert served.states("laion_metadata")["all"] is State.DAMAGED, "it writes the files of the catalog"

    done = served.cli("build")
    assert done.returncode == 0, done.stderr
    assert catalog.read_bytes() == whole
    after = SmallAtlas(served.profile, Lineage(served.profile), served.instance).made()
    again = {artefact for artefact, when in after.items() if made[artefact] != when}
    expected = {("image_shards", "00001"), (stage, "00002"), ("shard_catalog", "00003"), ("laion_metadata", "all")}
    assert again == expected, "exactly what was damaged was made again"
    assert len(served.gallery.requests) - requests == 8, "the rows of the lost tar"
    verified = served.cli("verify", "--deep")
    assert verified.returncode == 0 and "all sound" in verified.stdout, verified.stderr

    # and what is sound is made anew on demand
    before, requests = served.events("image_shards"), len(served.gallery.requests)
    config = {"ops": {"small__image_shards": {"config": {"force": True}}}}
    run = served.ui.launch(["image_shards"], "00004", config=config)
    assert served.ui.wait_for_run(run) == "SUCCESS"
    assert served.events("image_shards") - before == Counter({"00004": 1})
    assert len(served.gallery.requests) - requests == 8


def test_a_list_that_grew_reaches_the_table_without_a_hand(served: Served) -> None:
    """Automation on, the list grows by a shard, the sources are looked at: the daemon does the rest."""
    assert served.cli("build").returncode == 0
    switched = served.cli("automate", "on")
    assert switched.returncode == 0, switched.stderr
    assert served.cli("automate", "status").stdout.count("running") == 4
    new = {f"z{n:02}.png": drawing(100 + n) for n in range(8)}
    served.gallery.files |= new
    served.gallery.write(sorted(served.gallery.files))
    assert served.ui.wait_for_run(served.ui.launch(job="small__refresh_sources")) == "SUCCESS"

    from latent_assets.client import Atlas
    from latent_assets_tests.e2e.dagster_ui import wait_until

    # the event of a release comes after the release
    wait_until(lambda: served.events("atlas_table")[None] == 2, 600)
    assert len(Atlas.open(served.profile.root)) == 68
    for whole in ("embedding_manifest", "umap_model", "atlas_table"):
        assert served.events(whole)[None] == 2, f"{whole} was made once for the batch"
    for stage in SHARDED:
        assert served.events(stage)["00008"] == 1
    assert sorted(served.gallery.requests[60:]) == sorted(new), "nothing else was fetched"
    assert all(run.status is dg.DagsterRunStatus.SUCCESS for run in served.instance.get_runs() if run.is_finished)
