"""Where images fall on a calibrated atlas: held-out images are flagged as rarely as promised, what belongs nowhere
nearly always, near-copies are named, and an image's answer does not depend on its company."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from latent_assets.atlas import resident
from latent_assets.cli.app import app
from latent_assets.client import Atlas, Placed, QueryError
from latent_assets.errors import NotBuiltError
from latent_assets.generated.placement.calibrating import calibrate, common_radii
from latent_assets.generated.placement.calibration import LEVEL, Calibration, Distances
from latent_assets.generated.placement.neighborhood import Neighborhoods
from latent_assets.generated.placement.placed import COPY, FAR, USUAL
from latent_assets.generated.placement.placing import ImagePlacer, calibration_key
from latent_assets.images.decode.image import decode_image
from latent_assets_tests.generated.placement.calibrated import CATEGORIES, HELD_OUT, SCENES, file_of, scene
from latent_assets_tests.generated.placement.conftest import CalibratedAtlas
from latent_assets_tests.generated.placement.test_copies import cropped

SPACES = ("clip", "vae", "joint")


@pytest.fixture
def atlas(calibrated: CalibratedAtlas, placer: ImagePlacer) -> Atlas:
    found = Atlas.open(calibrated.profile.root)
    found.__dict__["placer"] = placer  # its models are loaded
    return found


def picture(calibrated: CalibratedAtlas, url: str) -> bytes:
    return (Path(calibrated.profile.source.path) / url).read_bytes()


# -- held-out images ---------------------------------------------------------------------------------------


def test_held_out_rows_are_in_the_atlas_and_in_neither_fit_nor_null_twice(placer: ImagePlacer) -> None:
    held_out = placer.model.report["held_out"]
    assert len(held_out) == HELD_OUT == len(placer.calibration.detail)
    assert not set(held_out) & set(placer.model.ids)
    ids = placer.table.search().select(["id"]).limit(None).to_arrow()["id"].to_pylist()
    assert set(held_out) < set(ids) and len(ids) == SCENES + SCENES // 12


def test_at_most_five_per_cent_of_held_out_images_are_called_far(
    placer: ImagePlacer, calibrated: CalibratedAtlas
) -> None:
    """Each held-out image against all others, with the distances that a placement finds."""
    usual = placer.calibration
    flagged = {space: 0 for space in (*SPACES, "all")}
    for row in range(HELD_OUT):
        rest = Calibration(
            usual.radii,
            usual.alike,
            {
                space: Distances(np.delete(d.nearest, row), np.delete(d.other, row), d.apart)
                for space, d in usual.distances.items()
            },
            np.delete(usual.detail, row),
            np.delete(usual.correlation, row),
        )
        values = {space: float(d.nearest[row]) for space, d in usual.distances.items()}
        detail = float(usual.detail[row])
        flagged["all"] += (rest.p_value(values, detail) or 1.0) <= LEVEL
        for space in SPACES:
            flagged[space] += (rest.p_value({space: values[space]}, detail) or 1.0) <= LEVEL
    assert all(count <= LEVEL * HELD_OUT for count in flagged.values()), flagged
    assert flagged["all"] > 0


def test_the_null_is_what_placing_a_held_out_image_gives(placer: ImagePlacer, calibrated: CalibratedAtlas) -> None:
    held_out = placer.model.report["held_out"]
    rows = placer.table.search().select(["id", "url"]).limit(None).to_arrow().to_pylist()
    urls = {row["id"]: row["url"] for row in rows}
    for row in (0, 7, HELD_OUT - 1):
        placed = placer.place_file(picture(calibrated, urls[held_out[row]]))
        for space, usual in placer.calibration.distances.items():
            assert placed.placements[space].distance == pytest.approx(usual.nearest[row], abs=1e-5)
            assert placed.placements[space].neighbours[0].id == held_out[row]  # it is a row of the atlas


# -- what belongs nowhere ----------------------------------------------------------------------------------


def nowhere(seed: int) -> Image.Image:
    """Noise, blanks and gradients in turn."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if seed % 3 == 1:
        return Image.new("RGB", (64, 64), tuple(int(value) for value in rng.integers(0, 256, 3)))
    ends = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(ends[0], ends[1], 64).astype(np.uint8)[:, None].repeat(64, 1)
    return Image.fromarray(ramp if seed % 2 else ramp.transpose(1, 0, 2).copy())


