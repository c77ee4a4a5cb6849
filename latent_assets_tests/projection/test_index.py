"""The index as a file of the release: opened without being read, right or made anew, gone with the rows it knew."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from latent_assets.layout import index_name, model_name
from latent_assets.projection import index as indexes
from latent_assets.projection.fit import fit_map
from latent_assets.projection.header import read_header
from latent_assets.projection.inverted import InvertedIndex
from latent_assets.projection.mapped import map_arrays, write_arrays
from latent_assets.projection.model import MapModel, model_files, read_model
from latent_assets.projection.neighbors import ExactIndex
from latent_assets.projection.removal import drop_from_model
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

FIRST, MOST = "a" * 32, 300


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Maps of more rows than are all compared."""
    profile = synthetic.profile(tmp_path_factory.mktemp("index"), n_epochs=10)
    storage = Storage(profile.root)
    shards = synthetic.write_shards(storage, 600, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes, "EXACT_ROWS", MOST)
        fit_map(profile, storage, shards, FIRST)
    return storage


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "EXACT_ROWS", MOST)


@pytest.fixture
def copy(fitted: Storage, tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path / "copy"))
    for name in model_files(fitted, FIRST):
        storage.write_bytes(name, fitted.read_bytes(name))
    return storage


def rows(model: MapModel) -> dict[str, np.ndarray]:
    """Vectors of images that were not fitted."""
    rng = np.random.default_rng(5)
    return {
        name: (values[:40] + 0.01 * rng.normal(size=(40, values.shape[1]))).astype(np.float16)
        for name, values in model.vectors.items()
    }


def places(model: MapModel) -> bytes:
    placed = [model.placers[recipe.space].place(recipe.features(rows(model))) for recipe in model.recipes]
    return b"".join(part.tobytes() for one in placed for part in vars(one).values())


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("an index is made")


@pytest.mark.usefixtures("few")
def test_a_release_of_many_rows_carries_its_indexes_and_opening_makes_none(
    fitted: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [index_name(FIRST, space) for space in ("clip", "joint", "vae")]
    assert model_files(fitted, FIRST) == [*names, model_name(FIRST)]
    made = MapModel(**(vars(read_model(fitted, FIRST)) | {"opened": indexes_made}))
    expected = places(made)
    monkeypatch.setattr(InvertedIndex, "build", refuse)
    model = read_model(fitted, FIRST)
    assert all(isinstance(placer.index, InvertedIndex) for placer in model.placers.values())
    assert places(model) == expected


def indexes_made(recipe: object, points: object) -> object:
    return indexes.make_index(points, recipe.metric)  # type: ignore[attr-defined,arg-type]


def test_placed_images_have_the_features_of_the_recipe(fitted: Storage) -> None:
    """What is compared where it lies, as float16, is what `recipe.features` makes of it."""
    model = read_model(fitted, FIRST)
    for recipe in model.recipes:
        placer = model.placers[recipe.space]
        assert placer.points.rows(slice(None)).tobytes() == recipe.features(model.vectors).tobytes()
        placed = placer.place(recipe.features({name: values[:50] for name, values in model.vectors.items()}))
        # a fitted row placed as if it were new lands on its own place
        assert placed.coords.tobytes() == model.coords[recipe.space][:50].tobytes()
        assert (placed.distance == 0.0).all() and (placed.jitter == 0.0).all()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("damage", ["cut", "header", "of other maps", "gone"])
def test_an_index_that_cannot_serve_is_made_anew(copy: Storage, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = places(read_model(copy, FIRST))
    for space in ("clip", "joint", "vae"):
        name = index_name(FIRST, space)
        data = copy.read_bytes(name)
        changed = {
            "cut": data[: len(data) // 2],
            "header": b"\xff" * 8 + data[8:],
            "of other maps": data.replace(read_header(copy, FIRST)["report"]["version"].encode(), b"0" * 32),
        }
        copy.delete(name)
        if damage in changed:
            assert changed[damage] != data
            copy.write_bytes(name, changed[damage])
    built = []
    build = InvertedIndex.build
    monkeypatch.setattr(InvertedIndex, "build", lambda *given: built.append(1) or build(*given))
    assert places(read_model(copy, FIRST)) == expected
    assert len(built) == 3


@pytest.mark.usefixtures("few")
def test_rows_that_are_taken_out_are_in_no_index(copy: Storage) -> None:
    model = read_model(copy, FIRST)
    gone = model.ids[100]
    query = {name: values[100:101] for name, values in model.vectors.items()}
    assert drop_from_model(copy, FIRST, {gone}) is not None
    after = read_model(copy, FIRST)
    for recipe in after.recipes:
        arrays, _ = map_arrays(Path(copy.uri(index_name(FIRST, recipe.space))))
        assert sorted(arrays["order"].tolist()) == list(range(599))
        placed = after.placers[recipe.space].place(recipe.features(query))
        assert placed.distance[0] > 0.0
        assert gone not in {after.ids[row] for row in placed.neighbors[0]}
    # few are left: all are compared, and no index stays behind
    drop_from_model(copy, FIRST, set(after.ids[: len(after.ids) - 50]))
    assert model_files(copy, FIRST) == [model_name(FIRST)]
    assert all(isinstance(placer.index, ExactIndex) for placer in read_model(copy, FIRST).placers.values())


def test_the_leave_one_out_error_is_that_of_maps_without_the_row(fitted: Storage) -> None:
    from latent_assets.projection.placement import Placer

    model = read_model(fitted, FIRST)
    recipe = model.recipes[0]
    points, coords = recipe.features(model.vectors), model.coords[recipe.space]
    found = model.placers[recipe.space].leave_one_out(np.arange(0, 600, 50))
    for error, row in zip(found, range(0, 600, 50), strict=True):
        without = Placer(np.delete(points, row, 0), np.delete(coords, row, 0), recipe.metric, model.n_neighbors)
        place = without.place(points[row : row + 1]).coords[0]
        np.testing.assert_allclose(error, np.linalg.norm(place - coords[row]), atol=1e-5)
    figures = model.placement[recipe.space]
    assert 0 < figures.error < figures.error_p95 < 1 and figures.left_out == 600  # type: ignore[operator]
    assert figures.index_recall >= 0.99


def test_arrays_are_mapped_as_the_library_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        dtype: np.asarray(100 * rng.normal(size=(5, 3))).astype(dtype)
        for dtype in ("float64", "float32", "float16", "int64", "int32", "int8", "uint8")
    } | {"none": np.zeros((0, 4), np.float32)}
    path = tmp_path / "some.safetensors"
    write_arrays(path, arrays, {"note": "words"})
    found, metadata = map_arrays(path)
    expected = load_file(path)
    assert metadata == {"note": "words"} and found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes() == arrays[name].tobytes()
        assert not found[name].flags.owndata and not found[name].flags.writeable
    path.unlink()  # what is mapped stays
    assert found["float64"].tobytes() == arrays["float64"].tobytes()


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "some.safetensors"
    write_arrays(path, {"values": np.arange(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"some\.safetensors"):
        map_arrays(path)
