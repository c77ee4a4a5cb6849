"""Searches of a release by words, with filters and by pages; recall as it is measured; hostile captions."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latent_assets.atlas.checks import check
from latent_assets.atlas.recall import K, distances, make_probes, recall
from latent_assets.atlas.release import publish, stage
from latent_assets.atlas.table import LIVE, open_table
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, QueryError
from latent_assets.layout import catalog_name
from latent_assets_tests.atlas.built import CATEGORIES, Built, at, published, release

CAPTIONS = {
    0: "a red fox in the snow",
    1: "a red red lamp at night, red as the other lamps are",
    2: "ФОКС und Straße",
    3: "赤い狐が雪の中にいる",
    4: "naïve café",
    5: "一只红色的狐狸在雪地里",
    6: "สุนัขจิ้งจอกสีแดงในหิมะ",
    7: "the and of a",
    8: "running runners run",
    9: "'; DROP TABLE atlas; -- \" OR caption:* (fox~2)",
    10: "",
    11: "ثعلب أحمر",
}


@pytest.fixture(scope="module")
def said(template: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A published atlas of which some rows have captions of their own, and row 12 none."""
    import shutil

    root = tmp_path_factory.mktemp("said") / "root"
    shutil.copytree(template.storage.root, root)
    built = at(template, root)
    name = catalog_name("00000")
    frame = built.storage.read_parquet(name)
    known = {built.ids[row]: caption for row, caption in CAPTIONS.items()}
    captions = [known.get(row, caption) for row, caption in frame.select("id", "caption").iter_rows()]
    captions = [None if row == built.ids[12] else caption for row, caption in zip(frame["id"], captions, strict=True)]
    built.storage.write_parquet(name, frame.with_columns(caption=pl.Series(captions, dtype=pl.String)))
    published(built)
    return built


@pytest.fixture
def atlas(said: Built) -> Atlas:
    return Atlas.open(said.storage.root)


def rows(built: Built, hits: Sequence[object]) -> list[int]:
    return [built.ids.index(hit.id) for hit in hits]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("RED fox", [0, 1, 9]),
        ("фокс", [2]),
        ("straße", [2]),
        ("狐", [3]),
        ("雪", [3]),
        ("狐狸", [5]),
        ("หิมะ", [6]),
        ("cafe", [4]),
        ("NAÏVE", [4]),
        ("أحمر", [11]),
        ("run", [8]),
        ("runner", []),
        ("nothing of this", [7]),
        ("!?", []),
        ("fox~2 caption:*", [0, 9]),
    ],
)
def test_words_of_many_scripts_are_found(atlas: Atlas, said: Built, text: str, found: list[int]) -> None:
    hits = atlas.search_text(text, 20, mode="words")
    assert sorted(rows(said, hits)) == found
    assert {hit.measure for hit in hits} <= {"BM25"} and [hit.score for hit in hits] == sorted(
        (hit.score for hit in hits), reverse=True
    )


def test_words_are_ranked_by_bm25(atlas: Atlas, said: Built) -> None:
    """The order of Robertson's formula (k1 = 1.2, b = 0.75): what says the rarer word, then what is shorter."""
    assert rows(said, atlas.search_text("fox", 5, mode="words"))[0] == 0
    red = atlas.search_text("red", 5, mode="words")
    assert rows(said, red) == [1, 0] and red[0].score > red[1].score
    every = atlas.search_text("picture", 100, mode="words")
    assert len(every) == 47 and len({hit.score for hit in every}) == 1
    rare = atlas.search_text("lamp", 1, mode="words")[0].score
    # one row of 59 with a caption says it: its rarity is log(1 + (N - n + 0.5) / (n + 0.5))
    assert rare == pytest.approx(math.log(1 + 58.5 / 1.5), rel=0.5) and rare > every[0].score * 5