def test_noise_blanks_and_gradients_are_like_nothing_in_the_atlas(placer: ImagePlacer) -> None:
    found = placer.place_all([nowhere(seed) for seed in range(60)])
    missed = [(seed, placed.verdict, placed.p_value) for seed, placed in enumerate(found) if placed.verdict != FAR]
    assert not missed
    assert all("Nothing in the atlas is close" in placed.sentence for placed in found[:3])


# -- near-copies and distinct images -----------------------------------------------------------------------

ALTERED: dict[str, Callable[[Image.Image], bytes]] = {
    "same": file_of,
    "half the size": lambda image: file_of(image.resize((32, 32), Image.Resampling.LANCZOS)),
    "JPEG 50": lambda image: file_of(image, "JPEG", quality=50),
    "95 %": lambda image: file_of(cropped(image, 0.95)),
    "80 %": lambda image: file_of(cropped(image, 0.8, 0.3, 0.6)),
    "mirrored": lambda image: file_of(ImageOps.mirror(image)),
    "border": lambda image: file_of(ImageOps.expand(image, 6, (250, 250, 250))),
}


@pytest.mark.parametrize("name", ALTERED)
def test_near_copies_are_named_with_their_chance(placer: ImagePlacer, calibrated: CalibratedAtlas, name: str) -> None:
    right, urls = (
        [],
        {row["id"]: row["url"] for row in placer.table.search().select(["id", "url"]).limit(None).to_list()},
    )
    for seed in range(1, 181, 9):
        placed = placer.place_file(ALTERED[name](scene(seed)))
        url = f"{CATEGORIES[seed % 3]}/{seed:04}.png"
        copy = placed.copy
        right.append(copy is not None and urls[copy.id] == url and placed.verdict == COPY)
        if copy is not None and placed.verdict == COPY:
            assert copy.chance is not None and copy.chance <= LEVEL and copy.correlation >= 0.9
            assert "not where an image came from" in placed.sentence and "source" not in placed.sentence
    assert np.mean(right) >= 0.95, right


def test_distinct_images_of_the_same_kind_are_no_copies(placer: ImagePlacer) -> None:
    found = placer.place_all([scene(seed) for seed in range(10_000, 10_060)])
    assert np.mean([placed.verdict == COPY for placed in found]) <= LEVEL
    assert np.mean([placed.verdict == USUAL for placed in found]) > 0.8
    assert all("Similarity is not authorship" in p.sentence for p in found if p.verdict == USUAL)


def test_a_re_upload_is_one_group_with_its_original(placer: ImagePlacer, calibrated: CalibratedAtlas) -> None:
    grouped = []
    for seed in range(0, 240, 12):
        placed = placer.place_file(file_of(scene(seed)))
        first = placed.placements["joint"].neighbours[0]
        assert first.url.startswith(f"fields/{seed:04}")
        grouped.append(first.group_size == 2)
    assert np.mean(grouped) >= 0.75, grouped


def test_radii_are_those_within_which_copies_are_in_every_embedding() -> None:
    rng = np.random.default_rng(0)
    apart = {"clip": rng.exponential(size=400), "vae": 30.0 * rng.exponential(size=400)}
    radii = common_radii(apart)
    within = np.all([apart[name] <= radii[name] for name in apart], axis=0).mean()
    assert 0.95 <= within <= 0.955
    assert all(np.mean(apart[name] <= radii[name]) < 0.99 for name in apart)
    assert common_radii({"clip": np.array([1.0, 3.0, 2.0])}) == {"clip": 3.0}


# -- the answer itself -------------------------------------------------------------------------------------


