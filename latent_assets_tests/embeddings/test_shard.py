"""Encoding a shard: one pass, every row once, files that appear whole or not at all, flat memory."""

import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latent_assets.embeddings import shard
from latent_assets.embeddings.quality import embedding_problems, thumbnail_problems
from latent_assets.embeddings.shard import ThumbnailOutput, VectorOutput, embed_shard
from latent_assets.embeddings.store import read_column, read_ids, read_thumbnails
from latent_assets.images.decode.image import decode_image
from latent_assets.layout import latents_name
from latent_assets.models.clip import load_clip
from latent_assets.models.vae import load_vae
from latent_assets.profile import ClipModel, Table, VaeModel, load_profile
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
    assert read_column(storage, latents_name(targets[1].name), "latent").shape == (21, 64)


def batch_of(target: VectorOutput, start: int, end: int) -> Any:
    return torch.from_numpy(
        np.stack([target.encoder.pixels(decode_image(drawing(seed))) for seed in range(start, end)])
    )


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


@pytest.fixture
def thumbnails() -> ThumbnailOutput:
    return ThumbnailOutput("thumbnails/t/00000.arrow", Table(thumbnail_size=48))


def test_one_pass_makes_thumbnails_too(
    storage: Storage, targets: list[VectorOutput], thumbnails: ThumbnailOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(shard, "decode_image", lambda data: (decoded.append(data), decode_image(data))[1])
    rows = [*drawings(70), ("broken", drawing(1)[:200])]
    report = embed_shard(storage, rows, 71, [*targets, thumbnails])
    assert len(decoded) == 71, "each image is decoded once"
    ids = [f"{seed:04}" for seed in range(70)]
    assert report.undecodable == ("broken",) and set(report.bytes) == {target.name for target in targets} | {
        thumbnails.name
    }
    assert thumbnail_problems(storage, thumbnails.name, thumbnails.settings, ids=ids, deep=True) == {}
    made = read_thumbnails(storage, thumbnails.name)
    assert made["id"].to_pylist() == ids
    shown = Image.open(io.BytesIO(made["thumbnail"][33].as_py()))
    expected = decode_image(drawing(33)).resize((48, 48), Image.Resampling.LANCZOS)
    assert shown.size == (48, 48) and np.abs(np.asarray(shown, float) - np.asarray(expected, float)).mean() < 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_an_output_gets_does_not_depend_on_the_others(
    storage: Storage, targets: list[VectorOutput], thumbnails: ThumbnailOutput, kind: str
) -> None:
    """Nor do the encoders see an image that was decoded smaller for the thumbnails."""
    images = []
    for seed in range(9):
        buffer = io.BytesIO()
        Image.effect_noise((640 + seed, 480), 60).convert("RGB").save(buffer, kind)
        images.append((f"{seed}", buffer.getvalue()))
    outputs = [*targets, thumbnails]
    embed_shard(storage, images, 9, outputs)
    names = [name for target in targets for name in (target.name, latents_name(target.name)) if storage.exists(name)]
    together = {name: storage.read_bytes(name) for name in (*names, thumbnails.name)}
    assert len(together) == 4
    for name in together:
        storage.delete(name)
    for output in outputs:
        embed_shard(storage, images, 9, [output])
    assert {name: storage.read_bytes(name) for name in together} == together


@pytest.fixture(scope="module")
def demo_targets() -> list[VectorOutput]:
    """The real models of the demo, whose layers are wide enough for a library to choose among algorithms."""
    models = load_profile("demo").models
    assert models.clip and models.vae
    return [
        VectorOutput(load_clip(models.clip), "embeddings/c/00000.arrow", models.clip.batch_size),
        VectorOutput(load_vae(models.vae), "embeddings/v/00000.arrow", models.vae.batch_size, whole="latent"),
    ]


def test_a_row_has_the_same_bits_alone_and_in_whatever_company(
    storage: Storage, demo_targets: list[VectorOutput]
) -> None:
    def columns(seeds: list[int]) -> list[dict[str, bytes]]:
        embed_shard(storage, [(f"{seed}", drawing(seed)) for seed in seeds], len(seeds), demo_targets)
        ids = [f"{seed}" for seed in seeds]
        found = []
        for target in demo_targets:
            for column in target.encoder.columns:
                file = latents_name(target.name) if column == target.whole else target.name
                values = read_column(storage, file, column)
                found.append({row_id: values[row].tobytes() for row, row_id in enumerate(ids)})
        return found

    together = columns(list(range(37)))
    for seeds in ([5], [36, 2, 20], list(range(36, 19, -1))):
        for some, all_of_them in zip(columns(seeds), together, strict=True):
            assert some == {row_id: all_of_them[row_id] for row_id in some}


def test_a_shard_of_one_image_is_not_filled_up_to_a_whole_batch(
    storage: Storage, targets: list[VectorOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = targets[0].encoder
    seen: list[int] = []
    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, x: (seen.append(len(x)), encode(self, x))[1])
    embed_shard(storage, drawings(1), 1, [replace(targets[0], batch_size=64)])
    assert seen == [16]
    seen.clear()
    embed_shard(storage, drawings(40), 40, [replace(targets[0], batch_size=64)])
    assert seen == [16] * 3
    seen.clear()
    embed_shard(storage, drawings(9), 9, [targets[0]])
    assert seen == [8] * 2, "never more than the profile says"


def test_the_pass_leaves_torch_the_threads_it_had(storage: Storage, targets: list[VectorOutput]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        embed_shard(storage, drawings(9), 9, [replace(targets[0], batch_size=64)])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_error_half_way_leaves_no_file(storage: Storage, targets: list[VectorOutput]) -> None:
    def breaking() -> Iterator[tuple[str, bytes]]:
        yield from drawings(30)
        raise OSError("the tar ends early")

    with pytest.raises(OSError, match="ends early"):
        embed_shard(storage, breaking(), 60, targets)
    assert not storage.exists(targets[0].name) and storage.list("embeddings/c") == storage.list("embeddings/v") == []


def test_an_empty_shard_has_empty_files(
    storage: Storage, targets: list[VectorOutput], thumbnails: ThumbnailOutput
) -> None:
    assert embed_shard(storage, [], 0, [*targets, thumbnails]).rows == 0
    for target, embedding in zip(targets, ("clip", "vae"), strict=True):
        assert read_ids(storage, target.name) == []
        assert embedding_problems(storage, embeddings()[embedding], target.name, 0, []) == ({}, {})
    assert read_column(storage, targets[0].name, "vector").shape == (0, 32)
    assert read_column(storage, latents_name(targets[1].name), "latent").shape == (0, 64)
    assert thumbnail_problems(storage, thumbnails.name, thumbnails.settings, 0, deep=True) == {}


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
