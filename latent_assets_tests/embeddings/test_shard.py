"""Encoding a shard: one pass, every row once, files that appear whole or not at all, flat memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_assets.embeddings.quality import embedding_problems
from latent_assets.embeddings.shard import VectorOutput, embed_shard
from latent_assets.embeddings.store import read_column, read_ids, whole_name, writing_embeddings
from latent_assets.models.clip import load_clip
from latent_assets.models.vae import load_vae
from latent_assets.profile import ClipModel, VaeModel
from latent_assets.spaces import embeddings
from latent_assets.storage import Storage
from latent_assets_tests.conftest import drawing


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture
def targets(small_models: dict[str, Any]) -> list[VectorOutput]:
    clip, vae = load_clip(ClipModel(**small_models["clip"])), load_vae(VaeModel(**small_models["vae"]))
    return [
        VectorOutput(clip, "embeddings/c/00000.arrow", 8),
        VectorOutput(vae, "embeddings/v/00000.arrow", 5, whole="latent"),
    ]


def drawings(count: int) -> Iterator[tuple[str, bytes]]:
    for seed in range(count):
        yield f"{seed:04}", drawing(seed)


def test_both_files_hold_every_row_in_order(storage: Storage, targets: list[VectorOutput]) -> None:
    report = embed_shard(storage, drawings(21), 21, targets)
    ids = [f"{seed:04}" for seed in range(21)]
    assert report.rows == 21 and report.undecodable == ()
    for target, embedding in zip(targets, ("clip", "vae"), strict=True):
        assert read_ids(storage, target.name) == ids
        assert embedding_problems(storage, embeddings()[embedding], target.name, 21, ids)[0] == {}
    vectors = read_column(storage, targets[0].name, "vector")
    direct = targets[0].encoder.encode(batch_of(targets[0], 20, 21))["vector"].numpy()
    assert np.allclose(vectors[20], direct[0], atol=1e-3)
    assert read_column(storage, whole_name(targets[1].name), "latent").shape == (21, 64)


def batch_of(target: VectorOutput, start: int, end: int) -> Any:
    import torch

    from latent_assets.models.preprocessing import decode

    return torch.from_numpy(np.stack([target.encoder.pixels(decode(drawing(seed))) for seed in range(start, end)]))


def test_one_target_alone_gives_the_same_file(storage: Storage, targets: list[VectorOutput]) -> None:
    embed_shard(storage, drawings(13), 13, targets)
    together = storage.read_bytes(targets[0].name)
    storage.delete(targets[0].name)
    embed_shard(storage, drawings(13), 13, targets[:1])
    assert storage.read_bytes(targets[0].name) == together


def test_a_broken_image_is_left_out_of_both_and_named(storage: Storage, targets: list[VectorOutput]) -> None:
    rows = [*drawings(5), ("broken", drawing(1)[:200]), ("text", b"not an image"), ("empty", b"")]
    report = embed_shard(storage, rows, 8, targets)
    assert set(report.undecodable) == {"broken", "text", "empty"} and report.rows == 5
    assert read_ids(storage, targets[0].name) == read_ids(storage, targets[1].name) == [f"{n:04}" for n in range(5)]


def test_an_error_half_way_leaves_no_file(storage: Storage, targets: list[VectorOutput]) -> None:
    def breaking() -> Iterator[tuple[str, bytes]]:
        yield from drawings(30)
        raise OSError("the tar ends early")

    with pytest.raises(OSError, match="ends early"):
        embed_shard(storage, breaking(), 60, targets)
    assert not storage.exists(targets[0].name) and storage.list("embeddings/c") == storage.list("embeddings/v") == []


def test_an_empty_shard_has_empty_files(storage: Storage, targets: list[VectorOutput]) -> None:
    assert embed_shard(storage, [], 0, targets).rows == 0
    assert read_ids(storage, targets[0].name) == []


def test_memory_does_not_grow_with_the_shard(storage: Storage, targets: list[VectorOutput]) -> None:
    image = drawing(1, size=256)

    def peak(count: int) -> int:
        tracemalloc.start()
        embed_shard(storage, ((f"{n}", image) for n in range(count)), count, targets)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(60)
    assert peak(480) < 1.5 * peak(120)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((3, 4), np.nan), "not finite in 3 rows"),
        (np.array([[1, 0, 0, 0], [np.inf, 0, 0, 0], [0, 1, 0, 0]]), "not finite in 1 rows, the first is 1"),
        (np.array([[1, 0, 0, 0], [0.5, 0, 0, 0], [0, 1, 0, 0]]), "off the unit sphere in 1 rows"),
        (np.eye(4)[:2], "2 rows, 2 of them distinct; expected 3 rows"),
    ],
)
def test_bad_vectors_are_told(storage: Storage, values: np.ndarray, said: str) -> None:
    with writing_embeddings(storage, "embeddings/x/0.arrow", {"vector": 4}) as writer:
        writer.append([str(n) for n in range(len(values))], {"vector": values})
    problems, _ = embedding_problems(storage, embeddings()["clip"], "embeddings/x/0.arrow", 3)
    assert len(problems) >= 1 and any(said in problem for problem in problems.values())