def test_an_image_is_placed_alike_alone_and_in_company(placer: ImagePlacer) -> None:
    images = [decode_image(file_of(scene(seed))) for seed in (20_001, 3, 20_002, 20_003)]
    together = placer.place_all(images)
    for image, placed in zip(images, together, strict=True):
        alone = placer.place(image)
        assert alone == placed
        assert all(np.array_equal(alone.vectors[name], placed.vectors[name]) for name in placed.vectors)
    assert placer.place_all([]) == []


def test_everything_that_is_promised_is_there(atlas: Atlas, calibrated: CalibratedAtlas) -> None:
    data = file_of(scene(5).resize((80, 70)))
    placed = atlas.place(data)
    assert (placed.width, placed.height, placed.release) == (80, 70, atlas.version)
    assert placed.generated_id is not None and len(placed.generated_id) == 64
    assert set(placed.placements) == set(SPACES) == set(atlas.info.spaces)
    assert placed.agreement is not None and 0.0 <= placed.agreement <= 1.0
    for place in placed.placements.values():
        assert np.isfinite(place.position).all() and place.uncertainty >= 0.0
        assert 0.0 <= place.jitter <= 2.0 * place.uncertainty and 0.0 <= place.trust <= 1.0
        assert place.percentile is not None and 0.0 <= place.percentile <= 100.0
        assert place.group_percentile is not None and place.p_value is not None
        similarities = [item.similarity for item in place.neighbours]
        assert similarities == sorted(similarities, reverse=True) and similarities[0] <= 1.0 and len(similarities) == 12
        distances = [item.distance for item in place.neighbours]
        assert distances == sorted(distances)
        nearest = place.neighbours[0]
        assert atlas.row(nearest.id).caption == nearest.caption and nearest.aesthetic is not None
        assert len({item.id for item in place.neighbours}) == 12
    fields = {share.field for share in placed.behind}
    assert {"category", "aesthetic"} <= fields
    for share in placed.behind:
        assert share.low <= share.lift <= share.high and 2 <= share.count <= share.of


def test_the_similarity_of_a_space_is_1_for_the_same_and_about_0_for_the_unrelated(placer: ImagePlacer) -> None:
    placed = placer.place(decode_image(file_of(scene(7))))
    assert all(place.neighbours[0].similarity == pytest.approx(1.0, abs=1e-3) for place in placed.placements.values())
    rows = placer.table.search().select(["clip", "vae"]).limit(200).to_arrow()
    points = np.array(rows["vae"].to_pylist(), np.float64)
    square = ((points[:, None] - points[None]) ** 2).sum(-1).mean() * 200 / 199
    typical = placer.neighborhoods._typical["vae"]
    assert typical == pytest.approx(square, rel=0.2)


def test_a_release_in_memory_answers_as_the_database_does(placer: ImagePlacer) -> None:
    radii = placer.calibration.radii
    asked = Neighborhoods(placer.table, placer.info, placer.model, radii)
    assert placer.resident is not None and len(placer.resident) == placer.table.count_rows()
    for seed in (3, 12, 20_001):
        (vectors,) = placer.encode([decode_image(file_of(scene(seed)))])
        without = placer.neighborhoods.around(vectors)["joint"].rows[0]["id"]
        for left_out in (None, without):
            held, read = (found.around(vectors, left_out) for found in (placer.neighborhoods, asked))
            for space in SPACES:
                assert [row["id"] for row in held[space].rows] == [row["id"] for row in read[space].rows]
                assert np.array_equal(held[space].distances, read[space].distances)
                assert held[space].neighbours(12) == read[space].neighbours(12)
        rows = held["joint"].rows[:5]
        pictures = [
            found.pictures(near["joint"].rows[:5]) for found, near in ((placer.neighborhoods, held), (asked, read))
        ]
        assert set(pictures[0]) == set(pictures[1]) == {row["id"] for row in rows}
        for row_id, picture in pictures[0].items():
            assert np.array_equal(picture.pixels(64), pictures[1][row_id].pixels(64))


