"""Landmarks: seeded, the same in any order of shards, every island among them, fewer of what is dense."""

from collections.abc import Sequence

import numpy as np
import pytest

from latent_assets.projection.fit import fit_map
from latent_assets.projection.landmarks import choose_landmarks
from latent_assets.projection.model import read_model
from latent_assets.projection.rows import Sample, ShardRows, draw, hold_out, read_shard_rows
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

COLUMNS = {"clip": "vector", "vae": "pooled"}
ROWS, ISLAND = 3_000, 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, list, np.ndarray]:
    """Six large clusters, and 20 islands of 12 rows far from everything; which island each row is on, -1 for none."""
    storage = Storage(str(tmp_path_factory.mktemp("landmarks")))
    rng = np.random.default_rng(5)
    clip = synthetic.clip_vectors(ROWS)[0]
    islands = np.full(ROWS, -1)
    spots = rng.choice(ROWS, 20 * ISLAND, replace=False)
    islands[spots] = np.arange(len(spots)) % 20
    centres = rng.normal(size=(20, clip.shape[1]))
    far = centres[islands[spots]] + 0.05 * rng.normal(size=(len(spots), clip.shape[1]))
    clip[spots] = far / np.linalg.norm(far, axis=1, keepdims=True)
    return storage, synthetic.write_shards(storage, ROWS, 4, clip), islands


def landmarks(storage: Storage, shards: Sequence[ShardRows], rows: int, seed: int = 1) -> Sample:
    return choose_landmarks(storage, shards, COLUMNS, rows, seed, hold_out(shards, 0.0, 20))


def test_as_many_as_asked_and_the_same_in_any_order(written: tuple[Storage, list, np.ndarray]) -> None:
    storage, embeddings, _ = written
    shards = [read_shard_rows(storage, shard) for shard in embeddings]
    found = landmarks(storage, shards, 300)
    assert len(found.ids) == len(set(found.ids)) == 300
    assert set(landmarks(storage, shards[::-1], 300).ids) == set(found.ids)
    assert set(landmarks(storage, shards, 300, seed=2).ids) != set(found.ids)
    assert landmarks(storage, shards, ROWS).ids == synthetic.row_ids(ROWS)


def test_every_island_is_among_them_where_a_draw_leaves_some_out(written: tuple[Storage, list, np.ndarray]) -> None:
    storage, embeddings, islands = written
    shards = [read_shard_rows(storage, shard) for shard in embeddings]
    of = dict(zip(synthetic.row_ids(ROWS), islands.tolist(), strict=True))
    chosen = {of[row_id] for row_id in landmarks(storage, shards, 300).ids} - {-1}
    drawn = {of[row_id] for row_id in draw(shards, 300, 1).ids} - {-1}
    assert len(drawn) < 20 and len(chosen) == 20


def test_rows_that_are_held_out_are_no_landmarks(written: tuple[Storage, list, np.ndarray]) -> None:
    storage, embeddings, _ = written
    shards = [read_shard_rows(storage, shard) for shard in embeddings]
    held = hold_out(shards, 0.1, 20)
    found = choose_landmarks(storage, shards, COLUMNS, 400, 1, held)
    assert len(found.ids) == 400 and not set(found.ids) & set(held.ids)


def test_a_growing_atlas_keeps_most_of_its_landmarks(written: tuple[Storage, list, np.ndarray]) -> None:
    storage, embeddings, _ = written
    shards = [read_shard_rows(storage, shard) for shard in embeddings]
    before, after = landmarks(storage, shards[:3], 300), landmarks(storage, shards, 400)
    assert len(set(before.ids) & set(after.ids)) > 0.6 * 300


def test_a_fit_of_landmarks_tells_the_quality_of_placed_rows(written: tuple[Storage, list, np.ndarray]) -> None:
    storage, embeddings, _ = written
    profile = synthetic.profile(storage.root, fit_rows=1_000, calibration_share=0.0)
    report = fit_map(profile, storage, embeddings, "a" * 32)
    assert (report.rows, report.total_rows) == (1_000, ROWS)
    assert len(read_model(storage, "a" * 32).ids) == 1_000
    clip = report.spaces["clip"]
    assert clip.placed is not None and clip.placed.probe_rows == 2_000 and clip.quality.probe_rows == 1_000
    for quality in (clip.quality, clip.placed):
        assert quality.trustworthiness is not None and quality.trustworthiness > 0.9
        assert quality.far_outliers is not None and quality.far_outliers < 0.05
