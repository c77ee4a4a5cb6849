"""Shards divided among devices give what one device gives; the build says early how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.models.device import DEVICE_VARIABLE, devices
from latent_assets.pipeline.lineage import Lineage, MakeOptions
from latent_assets.pipeline.makers import embeddings as maker
from latent_assets.pipeline.makers.embeddings import duration
from latent_assets.pipeline.workers import make_on_devices
from latent_assets.profile import Profile
from latent_assets.progress import listening
from latent_assets_tests.e2e.small_atlas import small_atlas

STAGES = ("vae_latents", "clip_embeddings", "thumbnails")


def vectors(lineage: Lineage) -> dict[str, bytes]:
    """The bytes of every file that the stages of a pass made."""
    files = [name for stage in STAGES for m in lineage.manifests.all(stage).values() for name in m.files]
    return {name: lineage.storage.read_bytes(name) for name in files}


def test_two_processes_give_the_bytes_of_one(
    small_profile: Callable[..., Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = small_profile(root=str(tmp_path / "one")), small_profile(root=str(tmp_path / "two"), name="two")
    notes: list[str] = []
    with (
        small_atlas(one) as atlas,
        listening(lambda progress: notes.append(progress.note) if progress.lasting else None),
    ):
        assert not any(result.failed for result in atlas.build().values())
        alone = vectors(atlas.lineage)
    assert any("the other 2 shards (40 rows at most) will take about" in note for note in notes), notes

    def refused(*args: object) -> None:
        raise AssertionError("this process encodes nothing")

    with small_atlas(two) as atlas, monkeypatch.context() as patch:
        patch.setenv("LATENT_ASSETS_DEVICES", "cpu, cpu")
        patch.setattr(maker, "make_embeddings", refused)
        results = atlas.build()
        assert not any(result.failed for result in results.values()), {k: r.failed for k, r in results.items()}
        assert results["clip_embeddings"].done == 3 and atlas.materializations("clip_embeddings") == 3
        assert vectors(atlas.lineage) == alone
        assert make_on_devices(atlas.lineage, STAGES, atlas.lineage.shards(), MakeOptions()) == set(), "nothing is due"


def test_a_worker_that_dies_leaves_its_shards_to_the_run(
    small_profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_atlas(small_profile()) as atlas, monkeypatch.context() as patch:
        patch.setenv("LATENT_ASSETS_DEVICES", "nothing:0,cpu:x")  # devices that are not there
        assert not any(result.failed for result in atlas.build().values())
        assert len(vectors(atlas.lineage)) == 12


def test_devices_are_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENT_ASSETS_DEVICES", "cuda:1, cuda:3,")
    assert devices() == ["cuda:1", "cuda:3"]
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:1")
    assert devices() == [], "a worker has none to divide among"


def test_times_are_said_as_people_say_them() -> None:
    seconds = (4, 99, 100, 4_000, 6_000, 90_000, 200_000)
    assert [duration(s) for s in seconds] == ["4 s", "99 s", "1.7 min", "67 min", "1.7 h", "25 h", "2.3 days"]
