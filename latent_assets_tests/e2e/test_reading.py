"""infra/docs/reading.md, run as it stands: Python, Node, DuckDB and polars give what the atlas holds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import lance
import lancedb
import numpy as np
import polars as pl
import pytest

from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Built, Gallery, drawing, profile_over
from latent_assets_tests.e2e.small_atlas import small_atlas
from latent_assets_tests.node_packages import node, packages

PAGE = Path(__file__).parents[2] / "infra" / "docs" / "reading.md"
pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    """The code of the page in one language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the page's atlas is the built one."""
    return place(built.profile, tmp_path, monkeypatch)


def place(profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / ".latent-assets").mkdir()
    (folder / ".latent-assets" / "demo").symlink_to(profile.root)
    monkeypatch.chdir(folder)
    return folder


def run_node(code: str, folder: Path) -> str:
    if not packages().is_dir():
        pytest.skip("npm's packages are not installed: `python -m latent_assets_tests.node_packages`")
    (folder / "node_modules").symlink_to(packages())
    (folder / "page.mjs").write_text(code, encoding="utf-8")
    done = subprocess.run([str(node()), "page.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cosines(frame: pl.DataFrame, column: str, row: int) -> np.ndarray:
    vectors = frame[column].to_numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors[row]


def test_python_duckdb_and_polars_run_as_they_stand(here: Path, built: Built) -> None:
    found: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, str(PAGE), "exec"), found)
    frame = Atlas.open(built.profile.root).to_polars()
    assert len(found["hits"]) == 5 and found["row"].id == found["hits"][0].id and found["row"].path is None
    assert len(found["words"]) == 5 == len(found["second_page"]) and {hit.measure for hit in found["words"]} == {"BM25"}
    assert len(found["alike"]) == 5 and found["frame"].height == frame.height == 60
    assert found["atlas"].version == Atlas.open(built.profile.root).version
    nearest = np.sort(cosines(frame, "clip", 0))[::-1][:5]
    np.testing.assert_allclose(found["scores"], nearest, atol=1e-3)
    np.testing.assert_allclose([score for _, score in found["nearest"]], nearest, atol=1e-3)
    assert found["nearest"][0][0] == frame["id"][0] and found["up_to_date"] is True
    assert found["by_category"] == [(None, 60, pytest.approx(6.6))] and found["copies"] == []
    assert found["large"].height == 60 and found["large"].columns[0] == "id"
    assert found["ledger"].height == 60 and found["lost"].is_empty() and found["reasons"]["count"].to_list() == [60]
    assert found["count"] == [(60,)] and found["length"] == [(pytest.approx(1.0, abs=1e-3),)]


