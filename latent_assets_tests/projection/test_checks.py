"""Coordinates: what must hold is read from the file, and damage is told."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latent_assets.layout import coords_name
from latent_assets.projection.checks import coordinate_problems
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

MODEL, SPACES = "a" * 32, ("clip", "joint")
NAME = coords_name(MODEL, "00000")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def write(storage: Storage, rows: int, broken: int | None = None, spaces: tuple[str, ...] = SPACES) -> list[str]:
    ids = synthetic.row_ids(rows)
    values = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    if broken is not None:
        values[broken, 1] = np.nan
    columns = {f"xyz_{space}": pl.Series(values, dtype=pl.Array(pl.Float32, 3)) for space in spaces}
    storage.write_parquet(NAME, pl.DataFrame({"id": pl.Series(ids, dtype=pl.String)} | columns))
    return ids


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_sound_coordinates_have_no_problems(storage: Storage, rows: int) -> None:
    ids = write(storage, rows)
    assert coordinate_problems(storage, MODEL, "00000", SPACES, rows, ids) == {}


def test_what_must_not_be_is_told(storage: Storage) -> None:
    ids = write(storage, 9, broken=4)
    found = coordinate_problems(storage, MODEL, "00000", SPACES, 10)
    assert "not finite in 1 rows" in found["values"] and ids[4] in found["values"]
    assert "has 9 rows, 9 of them distinct; expected 10 rows" in found["rows"]
    write(storage, 9, spaces=("clip",))
    assert "no coordinates of the space `joint`" in coordinate_problems(storage, MODEL, "00000", SPACES, 9)["values"]
    assert "lacks 1" in coordinate_problems(storage, MODEL, "00000", ("clip",), ids=[*ids[1:], "f" * 32])["rows"]


@pytest.mark.parametrize("keep", [0, 6, 300, -5, None])
def test_damage_is_told_and_never_raised(storage: Storage, keep: int | None) -> None:
    write(storage, 40)
    if keep is None:
        storage.delete(NAME)
    else:
        storage.write_bytes(NAME, storage.read_bytes(NAME)[:keep])
    assert "cannot be read" in coordinate_problems(storage, MODEL, "00000", SPACES)["rows"]
    storage.write_bytes(NAME, np.random.default_rng(1).bytes(3_000))
    assert "cannot be read" in coordinate_problems(storage, MODEL, "00000", SPACES)["rows"]
