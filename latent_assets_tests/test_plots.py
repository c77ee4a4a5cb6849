"""Pictures of maps: real PNGs, small, coloured by category, without touching matplotlib's global state."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from latent_assets.plots import histogram_picture, map_picture, moves_picture
from latent_assets_tests.projection import synthetic


def colours(png: bytes) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return {colour for _, colour in image.getcolors(1 << 24)}


def saturated(png: bytes) -> np.ndarray:
    """Pixels that have a hue of their own."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).astype(int)
    return pixels[np.ptp(pixels, axis=1) > 90]


def test_a_large_map_is_a_small_picture() -> None:
    rng = np.random.default_rng(0)
    maps = {space: rng.normal(size=(50_000, 3)).astype(np.float32) for space in ("clip", "vae", "joint")}
    categories = [f"category {i % 14}" for i in range(50_000)]
    png = map_picture(maps, categories, {"clip": "trustworthiness 0.97"}, "Fifty thousand")
    assert len(png) <= 150_000
    assert Image.open(io.BytesIO(png)).size == (1104, 450)


def test_categories_have_colours_of_their_own() -> None:
    maps = {"clip": np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)}
    plain = saturated(map_picture(maps))
    one = saturated(map_picture(maps, ["animals"] * 400))
    two = saturated(map_picture(maps, ["animals", "food"] * 200))
    assert len(plain) == 0
    # blue for the commonest, orange beside it for the second
    assert len(one) > 500 and (one[:, 2] > one[:, 0]).all()
    assert (two[:, 2] > two[:, 0]).sum() > 250 and (two[:, 0] > two[:, 2]).sum() > 250


def test_rows_without_a_category_are_grey() -> None:
    maps = {"clip": np.random.default_rng(2).normal(size=(300, 3)).astype(np.float32)}
    assert len(saturated(map_picture(maps, [None] * 300))) == 0


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_maps_of_few_rows_are_drawn(rows: int) -> None:
    png = map_picture({"clip": np.zeros((rows, 3), np.float32)}, ["a"] * rows)
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_histograms_leave_nan_out() -> None:
    png = histogram_picture({"spread": np.array([1.0, 2.0, np.nan]), "empty": np.zeros(0)}, {"spread": "map units"})
    assert Image.open(io.BytesIO(png)).size == (640, 240) and len(png) < 20_000
    assert len(saturated(png)) > 500


def test_no_global_state_of_matplotlib_is_used() -> None:
    code = (
        "import sys, numpy as np; from latent_assets.plots import map_picture;"
        "before = 'matplotlib' in sys.modules; map_picture({'clip': np.eye(3)});"
        "print(before, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=synthetic.REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["False", "True", "False"]


def test_moves_are_drawn_from_where_rows_were_to_where_they_are() -> None:
    import warnings

    before = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    after = before.copy()
    after[7] += [3, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved, still = (moves_picture({"clip": (before, state)}, "Moves") for state in (after, before))
        assert moves_picture({})[:4] == b"\x89PNG"
    # a line of the second colour: much red, little blue
    orange = []
    for png in (moved, still):
        red, _, blue = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int).transpose(2, 0, 1)
        orange.append(int((red - blue > 60).sum()))
    assert orange[0] > 30 and orange[1] == 0
