"""The files: features apart from latents, whole or not at all, and nothing read that is not asked for."""

from pathlib import Path

import numpy as np
import pytest

from latent_assets.embeddings.store import (
    column_batches,
    read_column,
    read_id_array,
    read_ids,
    read_thumbnails,
    read_width,
    writing_embeddings,
    writing_thumbnails,
)
from latent_assets.errors import StorageError
from latent_assets.layout import embedding_name, latents_name, thumbnail_name
from latent_assets.projection.rows import draw, read_shard_rows
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

NAME = embedding_name("a" * 32, "00000")
COUNTED = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count bytes read")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def bytes_read() -> int:
    """Bytes this process has asked the system for."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def write(storage: Storage, rows: int, width: int = 2_000, batch: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    columns = {
        name: rng.normal(size=(rows, size)) for name, size in (("latent", width), ("pooled", 64), ("random", 32))
    }
    with writing_embeddings(storage, NAME, {k: v.shape[1] for k, v in columns.items()}, whole="latent") as writer:
        for start in range(0, rows, batch):
            part = slice(start, start + batch)
            ids = [f"{row:032x}" for row in range(rows)[part]]
            writer.append(ids, {name: values[part] for name, values in columns.items()})
    return {name: values.astype(np.float16) for name, values in columns.items()}


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 100])
def test_every_column_comes_back_in_order(storage: Storage, rows: int) -> None:
    columns = write(storage, rows)
    assert read_ids(storage, NAME) == read_ids(storage, latents_name(NAME)) == [f"{row:032x}" for row in range(rows)]
    assert read_id_array(storage, NAME).to_pylist() == read_ids(storage, NAME)
    chosen = np.array([row for row in (0, 3, 15, 16, 40, 99) if row < rows], dtype=np.int64)
    for column, values in columns.items():
        file = latents_name(NAME) if column == "latent" else NAME
        np.testing.assert_array_equal(read_column(storage, file, column), values)
        np.testing.assert_array_equal(read_column(storage, file, column, chosen), values[chosen])
        assert read_width(storage, file, column) == values.shape[1]
        assert sum(len(batch) for batch in column_batches(storage, file, column)) == rows


def test_more_rows_than_a_batch_of_features_holds(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latent_assets.embeddings.store._FEATURE_BATCH_ROWS", 40)
    columns = write(storage, 100)
    assert [len(batch) for batch in column_batches(storage, NAME, "pooled")] == [40, 40, 20]
    chosen = np.array([0, 39, 40, 99])
    np.testing.assert_array_equal(read_column(storage, NAME, "pooled", chosen), columns["pooled"][chosen])


@COUNTED
def test_one_column_costs_its_own_bytes(storage: Storage) -> None:
    columns = write(storage, 3_000)
    for column, expected in (("pooled", columns["pooled"].nbytes), ("random", columns["random"].nbytes)):
        before = bytes_read()
        read_column(storage, NAME, column)
        assert expected <= bytes_read() - before < expected + 8_192
    before = bytes_read()
    read_ids(storage, NAME)
    assert bytes_read() - before < 3_000 * 37 + 8_192


@COUNTED
def test_a_few_latents_cost_little_more_than_themselves(storage: Storage) -> None:
    columns = write(storage, 1_000, width=16_384)
    chosen = np.array([3, 500, 501, 999])
    before = bytes_read()
    np.testing.assert_array_equal(read_column(storage, latents_name(NAME), "latent", chosen), columns["latent"][chosen])
    # 32 KiB a row, two rows a batch; the footer lists the batches, and is read twice
    assert bytes_read() - before < 4 * 64 * 1024 + 2 * 500 * 32 + 8_192


@COUNTED
def test_the_inputs_of_a_fit_read_no_byte_that_is_not_used(storage: Storage) -> None:
    shards = synthetic.write_shards(storage, 3_000, 3)
    read_shard_rows(storage, shards[0])
    before = bytes_read()
    sample = draw([read_shard_rows(storage, shard) for shard in shards], 1_000_000, seed=0)
    vectors = sample.read(storage, "clip", "vector"), sample.read(storage, "vae", "pooled")
    used = sum(values.nbytes for values in vectors) + 2 * 3_000 * (32 + 4)
    footers = 3 * 2 * 2 * 4_096
    assert used <= bytes_read() - before < used + footers
    names = [name for shard in shards for file in shard.files.values() for name in (file, latents_name(file))]
    stored = sum(storage.size(name) for name in names if storage.exists(name))
    assert used + footers < stored / 4, "most of what is stored is not used"


def test_features_appear_after_the_latents_and_neither_on_an_error(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(RuntimeError),
        writing_embeddings(storage, NAME, {"latent": 4, "a": 2}, whole="latent") as writer,
    ):
        writer.append(["x"], {"latent": np.ones((1, 4)), "a": np.ones((1, 2))})
        raise RuntimeError
    assert storage.list("embeddings/" + "a" * 32) == []
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(target.name), replace(self, target))[1])
    write(storage, 3)
    assert order == ["00000.latents.arrow", "00000.arrow"]


def test_a_wrong_shape_is_refused(storage: Storage) -> None:
    said = r"column a: shape \(1, 3\), expected \(1, 2\)"
    with pytest.raises(ValueError, match=said), writing_embeddings(storage, NAME, {"a": 2}) as writer:
        writer.append(["x"], {"a": np.ones((1, 3))})


def test_what_is_not_there_is_named(storage: Storage) -> None:
    with pytest.raises(StorageError, match="is not there"):
        read_ids(storage, NAME)
    write(storage, 2)
    with pytest.raises(KeyError, match="has no column vector; it has id, pooled, random"):
        read_column(storage, NAME, "vector")


@pytest.mark.parametrize("rows", [0, 1, 2_500])
def test_thumbnails_come_back(storage: Storage, rows: int) -> None:
    name = thumbnail_name("b" * 32, "00000")
    with writing_thumbnails(storage, name) as writer:
        for start in range(0, rows, 64):
            part = range(rows)[start : start + 64]
            writer.append([f"{row}" for row in part], [b"file %d" % row for row in part])
    found = read_thumbnails(storage, name)
    assert found.column_names == ["id", "thumbnail"]
    assert found["id"].to_pylist() == read_ids(storage, name) == [f"{row}" for row in range(rows)]
    assert found["thumbnail"].to_pylist() == [b"file %d" % row for row in range(rows)]
