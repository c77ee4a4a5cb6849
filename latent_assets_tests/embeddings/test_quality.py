"""Checks read what they judge, and tell of any damage instead of failing."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latent_assets.embeddings.quality import embedding_problems, thumbnail_problems
from latent_assets.embeddings.store import writing_embeddings, writing_thumbnails
from latent_assets.layout import latents_name
from latent_assets.profile import Table
from latent_assets.spaces import embeddings
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

CLIP, VAE = embeddings()["clip"], embeddings()["vae"]
THUMBNAILS = "thumbnails/x/0.arrow"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


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
    problems, _ = embedding_problems(storage, CLIP, "embeddings/x/0.arrow", 3)
    assert len(problems) >= 1 and any(said in problem for problem in problems.values())


def test_a_sound_shard_has_no_problems_and_its_figures(storage: Storage) -> None:
    ids = synthetic.row_ids(50)
    shard = synthetic.write_shard(storage, "00000", ids, synthetic.clip_vectors(50)[0], synthetic.vae_columns(50))
    for row in (CLIP, VAE):
        problems, statistics = embedding_problems(storage, row, shard.files[row.name], 50, ids)
        assert problems == {}
        assert set(statistics) == {"mean norm", "mean", "standard deviation", "smallest", "largest"}
        assert embedding_problems(storage, row, shard.files[row.name], 50, ids, deep=False) == ({}, {})


@pytest.mark.parametrize("column", ["pooled", "random", "latent"])
def test_every_column_is_looked_at(storage: Storage, column: str) -> None:
    columns = synthetic.vae_columns(20)
    columns[column][7, 3] = np.inf
    ids = synthetic.row_ids(20)
    name = synthetic.write_shard(storage, "00000", ids, None, columns).files["vae"]
    problems, _ = embedding_problems(storage, VAE, name, 20)
    assert f"`{column}` has values that are not finite in 1 rows, the first is {ids[7]}" in problems["values"]
    assert embedding_problems(storage, VAE, name, 20, deep=False)[0] == {}


def test_latents_that_are_all_zero_are_told(storage: Storage) -> None:
    columns = synthetic.vae_columns(9)
    columns["latent"][4] = 0
    name = synthetic.write_shard(storage, "00000", synthetic.row_ids(9), None, columns).files["vae"]
    assert "all zero in 1 rows" in embedding_problems(storage, VAE, name)[0]["values"]


def test_other_rows_than_expected_are_told(storage: Storage) -> None:
    ids = synthetic.row_ids(9)
    name = synthetic.write_shard(storage, "00000", ids, synthetic.clip_vectors(9)[0], None).files["clip"]
    wanted = [*ids[:-1], "f" * 32]
    assert (
        "lacks 1 of the rows it should have, one of them " + "f" * 32
        in (embedding_problems(storage, CLIP, name, ids=wanted)[0]["rows"])
    )


def test_latents_of_other_rows_than_the_features_are_told(storage: Storage) -> None:
    ids, columns = synthetic.row_ids(9), synthetic.vae_columns(9)
    name = synthetic.write_shard(storage, "00000", ids, None, columns).files["vae"]
    latents = storage.read_bytes(latents_name(name))
    synthetic.write_shard(storage, "00000", ids[::-1], None, columns)
    storage.write_bytes(latents_name(name), latents)
    assert "has other rows than" in embedding_problems(storage, VAE, name, 9)[0]["rows"]


DAMAGE: dict[str, Callable[[Storage, str], None]] = {
    "missing": lambda storage, name: storage.delete(name),
    "empty": lambda storage, name: storage.write_bytes(name, b""),
    "garbage": lambda storage, name: storage.write_bytes(name, np.random.default_rng(0).bytes(9_000)),
    "half": lambda storage, name: storage.write_bytes(name, storage.read_bytes(name)[: storage.size(name) // 2]),
    "no end": lambda storage, name: storage.write_bytes(name, storage.read_bytes(name)[:-5]),
    "beginning alone": lambda storage, name: storage.write_bytes(name, storage.read_bytes(name)[:6]),
    "zeros inside": lambda storage, name: storage.write_bytes(
        name, (data := storage.read_bytes(name))[:400] + bytes(len(data) // 2) + data[400 + len(data) // 2 :]
    ),
    "another schema": lambda storage, name: _another(storage, name),
}


def _another(storage: Storage, name: str) -> None:
    with writing_embeddings(storage, name, {"other": 3}) as writer:
        writer.append(synthetic.row_ids(30), {"other": np.ones((30, 3))})


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["clip", "vae", "latents"])
def test_damage_is_told_and_never_raised(storage: Storage, damage: str, which: str) -> None:
    ids = synthetic.row_ids(30)
    shard = synthetic.write_shard(storage, "00000", ids, synthetic.clip_vectors(30)[0], synthetic.vae_columns(30))
    row = CLIP if which == "clip" else VAE
    name = shard.files[row.name]
    file = latents_name(name) if which == "latents" else name
    DAMAGE[damage](storage, file)
    problems, _ = embedding_problems(storage, row, name, 30, ids)
    assert problems and any(file in said for said in problems.values())


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_thumbnails_are_told_and_never_raised(storage: Storage, damage: str) -> None:
    ids = write_thumbnails(storage, 30)
    assert thumbnail_problems(storage, THUMBNAILS, Table(), 30, ids, deep=True) == {}
    DAMAGE[damage](storage, THUMBNAILS)
    problems = thumbnail_problems(storage, THUMBNAILS, Table(), 30, ids, deep=True)
    assert problems and all(THUMBNAILS in said for said in problems.values())


def write_thumbnails(storage: Storage, rows: int, **odd: bytes) -> list[str]:
    """Thumbnails of `rows` ids; `odd` are other bytes for rows named r0, r1, ..."""
    ids = synthetic.row_ids(rows)
    with writing_thumbnails(storage, THUMBNAILS) as writer:
        writer.append(ids, [odd.get(f"r{row}", picture("WEBP", (40, 30))) for row in range(rows)])
    return ids


def picture(kind: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (b"", "cannot identify"),
        (picture("WEBP", (40, 30))[:40], ""),
        (picture("PNG", (40, 30)), "cannot identify"),
        (picture("WEBP", (97, 30)), "is 97 x 30, more than 96 pixels"),
    ],
)
def test_a_thumbnail_that_cannot_be_shown_is_told(storage: Storage, odd: bytes, said: str) -> None:
    ids = write_thumbnails(storage, 600, r599=odd, r3=odd)
    problems = thumbnail_problems(storage, THUMBNAILS, Table(), 600, ids, deep=True)
    assert (
        f"2 thumbnails that cannot be shown, the first: {ids[3]}" in problems["values"] and said in problems["values"]
    )
    # every second one is looked at
    assert thumbnail_problems(storage, THUMBNAILS, Table(), 600, ids) == {}


def test_a_missing_thumbnail_is_told(storage: Storage) -> None:
    ids = write_thumbnails(storage, 5)
    assert "lacks 1" in thumbnail_problems(storage, THUMBNAILS, Table(), ids=[*ids[1:], "e" * 32])["rows"]