def test_a_release_in_memory_searches_among_some_rows(placer: ImagePlacer, monkeypatch: pytest.MonkeyPatch) -> None:
    held = placer.resident
    assert held is not None
    vector = held.vectors["clip"][7]
    rows, distances = held.nearest("clip", vector, 5)
    assert rows[0] == 7 and distances[0] == 0.0 and np.all(np.diff(distances) >= 0)
    among = np.ones(len(held), bool)
    among[rows[:3]] = False
    assert held.nearest("clip", vector, 2, among)[0].tolist() == rows[3:].tolist()
    assert len(held.nearest("clip", vector, 5, np.zeros(len(held), bool))[0]) == 0
    assert len(held.nearest("clip", vector, 10_000)[0]) == len(held)
    assert held.position("0" * 32) is None and held.row(7)["id"] == placer.table.to_arrow()["id"][7].as_py()
    monkeypatch.setattr(resident, "_MOST_BYTES", 1_000)
    assert resident.Resident.of(placer.table, {"clip": "cosine"}, ["caption"]) is None


def test_a_path_bytes_and_a_picture_are_placed_alike(atlas: Atlas, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(file_of(scene(20_009)))
    by_path, by_bytes = atlas.place(file), atlas.place(file.read_bytes())
    with Image.open(file) as opened:
        by_picture = atlas.place(opened)
    assert by_path == by_bytes and by_picture.generated_id is None
    assert dataclasses.replace(by_picture, generated_id=by_path.generated_id) == by_path


@pytest.mark.parametrize("bad", [b"", b"no image", "absent.png", file_of(scene(1))[:200], 7])
def test_what_is_no_image_is_refused(atlas: Atlas, bad: object) -> None:
    with pytest.raises(QueryError, match="cannot be read as an image"):
        atlas.place(bad)  # type: ignore[arg-type]


def test_a_table_away_from_its_maps_cannot_place(calibrated: CalibratedAtlas, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(Path(calibrated.profile.root) / "lance", tmp_path / "elsewhere")
    with pytest.raises(NotBuiltError, match="Open the root"):
        Atlas.open(tmp_path / "elsewhere").place(file_of(scene(1)))


def test_it_is_json_as_it_is(atlas: Atlas) -> None:
    placed = atlas.place(file_of(scene(12)))
    found = json.loads(json.dumps(placed.to_dict(), allow_nan=False))
    assert set(found) >= {"generated_id", "release", "width", "height", "placements", "agreement"}
    wanted = {
        "position",
        "uncertainty",
        "jitter",
        "trust",
        "p_value",
        "percentile",
        "verdict",
        "sentence",
        "copy",
        "neighbours",
        "behind",
    }
    for place in found["placements"].values():
        assert set(place) >= wanted
        assert set(place["neighbours"][0]) >= {"id", "similarity", "caption", "category", "group_size"}
        assert set(place["behind"][0]) == {"field", "value", "count", "of", "lift", "low", "high"}
    assert "vectors" not in found and set(Placed.__dataclass_fields__) - set(found) == {"calibration", "vectors"}


def test_the_calibration_is_the_same_when_it_is_made_again(placer: ImagePlacer) -> None:
    assert calibrate(placer).version == placer.calibration.version
    assert placer.calibration.distances.keys() == set(SPACES)
    assert len(calibration_key(placer.info)) == 32


def test_the_command_places_files_and_goes_on_after_a_bad_one(calibrated: CalibratedAtlas, tmp_path: Path) -> None:
    good, bad = tmp_path / "good \x1b[31m.png", tmp_path / "bad.png"
    good.write_bytes(file_of(scene(1)))
    bad.write_bytes(b"no image")
    result = CliRunner().invoke(app, ["place", str(bad), str(good), "-k", "2", "-p", str(calibrated.file)])
    assert result.exit_code == 2 and "cannot be read as an image" in result.output
    assert "64 x 64, on release 2" in result.output and "possible copy of" in result.output
    assert result.output.count("\u00b1") == 3 and "\x1b" not in result.output and "source" not in result.output
    result = CliRunner().invoke(app, ["place", str(good), "--json", "-p", str(calibrated.file)])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["file"] == str(good) and set(found["placements"]) == set(SPACES)