def test_a_filter_leaves_the_others_out(atlas: Atlas, said: Built) -> None:
    where = "aesthetic >= 5.2 AND contains(caption, 'number 4') AND category IN ('animals', 'food')"
    expected = [i for i in range(20, 60) if str(i).startswith("4") and CATEGORIES[i % 3] in ("animals", "food")]
    for hits in (
        atlas.search_text("picture", 60, mode="words", where=where),
        atlas.search_vector(said.clip[4], 60, where=where),
        atlas.neighbors(said.ids[50], 60, where=where),
        atlas.neighbors(said.ids[50], 60, "vae", where=where),
    ):
        assert sorted(rows(said, hits)) == expected
    assert atlas.search_vector(said.clip[4], 5, where="caption IS NULL")[0].id == said.ids[12]
    # letters of other scripts, and fewer than three of them
    assert rows(said, atlas.search_vector(said.clip[4], 5, where="contains(caption, '狐狸')")) == [5]
    assert rows(said, atlas.search_vector(said.clip[4], 5, where="contains(caption, '狐')")) != []
    # which the n-gram index does not know
    for text, row in (("红色的狐狸", 5), ("ФОКС", 2), ("ïve c", 4), ("; -- ", 9)):
        assert rows(said, atlas.search_vector(said.clip[4], 5, where=f"contains(caption, '{text}')")) == [row], text
    assert rows(said, atlas.search_vector(said.clip[4], 5, where="caption LIKE '%DROP TABLE%'")) == [9]
    assert atlas.search_vector(said.clip[4], 5, where="width > 1000") == []
    with pytest.raises(QueryError, match="no column"):
        atlas.neighbors(said.ids[0], where="nothing = 1")


def test_pages_are_parts_of_the_whole(atlas: Atlas, said: Built) -> None:
    whole = atlas.neighbors(said.ids[7], 59)
    assert [hit for start in range(0, 59, 10) for hit in atlas.neighbors(said.ids[7], 10, offset=start)] == whole
    near = atlas.search_vector(said.clip[3], 30)
    assert atlas.search_vector(said.clip[3], 10, offset=20) == near[20:]
    words = atlas.search_text("red fox lamp", 20, mode="words")
    assert len(words) >= 3 and atlas.search_text("red fox lamp", 2, mode="words", offset=1) == words[1:3]
    assert atlas.search_vector(said.clip[3], 10, offset=60) == []
    for offset in (-1, 9_999, 1.5, True, None):
        with pytest.raises(QueryError, match="offset"):
            atlas.search_vector(said.clip[3], 10, offset=offset)  # type: ignore[arg-type]


def test_modes_are_named(atlas: Atlas) -> None:
    with pytest.raises(QueryError, match="clip \\(meaning\\), words"):
        atlas.search_text("fox", mode="bm25")  # type: ignore[arg-type]


def test_a_release_without_the_index_says_so(said: Built, tmp_path: Path) -> None:
    import shutil

    import lancedb

    shutil.copytree(said.storage.uri("lance"), tmp_path / "lance")
    table = lancedb.connect(str(tmp_path / "lance")).open_table("atlas")
    table.drop_index("caption_words")
    earlier = Atlas.open(tmp_path, tag=int(table.version))
    with pytest.raises(NotBuiltError, match=r"captions of this release .* are not indexed"):
        earlier.search_text("fox", mode="words")


def test_threads_may_share_a_client(atlas: Atlas, said: Built) -> None:
    wanted = {
        "words": [hit.id for hit in atlas.search_text("red fox", 10, mode="words")],
        "near": [hit.id for hit in atlas.neighbors(said.ids[7], 10, where="aesthetic >= 5.1")],
    }
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(15):
            words = [hit.id for hit in atlas.search_text("red fox", 10, mode="words")]
            near = [hit.id for hit in atlas.neighbors(said.ids[7], 10, where="aesthetic >= 5.1")]
            if {"words": words, "near": near} != wanted:
                wrong.append((words, near))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


# -- recall ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """600 rows whose vectors have an index, published."""
    from latent_assets_tests.atlas.built import build

    made = build(tmp_path_factory.mktemp("many") / "root", rows=600, shards=2, spaces=("clip",))
    table = made.profile.table.model_copy(update={"index_above_rows": 500})
    made = Built(made.profile.model_copy(update={"table": table}), *[getattr(made, n) for n in (
        "storage", "embeddings", "release", "clip", "ids")])  # fmt: skip
    one = stage(made.profile, made.storage, made.shards, made.release)
    publish(made.storage, one, check(made.profile, made.storage, one))
    yield made


