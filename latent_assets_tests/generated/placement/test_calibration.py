"""What is usual: p-values that hold by construction, and values that come back from storage as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latent_assets.errors import NotBuiltError
from latent_assets.generated.placement.calibration import (
    LEVEL,
    NOT_CALIBRATED,
    Calibration,
    Distances,
    calibration_version,
    least_held_out,
    read_calibration,
    write_calibration,
)
from latent_assets.layout import calibration_name
from latent_assets.storage import Storage

SPACES = ("clip", "vae", "joint")


def calibration(rows: int, seed: int = 0, ties: bool = False) -> Calibration:
    """Held-out images whose distances in the spaces depend on one another, as real ones' do."""
    rng = np.random.default_rng(seed)
    common = rng.exponential(size=rows)
    distances = {}
    for number, space in enumerate(SPACES):
        nearest = common * (1 + 0.3 * number) + 0.3 * rng.exponential(size=rows)
        nearest = np.round(nearest) if ties else nearest
        distances[space] = Distances(nearest, nearest + 0.1, np.sort(rng.exponential(size=50)))
    return Calibration(
        {"clip": 0.1, "vae": float(seed)}, 0.99, distances, rng.normal(20, 5, rows), rng.uniform(size=rows)
    )


def without(found: Calibration, row: int) -> Calibration:
    """The calibration as it were if one held-out image had not been there."""
    distances = {
        space: Distances(np.delete(d.nearest, row), np.delete(d.other, row), d.apart)
        for space, d in found.distances.items()
    }
    return Calibration(
        found.radii, found.alike, distances, np.delete(found.detail, row), np.delete(found.correlation, row)
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_at_most_a_share_p_of_real_images_has_a_value_of_p(seed: int, ties: bool) -> None:
    """By construction: whichever of 200 images is the new one, at most 5 % of them are flagged, and so at any level."""
    found = calibration(200, seed, ties)
    far, copies = [], []
    for row in range(200):
        rest = without(found, row)
        far.append(rest.p_value({s: d.nearest[row] for s, d in found.distances.items()}, found.detail[row]))
        copies.append(rest.chance({s: d.other[row] for s, d in found.distances.items()}, found.correlation[row]))
    for level in (0.01, LEVEL, 0.1, 0.5):
        assert np.mean([value <= level for value in far]) <= level
        assert np.mean([value <= level for value in copies]) <= level
    if not ties:  # and not far below: the level is used
        assert np.mean([value <= LEVEL for value in far]) > LEVEL / 3


@pytest.mark.parametrize("spaces", [1, 2, 3])
def test_with_the_least_number_held_out_an_image_can_be_called_far(spaces: int) -> None:
    least = least_held_out(spaces)
    asked = dict.fromkeys(SPACES[:spaces], 1e9)
    enough = calibration(least)
    value = enough.p_value(asked, float(np.median(enough.detail)))
    assert value is not None and value <= LEVEL
    few = calibration(least - 1)
    assert few.p_value(asked, 20.0) is None and few.chance(asked, 1.0) is None


def test_what_is_far_in_one_space_or_has_odd_detail_is_flagged_and_the_usual_is_not() -> None:
    found = calibration(400)
    usual = {space: float(np.median(d.nearest)) for space, d in found.distances.items()}
    middle = float(np.median(found.detail))
    assert (found.p_value(usual, middle) or 0) > 0.5
    for space in SPACES:
        assert (found.p_value({**usual, space: 1e9}, middle) or 1) <= LEVEL
    for detail in (-1e9, 1e9):
        assert (found.p_value(usual, detail) or 1) <= LEVEL
    # nearer than any: no reason to call it far
    assert (found.p_value(dict.fromkeys(SPACES, 0.0), middle) or 0) > 0.5
    assert (found.chance(dict.fromkeys(SPACES, 0.0), 0.5) or 1) <= LEVEL
    assert (found.chance(dict.fromkeys(SPACES, 1e9), 1.0) or 1) <= LEVEL
    assert (found.chance(dict.fromkeys(SPACES, 1e9), -1.0) or 0) > 0.5


def test_percentiles_count_what_is_nearer() -> None:
    found = Distances(np.array([3.0, 1.0, 2.0, 4.0]), np.zeros(4), np.array([1.0, 2.0]))
    assert [found.percentile(value) for value in (0.5, 1.0, 2.5, 9.0)] == [0.0, 0.0, 50.0, 100.0]
    assert found.group_percentile(1.5) == 50.0
    empty = Distances(np.zeros(0), np.zeros(0), np.zeros(0))
    assert empty.percentile(1.0) is None and empty.group_percentile(1.0) is None


def test_values_come_back_and_have_a_version(tmp_path: Path) -> None:
    storage, found = Storage(str(tmp_path)), calibration(120)
    assert calibration_version(storage, "a" * 32) is None
    with pytest.raises(NotBuiltError, match="latent-assets build"):
        read_calibration(storage, "a" * 32)
    write_calibration(storage, "a" * 32, found)
    back = read_calibration(storage, "a" * 32)
    assert back.radii == found.radii and back.version == found.version == calibration_version(storage, "a" * 32)
    assert np.array_equal(back.detail, found.detail) and np.array_equal(back.correlation, found.correlation)
    for space, item in found.distances.items():
        for part in ("nearest", "other", "apart"):
            assert np.array_equal(getattr(back.distances[space], part), getattr(item, part))
    assert len({calibration(120, seed).version for seed in range(3)} | {NOT_CALIBRATED.version}) == 4
    write_calibration(storage, "b" * 32, NOT_CALIBRATED)
    assert read_calibration(storage, "b" * 32).version == NOT_CALIBRATED.version
    assert storage.exists(calibration_name("b" * 32))
