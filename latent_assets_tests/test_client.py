"""The client: opens by address alone, answers by hand-checked neighbours, refuses bad questions clearly."""

import io
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from latent_assets.atlas.card import ModelInfo
from latent_assets.atlas.checks import check
from latent_assets.atlas.release import prune, publish, stage
from latent_assets.client import Atlas, Hit, QueryError
from latent_assets.errors import LatentAssetsError, ModelError, NotBuiltError, StorageError, UnfitModelsWarning
from latent_assets.images.decode.image import decode_image
from latent_assets.profile import ClipModel
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import Built, at, build, change_caption, move_places
from latent_assets_tests.projection import synthetic


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    made = build(tmp_path_factory.mktemp("client") / "root", n_epochs=20)
    release(made)
    return made


def release(built: Built) -> None:
    made = stage(built.profile, built.storage, built.shards, built.release)
    publish(built.storage, made, check(built.profile, built.storage, made))


@pytest.fixture
def atlas(built: Built) -> Atlas:
    return Atlas.open(built.storage.root)


def nearest(built: Built, query: np.ndarray, k: int) -> list[str]:
    """Ids of the rows with the largest cosine, by the plain definition on the stored float16 vectors."""
    cosines = built.clip.astype(np.float16).astype(np.float64) @ query.astype(np.float64)
    return [built.ids[i] for i in np.argsort(-cosines, kind="stable")[:k]]


# -- opening ---------------------------------------------------------------------------------------------


def test_a_root_and_its_lance_directory_open_the_same(built: Built) -> None:
    by_root, by_table = Atlas.open(Path(built.storage.root)), Atlas.open(built.storage.lance_uri + "/")
    assert by_root.uri == by_table.uri == built.storage.lance_uri
    assert by_root.info == by_table.info == replace(built.release, content=by_root.info.content)
    assert Atlas.open(f"{built.storage.lance_uri}/atlas.lance").uri == by_root.uri
    assert len(by_root) == 60 and repr(by_root).endswith("version=2, rows=60)")


def test_a_relative_path_is_opened(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(built.storage.root).parent)
    assert Atlas.open("root").uri == built.storage.lance_uri


def test_an_unknown_release_is_named(built: Built) -> None:
    for tag in ("release-00099", "no such tag", 99):
        with pytest.raises(NotBuiltError, match=f"not the release `{tag}`"):
            Atlas.open(built.storage.root, tag=tag)


@pytest.mark.parametrize("place", ["nothing", "file"])
def test_where_there_is_no_atlas(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotBuiltError, match="no atlas table"):
        Atlas.open(tmp_path / place)


def test_a_staged_release_cannot_be_opened_as_live(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.storage.root, tmp_path / "root", ignore=shutil.ignore_patterns("lance"))
    copy = replace(built, storage=type(built.storage)(str(tmp_path / "root")))
    made = stage(copy.profile, copy.storage, copy.shards, copy.release)
    with pytest.raises(NotBuiltError, match="`live`"):
        Atlas.open(copy.storage.root)
    assert len(Atlas.open(copy.storage.root, tag=made.version)) == 60


def test_an_open_atlas_stays_the_release_it_was(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.storage.root, tmp_path / "root")
    copy = replace(built, storage=type(built.storage)(str(tmp_path / "root")))
    before = Atlas.open(copy.storage.root)
    release(copy)
    assert (before.version, Atlas.open(copy.storage.root).version) == (2, 4)
    assert Atlas.open(copy.storage.root, tag="release-00002").version == 2
    assert len(before.to_polars(["id"])) == 60