def test_probes_know_the_true_answers(many: Built) -> None:
    table = open_table(many.storage.lance_uri, LIVE)
    probes = make_probes(table, {"clip": "cosine", "vae": "euclidean"}, seed=3)
    vectors = {
        name: np.array(table.to_arrow()[name].to_pylist(), np.float64) for name in ("clip", "vae")
    }  # fmt: skip
    for name, probe in probes.items():
        assert len(probe.vectors) == 64 and probe.own.sum() == 32
        for vector, own, farthest in zip(probe.vectors, probe.own, probe.farthest, strict=True):
            if probe.metric == "cosine":
                unit = vectors[name] / np.linalg.norm(vectors[name], axis=1, keepdims=True)
                true = np.sort(1 - unit @ (vector / np.linalg.norm(vector)))
            else:
                true = np.sort(((vectors[name] - vector) ** 2).sum(axis=1))
            assert farthest == pytest.approx(true[K - 1 + own], rel=1e-3, abs=1e-5)


def test_recall_counts_what_is_missed(many: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all lists nothing is missed; a search that gives the wrong rows is told."""
    table = open_table(many.storage.lance_uri, LIVE)
    (probe,) = make_probes(table, {"clip": "cosine"}).values()
    assert recall(table, "clip", probe, 100) >= 0.99
    from latent_assets.atlas import recall as room

    right = room.nearest

    class Far:
        """Answers from the far end."""

        def __init__(self, search: object, k: int) -> None:
            self._search, self._k = search, k

        def select(self, columns: list[str]) -> Far:
            return self

        def to_arrow(self) -> object:
            found = self._search.select(["_distance"]).to_arrow()  # type: ignore[attr-defined]
            return found.slice(len(found) - self._k // 2)

    def far(table: object, name: str, metric: str, vector: np.ndarray, k: int, lists: int) -> Far:
        return Far(right(table, name, metric, vector, 600, lists), k)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "nearest", far)
    assert recall(table, "clip", probe, 100) < 0.2


def test_a_release_that_is_searched_badly_is_not_published(many: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list of four is looked through, whatever the card says: the check measures it."""
    one = stage(many.profile, many.storage, many.shards, release(many.profile, many.storage, many.shards))
    found = {found.name: found for found in check(many.profile, many.storage, one)}
    assert found["search_recall"].passed and "clip" in found["search_recall"].found
    monkeypatch.setattr("latent_assets.atlas.checks.recall", lambda *_: 0.94)
    found = {found.name: found for found in check(many.profile, many.storage, one)}
    assert not found["search_recall"].passed and found["search_recall"].found == "clip 0.940, vae 0.940"


def test_a_lost_index_is_told(many: Built) -> None:
    one = stage(many.profile, many.storage, many.shards, release(many.profile, many.storage, many.shards))
    table = open_table(many.storage.lance_uri, None)
    for name in ("vae_idx", "caption_ngram"):
        table.drop_index(name)
    broken = Built(**{**many.__dict__})
    from dataclasses import replace

    found = {f.name: f for f in check(broken.profile, broken.storage, replace(one, version=int(table.version)))}
    assert not found["indexes"].passed and found["indexes"].found == "missing: caption_ngram, vae_idx"


def test_distances_are_lances() -> None:
    rng = np.random.default_rng(0)
    questions, stored = rng.standard_normal((3, 8), np.float32), rng.standard_normal((5, 8), np.float32)
    l2 = ((questions[:, None] - stored[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distances(questions, stored, "euclidean"), l2, rtol=1e-4)
    cosines = (questions @ stored.T) / np.linalg.norm(questions, axis=1)[:, None] / np.linalg.norm(stored, axis=1)
    np.testing.assert_allclose(distances(questions, stored, "cosine"), 1 - cosines, rtol=1e-4, atol=1e-6)
