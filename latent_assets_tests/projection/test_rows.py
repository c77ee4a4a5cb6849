"""Reading embedding files: alignment by id, deterministic samples, broken files refused."""

from pathlib import Path

import numpy as np
import pytest

from latent_assets.errors import DataError
from latent_assets.projection.rows import draw, read_shard_rows
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_rows_of_both_files_are_matched_by_id(storage: Storage) -> None:
    """The VAE file lacks two rows, has one of its own, and is in another order."""
    ids = synthetic.row_ids(12)
    clip, vae = synthetic.clip_vectors(12)[0], synthetic.vae_columns(12)
    order = [11, 3, 0, 7, 5, 2, 9, 10, 1, 4]
    vae_ids = [ids[i] for i in order] + [f"{77:032x}"]
    columns = {name: np.concatenate([values[order], values[:1] + 9]) for name, values in vae.items()}
    rows = read_shard_rows(storage, synthetic.write_shard(storage, "00000", ids, clip, columns, vae_ids, batch=4))
    assert rows.ids == [ids[i] for i in range(12) if i not in (6, 8)]
    assert rows.unmatched == 3
    kept = [i for i in range(12) if i not in (6, 8)]
    np.testing.assert_array_equal(rows.read(storage, "clip", "vector"), clip[kept].astype(np.float16))
    np.testing.assert_array_equal(rows.read(storage, "vae", "pooled"), vae["pooled"][kept].astype(np.float16))
    chosen = np.array([7, 2, 5])
    np.testing.assert_array_equal(
        rows.read(storage, "vae", "latent", chosen), vae["latent"][np.array(kept)[chosen]].astype(np.float16)
    )


def test_one_model_is_enough(storage: Storage) -> None:
    ids, clip = synthetic.row_ids(5), synthetic.clip_vectors(5)[0]
    rows = read_shard_rows(storage, synthetic.write_shard(storage, "00000", ids, clip, None))
    assert rows.ids == ids and rows.unmatched == 0 and list(rows.rows) == ["clip"]
    with pytest.raises(DataError, match="has no embeddings: the profile has no table"):
        read_shard_rows(storage, synthetic.write_shard(storage, "00001", ids, None, None))


def test_a_sample_does_not_depend_on_the_order_of_shards(storage: Storage) -> None:
    shards = [read_shard_rows(storage, shard) for shard in synthetic.write_shards(storage, 90, 3)]
    sample = draw(shards, 20, seed=1)
    assert len(sample.ids) == 20
    assert set(draw(shards[::-1], 20, seed=1).ids) == set(sample.ids)
    assert set(draw(shards, 20, seed=2).ids) != set(sample.ids)
    # a larger sample keeps the smaller one, so a growing atlas keeps its anchors
    assert set(sample.ids) < set(draw(shards, 40, seed=1).ids)
    assert draw(shards, 90, seed=1).ids == synthetic.row_ids(90)


def test_a_sample_reads_its_own_rows(storage: Storage) -> None:
    shards = [read_shard_rows(storage, shard) for shard in synthetic.write_shards(storage, 60, 2)]
    sample = draw(shards, 25, seed=3)
    clip = dict(zip(synthetic.row_ids(60), synthetic.clip_vectors(60)[0].astype(np.float16), strict=True))
    found = sample.read(storage, "clip", "vector")
    np.testing.assert_array_equal(found, np.stack([clip[row_id] for row_id in sample.ids]))


def test_a_repeated_id_is_refused_with_file_and_id(storage: Storage) -> None:
    ids = synthetic.row_ids(6)
    ids[4] = ids[1]
    with pytest.raises(DataError, match=f"1 rows repeat an id, the first is {ids[1]}") as refused:
        read_shard_rows(storage, synthetic.write_shard(storage, "00007", ids, synthetic.clip_vectors(6)[0], None))
    assert "00007" in str(refused.value)


def test_an_id_in_two_shards_is_refused_with_both(storage: Storage) -> None:
    ids, clip = synthetic.row_ids(6), synthetic.clip_vectors(6)[0]
    shards = [
        read_shard_rows(storage, synthetic.write_shard(storage, key, part, clip[: len(part)], None))
        for key, part in (("00000", ids[:4]), ("00001", ids[3:]))
    ]
    with pytest.raises(DataError, match=f"Row {ids[3]} is in the shards 00000, 00001"):
        draw(shards, 100, seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_the_row(storage: Storage, value: float) -> None:
    ids, vae = synthetic.row_ids(9), synthetic.vae_columns(9)
    vae["pooled"][5, 3] = value
    rows = read_shard_rows(storage, synthetic.write_shard(storage, "00000", ids, None, vae))
    with pytest.raises(DataError, match=rf"`pooled` has NaN or infinite values in 1 rows, the first is {ids[5]}"):
        rows.read(storage, "vae", "pooled", np.array([8, 5, 0]))
    assert rows.read(storage, "vae", "random").shape == (9, 16)


def test_an_empty_shard_has_no_rows(storage: Storage) -> None:
    shard = synthetic.write_shard(storage, "00000", [], synthetic.clip_vectors(0)[0], synthetic.vae_columns(0))
    rows = read_shard_rows(storage, shard)
    assert rows.ids == []
    assert rows.read(storage, "clip", "vector").shape == (0, 32)
    assert rows.read(storage, "vae", "latent").shape == (0, 256)