def test_opening_and_reading_load_no_model_code(built: Built) -> None:
    code = (
        "import sys; from latent_assets.client import Atlas; atlas = Atlas.open(sys.argv[1]);"
        "hits = atlas.neighbors(sys.argv[2], 3); atlas.row(hits[0].id); atlas.to_polars(['id'], 2);"
        "heavy = {'torch', 'open_clip', 'umap', 'dagster', 'sklearn', 'lance', 'pandas'};"
        "print(len(hits), sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, built.storage.root, built.ids[0]]
    found = subprocess.run(command, cwd=synthetic.REPOSITORY, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "3 []"


# -- neighbours and rows ---------------------------------------------------------------------------------


def test_neighbors_by_clip_are_those_of_the_largest_cosine(atlas: Atlas, built: Built) -> None:
    hits = atlas.neighbors(built.ids[7], k=8)
    query = built.clip[7].astype(np.float16).astype(np.float64)
    assert [hit.id for hit in hits] == [i for i in nearest(built, query, 9) if i != built.ids[7]]
    assert {hit.measure for hit in hits} == {"cosine similarity"}
    for hit in hits:
        vector = built.clip[built.ids.index(hit.id)]
        assert hit.score == pytest.approx(vector @ query, abs=2e-3)
    assert hits == sorted(hits, key=lambda hit: -hit.score)


def test_neighbors_by_vae_are_those_of_the_smallest_distance(atlas: Atlas, built: Built) -> None:
    vae = synthetic.vae_columns(60)["pooled"].astype(np.float16).astype(np.float64)
    distances = np.linalg.norm(vae - vae[11], axis=1)
    expected = [i for i in np.argsort(distances) if i != 11][:5]
    hits = atlas.neighbors(built.ids[11], k=5, space="vae")
    assert [hit.id for hit in hits] == [built.ids[i] for i in expected]
    assert {hit.measure for hit in hits} == {"L2 distance"}
    np.testing.assert_allclose([hit.score for hit in hits], distances[expected], rtol=5e-3)


def test_a_hit_tells_where_the_picture_came_from(atlas: Atlas, built: Built) -> None:
    hits = {hit.id: hit for hit in atlas.neighbors(built.ids[0], k=59)}
    hit = hits[built.ids[23]]
    assert (hit.caption, hit.category) == ("picture number 23 — фото", "flags")
    assert (hit.url, hit.source_url) == ("http://example.org/23.png", "http://example.org/page/23")
    assert hits[built.ids[25]].source_url is None
    assert set(hit.xyz) == {"clip", "vae", "joint"} and all(len(point) == 3 for point in hit.xyz.values())
    assert hit.xyz == atlas.row(built.ids[23]).xyz


def test_more_neighbors_than_rows_gives_all_others(atlas: Atlas, built: Built) -> None:
    assert {hit.id for hit in atlas.neighbors(built.ids[3], k=500)} == set(built.ids) - {built.ids[3]}


def test_a_row_has_its_facts(atlas: Atlas, built: Built) -> None:
    row = atlas.row(built.ids[59])
    assert (row.id, row.url, row.shard) == (built.ids[59], "http://example.org/59.png", "00002")
    assert (row.width, row.height, row.source_hash) == (160, 120, -59)
    assert row.aesthetic == pytest.approx(5.59) and row.pwatermark is None
    assert Image.open(io.BytesIO(row.thumbnail)).size == (96, 72)


@pytest.mark.parametrize(
    "id", ["", "abc", "' OR 1=1 --", "A" * 32, "g" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", None, 7]
)
def test_a_malformed_id_is_refused_before_it_reaches_a_filter(atlas: Atlas, id: object) -> None:
    for ask in (atlas.row, atlas.neighbors):
        with pytest.raises(QueryError, match="is not an id"):
            ask(id)  # type: ignore[operator]


def test_an_unknown_id_is_named(atlas: Atlas) -> None:
    for ask in (atlas.row, atlas.neighbors):
        with pytest.raises(NotBuiltError, match=f"has no row {'f' * 32}"):
            ask("f" * 32)  # type: ignore[operator]


@pytest.mark.parametrize("k", [0, -1, 10_001, 2.5, True, "3", None, np.array([3, 4]), np.array([3]), np.bool_(True)])
def test_k_has_bounds(atlas: Atlas, built: Built, k: object) -> None:
    with pytest.raises(QueryError, match="ask for 1 to 10,000 results"):
        atlas.neighbors(built.ids[0], k=k)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.int32(3)])
def test_numpy_integers_are_numbers(atlas: Atlas, built: Built, number: int) -> None:
    assert atlas.neighbors(built.ids[0], k=number) == atlas.neighbors(built.ids[0], k=3)
    assert atlas.search_vector(built.clip[0], k=number) == atlas.search_vector(built.clip[0], k=3)
    assert atlas.to_polars(["id"], limit=number)["id"].to_list() == built.ids[:3]


def test_the_largest_k_is_answered(atlas: Atlas, built: Built) -> None:
    assert len(atlas.neighbors(built.ids[0], k=10_000)) == 59


@pytest.mark.parametrize("limit", [-1, 2.5, "3", True, np.float64(3), np.array([2]), float("inf")])
def test_a_limit_is_a_number_of_rows(atlas: Atlas, limit: object) -> None:
    with pytest.raises(QueryError, match="limit has to be a whole number of rows"):
        atlas.to_polars(["id"], limit=limit)  # type: ignore[arg-type]


def test_no_rows_and_no_columns_are_answers(atlas: Atlas) -> None:
    assert atlas.to_polars(["id"], limit=0).shape == (0, 1)
    assert atlas.to_polars(["id"], limit=10**30).shape == (60, 1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["id", "url", "id"], "column id is asked for twice"),
        ("id", "list of"),
        ([], "at least one"),
        ([None], "list of"),
        (5, "list of"),
        ([["id"]], "list of"),
        (b"id", "list of"),
        (["ID"], "no column ID"),
    ],
)
def test_columns_that_make_no_frame_are_refused(atlas: Atlas, columns: object, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        atlas.to_polars(columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["joint", "", "clip; DROP", None, ["clip"]])
def test_neighbors_are_found_in_clip_or_vae(atlas: Atlas, built: Built, space: str) -> None:
    with pytest.raises(QueryError, match="found in the space clip or vae"):
        atlas.neighbors(built.ids[0], space=space)


def test_a_vector_of_another_shape_or_with_nan_is_refused(atlas: Atlas, built: Built) -> None:
    assert atlas.search_vector(built.clip[4], k=1)[0].id == built.ids[4]
    for vector in (np.zeros(31), np.full(32, np.nan)):
        with pytest.raises(QueryError, match="A clip vector has 32 finite values"):
            atlas.search_vector(vector)


@pytest.mark.parametrize("vector", ["red", None, ["a"] * 32, np.ones(32, complex), [None] * 32, np.ones(32, bool)])
def test_a_vector_is_made_of_numbers(atlas: Atlas, vector: object) -> None:
    with pytest.raises(QueryError, match="A clip vector has 32"):
        atlas.search_vector(vector)  # type: ignore[arg-type]


def test_a_vector_may_be_any_row_of_numbers(atlas: Atlas, built: Built) -> None:
    for vector in (built.clip[4].tolist(), pl.Series(built.clip[4]), built.clip[4].astype(object)):
        assert atlas.search_vector(vector, k=1)[0].id == built.ids[4]  # type: ignore[arg-type]


@pytest.mark.parametrize("tag", [-1, 1.0, None, True, b"live"])
def test_a_release_is_named_by_a_tag_or_a_number(built: Built, tag: object) -> None:
    with pytest.raises(QueryError, match="give the name of a tag"):
        Atlas.open(built.storage.root, tag=tag)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (5, r"\(int\): give a path"), (None, r"\(NoneType\): give"), (np.zeros((5, 5, 3), np.uint8), r"\(ndarray\)"),
        (bytearray(b"x"), r"\(bytearray\): give a path"), ("https://example.com/a.png", "fetched by nobody"),
        ("data:image/png;base64,aaa", "fetched by nobody"), ("\0", "cannot be read"), ("/tmp", "is a directory"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_told_with_what_is(atlas: Atlas, picture: object, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        atlas.search_image(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [5, ["a"], b"a"])
def test_categories_and_domains_are_names(with_model: tuple[Built, ClipModel], value: Any) -> None:
    atlas = Atlas.open(with_model[0].storage.root)
    with pytest.raises(QueryError, match=r"category = .*give one name"):
        atlas.search_text("red", category=value)
    with pytest.raises(QueryError, match=r"domain = .*give one name"):
        atlas.search_text("red", domain=value)


def test_questions_refused_are_errors_a_person_can_read() -> None:
    assert issubclass(QueryError, LatentAssetsError) and QueryError.exit_code == 2


def test_a_release_of_before_there_were_paths_is_read(built: Built, tmp_path: Path) -> None:
    import lancedb

    shutil.copytree(built.storage.uri("lance"), tmp_path / "lance")
    table = lancedb.connect(str(tmp_path / "lance")).open_table("atlas")
    table.drop_columns(["path"])
    earlier = Atlas.open(tmp_path, tag=table.version)
    assert "path" not in earlier.to_polars(limit=1).columns
    assert earlier.row(built.ids[3]).path is None and earlier.row(built.ids[3]).url.endswith("/3.png")
    assert earlier.neighbors(built.ids[3], k=2)


# -- frames ----------------------------------------------------------------------------------------------


def test_to_polars_gives_the_columns_asked_for(atlas: Atlas, built: Built) -> None:
    frame = atlas.to_polars(["id", "caption", "xyz_vae"], limit=7)
    assert frame.columns == ["id", "caption", "xyz_vae"] and frame["id"].to_list() == built.ids[:7]
    assert frame.schema["xyz_vae"] == pl.Array(pl.Float32, 3)
    whole = atlas.to_polars()
    assert whole.shape == (60, 21)
    np.testing.assert_array_equal(whole["clip"].to_numpy(), built.clip.astype(np.float16))


def test_to_polars_names_an_unknown_column(atlas: Atlas) -> None:
    with pytest.raises(QueryError, match=r"no column nothing\. It has: id, url"):
        atlas.to_polars(["id", "nothing"])


# -- text and pictures, through a real CLIP --------------------------------------------------------------


@pytest.fixture(scope="module")
def with_model(tmp_path_factory: pytest.TempPathFactory, small_models: dict) -> tuple[Built, ClipModel]:
    """An atlas whose vectors were made by a small real CLIP from its own pictures."""
    from latent_assets.models.clip import load_clip
    from latent_assets.models.weights import clip_files
    from latent_assets_tests.atlas import built as pictures
    from latent_assets_tests.small_models import clip_vectors

    spec = ClipModel.model_validate(small_models["clip"])
    encoder = load_clip(spec)
    images = [decode_image(pictures.picture(i)) for i in range(60)]
    vectors = clip_vectors(encoder, images)
    made = build(tmp_path_factory.mktemp("model") / "root", clip=vectors, n_epochs=20)
    models = {"clip": ModelInfo("small", clip_files(spec).digest, spec.model_dump(mode="json"))}
    made = replace(made, release=replace(made.release, models=models))
    release(made)
    return made, spec


def test_text_finds_what_the_model_says(with_model: tuple[Built, ClipModel]) -> None:
    from latent_assets.models.clip import load_clip

    built, spec = with_model
    atlas = Atlas.open(built.storage.root)
    hits = atlas.search_text("  a red thing ", k=6)
    query = load_clip(spec).encode_text(["a red thing"])[0]
    cosines = {row_id: float(v @ query) for row_id, v in zip(built.ids, built.clip, strict=True)}
    assert len(hits) == 6 and all(isinstance(hit, Hit) for hit in hits)
    np.testing.assert_allclose([hit.score for hit in hits], sorted(cosines.values(), reverse=True)[:6], atol=2e-3)
    np.testing.assert_allclose([hit.score for hit in hits], [cosines[hit.id] for hit in hits], atol=2e-3)


def test_both_rankings_are_fused_by_their_ranks(with_model: tuple[Built, ClipModel]) -> None:
    atlas = Atlas.open(with_model[0].storage.root)
    where = "aesthetic >= 5.05"
    meaning = [hit.id for hit in atlas.search_text("number 7", 200, where=where)]
    words = [hit.id for hit in atlas.search_text("number 7", 200, mode="words", where=where)]
    assert len(meaning) == len(words) == 55 and meaning != words
    scores = {one: 1 / (61 + meaning.index(one)) + 1 / (61 + words.index(one)) for one in meaning}
    hits = atlas.search_text("number 7", 10, mode="hybrid", where=where, offset=2)
    assert [hit.id for hit in hits] == sorted(scores, key=lambda one: (-scores[one], one))[2:12]
    assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits])
    assert {hit.measure for hit in hits} == {"reciprocal rank"}


def test_a_picture_finds_itself(with_model: tuple[Built, ClipModel], tmp_path: Path) -> None:
    from latent_assets_tests.atlas import built as pictures

    built, _ = with_model
    atlas = Atlas.open(built.storage.root)
    data = pictures.picture(14)
    (tmp_path / "picture.png").write_bytes(data)
    for image in (data, tmp_path / "picture.png", str(tmp_path / "picture.png"), Image.open(io.BytesIO(data))):
        hit = atlas.search_image(image, k=1)[0]
        assert hit.id == built.ids[14] and hit.score == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", None, 5])
def test_an_empty_text_is_refused(atlas: Atlas, text: object) -> None:
    with pytest.raises(QueryError, match="text to search for is empty"):
        atlas.search_text(text)  # type: ignore[arg-type]


def test_a_text_has_a_longest_length(with_model: tuple[Built, ClipModel], atlas: Atlas) -> None:
    with pytest.raises(QueryError, match="has 800,000 characters, and at most 10,000 are taken"):
        atlas.search_text("a" * 800_000)
    assert len(Atlas.open(with_model[0].storage.root).search_text("a dog " * 1600, k=2)) == 2


@pytest.mark.parametrize("text", ["\ud83d", "dog \udcff", "\0", "\x1b[31m", "\U000e0001" * 50])
def test_any_text_is_answered(with_model: tuple[Built, ClipModel], text: str) -> None:
    assert len(Atlas.open(with_model[0].storage.root).search_text(text, k=2)) == 2


def test_a_path_is_no_text(atlas: Atlas) -> None:
    with pytest.raises(QueryError, match=r"photo\.jpg is a path.*search_image"):
        atlas.search_text(Path("photo.jpg"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image", [b"", b"GIF89a broken", "/nowhere/picture.png", "/", "a\0b", "x" * 9999, None, 5, [b"x"]]
)
def test_what_is_no_picture_is_refused(with_model: tuple[Built, ClipModel], image: bytes | str) -> None:
    with pytest.raises(QueryError, match="cannot be read as an image"):
        Atlas.open(with_model[0].storage.root).search_image(image)


def test_a_pipe_is_no_picture_and_is_not_waited_for(atlas: Atlas, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(QueryError, match="pipe, socket or device"):
        atlas.search_image(tmp_path / "pipe.jpg")


def test_a_model_that_is_not_here_is_a_clear_error(atlas: Atlas) -> None:
    with pytest.raises(ModelError, match=r"/nowhere/config\.json is not there"):
        atlas.search_text("dog")


def test_other_weights_than_the_atlas_was_made_with_are_refused(with_model: tuple[Built, ClipModel]) -> None:
    atlas = Atlas.open(with_model[0].storage.root)
    atlas._view = replace(
        atlas._view, info=replace(atlas.info, models={"clip": replace(atlas.info.models["clip"], digest="0" * 32)})
    )
    with pytest.raises(ModelError, match=f"the atlas was made with {'0' * 32}: their vectors do not compare"):
        atlas.search_text("dog")


def test_an_atlas_without_clip_says_so(atlas: Atlas) -> None:
    atlas._view = replace(atlas._view, info=replace(atlas.info, models={}))
    with pytest.raises(QueryError, match="has no CLIP model"):
        atlas.search_text("dog")


# -- what happens to an opened release -------------------------------------------------------------------


def copied(built: Built, root: Path) -> Built:
    """The same atlas at another place, published there, too."""
    shutil.copytree(built.storage.root, root)
    return at(built, root)


def questions(atlas: Atlas, built: Built) -> list[Callable[[], object]]:
    """Every way to ask for rows."""
    vector = built.clip[3].astype(np.float32)
    return [
        lambda: atlas.search_vector(vector, k=3),
        lambda: atlas.neighbors(built.ids[3], k=3),
        lambda: atlas.row(built.ids[3]),
        lambda: atlas.to_polars(),
        lambda: atlas.to_polars(["id"], limit=2),
    ]


def test_a_release_that_was_cleaned_away_is_named_with_the_remedy(built: Built, tmp_path: Path) -> None:
    copy = copied(built, tmp_path / "root")
    before = Atlas.open(copy.storage.root)
    for number in range(2):
        for row in (3, 23, 43):
            change_caption(copy, row, f"another caption {number}")
        for shard in copy.shards:
            move_places(copy, shard.shard)
        release(copy)
    prune(copy.storage, keep=1, younger_than=timedelta(0))
    for ask in questions(before, copy):
        with pytest.raises(NotBuiltError, match=r"version 2 of .* is gone: .* Open the atlas again\."):
            ask()
    after = Atlas.open(copy.storage.root)
    assert after.version == 6 and len(after.to_polars()) == len(after) == 60
    for ask in questions(after, copy):
        ask()


def test_a_release_that_lost_files_is_damaged_and_not_gone(built: Built, tmp_path: Path) -> None:
    copy = copied(built, tmp_path / "root")
    opened = Atlas.open(copy.storage.root)
    for file in (Path(copy.storage.lance_uri) / "atlas.lance/data").iterdir():
        file.unlink()
    for ask in questions(opened, copy):
        with pytest.raises(StorageError, match=r"cannot be read .*latent-assets verify"):
            ask()


def test_a_search_by_words_imports_neither_torch_nor_open_clip(with_model: tuple[Built, ClipModel]) -> None:
    """What makes a question from the shell slow is imports: a text needs its tower and the table."""
    code = (
        "import sys\nfrom latent_assets.client import Atlas\n"
        "atlas = Atlas.open(sys.argv[1])\nassert len(atlas.search_text('a red thing', k=3)) == 3\n"
        "print([m for m in sys.argv[2:] if m in sys.modules])"
    )
    heavy = ["torch", "torchvision", "torch._dynamo", "open_clip", "timm", "transformers", "diffusers", "scipy"]
    heavy += ["sympy", "dagster", "umap", "numba", "matplotlib", "cv2", "sklearn", "fastapi"]
    command = [sys.executable, "-c", code, built_root(with_model), *heavy]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"


def built_root(made: tuple[Built, ClipModel]) -> str:
    return str(made[0].storage.root)


def test_searches_of_an_atlas_with_unfit_models_say_so(with_model: tuple[Built, ClipModel], tmp_path: Path) -> None:
    built, _ = with_model
    root = tmp_path / "root"
    shutil.copytree(built.storage.root, root)
    changed = replace(built, storage=Storage(str(root)), release=replace(built.release, unfit={"clip": "knows emoji"}))
    release(changed)
    atlas = Atlas.open(root)
    assert atlas.info.unfit == {"clip": "knows emoji"} and "knows emoji" in atlas.notice
    for ask in (lambda: atlas.search_text("red"), lambda: atlas.neighbors(built.ids[0], space="vae")):
        with pytest.warns(UnfitModelsWarning, match="knows emoji"):
            assert ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Atlas.open(built.storage.root).search_text("red")