def test_an_app_that_runs_learns_of_a_new_release(
    gallery: Gallery, small_models: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.write([f"{n:03}.png" for n in range(30)])
    profile = profile_over(gallery, {"clip": small_models["clip"]}, tmp_path, projection={"spaces": ["clip"]})
    code = next(code for code in blocks("python") if "def newest" in code)
    with small_atlas(profile) as building:
        building.build()
        found: dict[str, Any] = {"Atlas": Atlas, "atlas": Atlas.open(profile.root)}
        first = found["atlas"]
        exec(code, found)
        assert found["atlas"] is first, "nothing new"
        gallery.files |= {"099.png": drawing(99)}
        gallery.write([*(f"{n:03}.png" for n in range(30)), "099.png"])
        building.build()
        exec(code, found)
        assert (len(first), len(found["atlas"])) == (30, 31)
        assert len(Atlas.open(profile.root, tag=f"release-{first.version:05d}")) == 30, "the page's way to pin one"


def test_node_runs_as_it_stands(here: Path, built: Built) -> None:
    (code,) = blocks("js")
    printed = run_node(code, here).splitlines()
    frame = Atlas.open(built.profile.root).to_polars()
    vae = frame["vae"].to_numpy().astype(np.float64)
    distances = np.linalg.norm(vae - vae[0], axis=1)
    scores = dict(zip(frame["id"], cosines(frame, "clip", 0), strict=True))
    assert len(printed) == 16 and printed[0].split()[0] == printed[5].split()[0] == frame["id"][0]
    for line in printed[:5]:
        row_id, score, *_, url = line.split()
        assert float(score) == pytest.approx(scores[row_id], abs=1e-3) and url.endswith(".png")
    np.testing.assert_allclose(
        [float(line.split()[1]) for line in printed[:5]], sorted(scores.values())[::-1][:5], atol=1e-3
    )
    np.testing.assert_allclose([float(line.split()[1]) for line in printed[5:10]], np.sort(distances)[:5], atol=2e-3)
    atlas = Atlas.open(built.profile.root)
    where = "width >= 16 AND contains(caption, ' ')"
    words = atlas.search_text(frame["caption"][0], 5, mode="words", where=where)
    assert printed[10].split()[0] == words[0].id == frame["id"][0]
    scores = [float(line.split()[1]) for line in printed[10:15]]
    np.testing.assert_allclose(scores, [hit.score for hit in words], rtol=1e-5)
    tag, version, rows = printed[15].split()
    assert tag == f"release-{atlas.version:05d}" and (int(version), int(rows)) == (atlas.version, 60)


NAIVE = """
import * as lancedb from "@lancedb/lancedb";
const atlas = await (await lancedb.connect(".latent-assets/demo/lance")).openTable("atlas");
await atlas.checkout("live");
const [row] = await atlas.query().select(["id", "clip"]).limit(1).toArray();
const ways = {naive: Array.from(row.clip.toArray()), shown: [...row.clip]};
for (const [way, vector] of Object.entries(ways)) {
  const [hit] = await atlas.vectorSearch(vector).column("clip").distanceType("cosine").limit(1).toArray();
  console.log(JSON.stringify([way, hit.id === row.id, Math.max(...vector.map(Math.abs))]));
}
"""


@pytest.fixture(scope="module", params=["float32", "float16"])
def typed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]
) -> Iterator[Profile]:
    """A small atlas with vectors of either type."""
    from latent_assets_tests.conftest import serving_gallery

    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, serving_gallery(folder / "gallery") as gallery:
        patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
        patch.delenv("DAGSTER_HOME", raising=False)
        gallery.write([f"{n:03}.png" for n in range(30)])
        models = {"clip": small_models["clip"]}
        tables = {"projection": {"spaces": ["clip"]}, "table": {"vectors": request.param}}
        profile = profile_over(gallery, models, folder, **tables)
        with small_atlas(profile) as atlas:
            assert not any(result.failed for result in atlas.build().values())
        yield profile


def test_the_type_of_vectors_is_the_profiles_and_answers_are_the_same(typed: Profile) -> None:
    atlas = Atlas.open(typed.root)
    wanted = typed.table.vectors
    assert atlas.info.vectors == wanted
    table = lancedb.connect(f"{typed.root}/lance").open_table("atlas")
    assert str(table.schema.field("clip").type.value_type) == {"float32": "float", "float16": "halffloat"}[wanted]
    frame = atlas.to_polars(["id", "clip"])
    vectors = frame["clip"].to_numpy().astype(np.float32)
    assert np.array_equal(vectors, vectors.astype(np.float16).astype(np.float32)), "what the models computed"
    hits = atlas.neighbors(frame["id"][0], k=5)
    np.testing.assert_allclose([h.score for h in hits], np.sort(cosines(frame, "clip", 0))[::-1][1:6], atol=1e-3)
    assert len(atlas.search_text("a red circle", k=3)) == 3


def test_what_the_page_says_of_each_type_is_so(typed: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(typed, tmp_path, monkeypatch)
    wide = typed.table.vectors == "float32"
    said = [json.loads(line) for line in run_node(NAIVE, tmp_path).splitlines()]
    naive, shown = said
    assert shown[1] is True and shown[2] <= 1
    assert (naive[1], naive[2] <= 1) == (wide, wide), "the trap of 16 bits is what the page warns of"
    found: dict[str, Any] = {"duckdb": duckdb, "lance": lance}
    of_duckdb, of_half = (next(c for c in blocks("python") if mark in c) for mark in ("by_category", "facts ="))
    if wide:
        exec(of_duckdb, found)
        assert found["by_category"][0][1] == 30
    else:
        with pytest.raises(duckdb.NotImplementedException, match="Unsupported Internal Arrow Type e"):
            exec(of_duckdb, found)
        table = lance.dataset(f"{typed.root}/lance/atlas.lance")
        found["question"] = table.take([0], columns=["clip"])["clip"][0].as_py()
    exec(of_half, found)
    assert found["count"] == [(30,)] and found["length"] == [(pytest.approx(1.0, abs=1e-3),)]
