"""Exports, each read back by the tool that it is for; links and attribution are in every one."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent_assets.atlas.export.release import OpenedRelease, open_release
from latent_assets.atlas.export.tables import export_embedding_atlas, export_parquet
from latent_assets.atlas.export.tensorboard import export_tensorboard
from latent_assets.atlas.export.tiles3d import export_3d_tiles
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, QueryError, StorageError
from latent_assets_tests import embedding_atlas
from latent_assets_tests.atlas.built import Built, at, change_caption, published

ATTRIBUTION = "Pictures by nobody, CC0"
CAPTION = "a tab\there, a line\nbreak, \"quotes\", <b>, 'x' and 狐狸 \u2028 end"


@pytest.fixture(scope="module")
def atlas(template: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A published atlas with an attribution, a hostile caption, and an older release without it."""
    root = tmp_path_factory.mktemp("exported") / "root"
    shutil.copytree(template.storage.root, root)
    built = at(template, root)
    published(built)
    change_caption(built, 5, CAPTION)
    published(built, replace(built.release, attribution=ATTRIBUTION))
    return built


@pytest.fixture
def opened(atlas: Built) -> OpenedRelease:
    return open_release(atlas.storage, None)


def frame_of(atlas: Built) -> pl.DataFrame:
    return Atlas.open(atlas.storage.root).to_polars()


def test_parquet_has_every_column_of_every_row(atlas: Built, opened: OpenedRelease, tmp_path: Path) -> None:
    made = export_parquet(opened, tmp_path / "out")
    assert (made.rows, made.release, made.files) == (60, "release-00004", 2)
    assert made.bytes == sum(path.stat().st_size for path in made.folder.iterdir())
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert found.equals(frame_of(atlas)) and {"url", "source_url", "clip", "vae", "thumbnail"} <= set(found.columns)
    (one,) = duckdb.sql(f"SELECT caption FROM '{tmp_path}/out/*.parquet' WHERE id = '{atlas.ids[5]}'").fetchall()
    assert one == (CAPTION,)
    metadata = pl.read_parquet_metadata(tmp_path / "out" / "rows-00000.parquet")
    said = json.loads(metadata["latent_assets.export"])
    assert said["attribution"] == ATTRIBUTION and said["release"] == "release-00004"
    notes = (tmp_path / "out" / "README.md").read_text()
    assert ATTRIBUTION in notes and "60 of the 60 images of release-00004" in notes and "source_url" in notes


def test_parquet_is_written_in_files_of_bounded_size(
    atlas: Built, opened: OpenedRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_assets.atlas.export.tables._FILE_ROWS", 25)
    export_parquet(opened, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert [len(pl.read_parquet(file)) for file in files] == [40, 20]
    assert pl.read_parquet(files).equals(frame_of(atlas))


def test_another_release_and_another_folder_are_asked_for(atlas: Built, tmp_path: Path) -> None:
    earlier = open_release(atlas.storage, "release-00002")
    export_parquet(earlier, tmp_path / "out")
    captions = pl.read_parquet(tmp_path / "out" / "*.parquet")["caption"].to_list()
    assert CAPTION not in captions and ATTRIBUTION not in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(NotBuiltError, match=r"no release 9. There are: release-00004"):
        open_release(atlas.storage, "9")
    for export in (export_parquet, export_embedding_atlas, export_tensorboard, export_3d_tiles):
        with pytest.raises(StorageError, match="is not empty"):
            export(earlier, tmp_path / "out")
    with pytest.raises(QueryError, match="no map `nothing`"):
        export_3d_tiles(earlier, tmp_path / "new", "nothing")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_embedding_atlas_takes_it(atlas: Built, opened: OpenedRelease, tmp_path: Path) -> None:
    made = export_embedding_atlas(opened, tmp_path / "out")
    file = tmp_path / "out" / "atlas.parquet"
    assert made.rows == 60
    found = pl.read_parquet(file)
    whole = frame_of(atlas)
    assert found["source_url"].equals(whole["source_url"]) and found["caption"][5] == CAPTION
    assert found["image"].struct.field("bytes").equals(whole["thumbnail"].rename("bytes"))
    for space in ("clip", "vae", "joint"):
        turned = found.select(f"x_{space}", f"y_{space}", f"z_{space}").to_numpy().astype(np.float64)
        places = whole[f"xyz_{space}"].to_numpy().astype(np.float64)
        # a rotation: distances stay, and the first axis is the longest
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
        np.testing.assert_allclose(np.linalg.norm(turned[:, None] - turned[None], axis=-1), apart, atol=1e-3)
        assert turned.std(axis=0)[0] >= turned.std(axis=0)[1] >= turned.std(axis=0)[2]
    if not embedding_atlas.program().is_file():
        pytest.skip("Embedding Atlas is not installed: `python -m latent_assets_tests.embedding_atlas`")
    (shown,) = [line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if "--x" in line]
    _, *options = shown.split()
    command = [str(embedding_atlas.program()), *options, "--export-application", "site.zip"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path / "out", env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "out" / "site.zip") as site:
        props = json.dumps(json.loads(site.read("data/metadata.json")))
        assert "x_clip" in props and "y_clip" in props and "caption" in props
        taken = pl.read_parquet(io.BytesIO(site.read("data/dataset.parquet")))
    assert taken["x_clip"].equals(found["x_clip"]) and taken["url"].equals(found["url"])


@pytest.mark.slow
def test_tensorboard_shows_it(atlas: Built, opened: OpenedRelease, tmp_path: Path) -> None:
    """TensorBoard's own projector serves configuration, tensors, facts and the sheet of pictures."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client
    from werkzeug.wrappers import Request, Response

    folder = tmp_path / "out"
    assert export_tensorboard(opened, folder, limit=57).rows == 57
    plugin = ProjectorPlugin(TBContext(logdir=str(folder), multiplexer=EventMultiplexer()))
    routes = plugin.get_plugin_apps()

    def get(route: str, **asked: str) -> Response:
        app = Request.application(lambda request: routes[route])  # type: ignore[arg-type, return-value]
        answer = Client(app).get("/", query_string=asked)
        assert answer.status_code == 200, answer.data
        return answer

    assert get("/runs").json == ["."]
    config = get("/info", run=".").json
    assert config is not None
    shapes = {one["tensorName"]: one["tensorShape"] for one in config["embeddings"]}
    assert shapes == {"clip": [57, 32], "vae": [57, 16], **{f"map_{s}": [57, 3] for s in ("clip", "vae", "joint")}}
    rows = np.unique(np.linspace(0, 59, 57).astype(int)).tolist()
    whole = frame_of(atlas)[rows]
    for name, column in (("clip", "clip"), ("vae", "vae"), ("map_joint", "xyz_joint")):
        data = np.frombuffer(get("/tensor", run=".", name=name).data, np.float32).reshape(57, -1)
        np.testing.assert_allclose(data, whole[column].to_numpy(), rtol=1e-5, atol=1e-6)
    head, *lines = get("/metadata", run=".", name="clip").data.decode().splitlines()
    names = head.split("\t")
    facts = [dict(zip(names, line.split("\t"), strict=True)) for line in lines]
    assert [one["id"] for one in facts] == whole["id"].to_list()
    assert [one["source_url"] for one in facts] == [value or "" for value in whole["source_url"]]
    (odd,) = [one for one in facts if one["id"] == atlas.ids[5]]
    assert odd["caption"] == "a tab here, a line break, \"quotes\", <b>, 'x' and 狐狸   end"
    sheet = Image.open(io.BytesIO(get("/sprite_image", run=".", name="clip").data)).convert("RGB")
    assert sheet.size == (8 * 64, 8 * 64)
    for number in (0, 7, 56):
        colour = sheet.getpixel((number % 8 * 64 + 32, number // 8 * 64 + 32))
        row = rows[number]
        np.testing.assert_allclose(colour, (row * 37 % 256, row * 91 % 256, row * 53 % 256), atol=8)  # type: ignore[arg-type]


def test_the_command_writes_each_format(atlas: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latent_assets.cli import exporting
    from latent_assets.cli.app import app

    monkeypatch.setattr(exporting, "selected_profile", lambda _: atlas.profile)
    for number, (format, file) in enumerate(
        (("parquet", "rows-00000.parquet"), ("embedding-atlas", "atlas.parquet"), ("tensorboard", "clip.tsv"),
         ("3d-tiles", "clip/tileset.json"))
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["export", str(tmp_path / str(number)), "--format", format])
        assert done.exit_code == 0, done.output
        assert (tmp_path / str(number) / file).is_file() and "60 images of release-00004" in done.output
        assert ATTRIBUTION in (tmp_path / str(number) / "README.md").read_text()
    one = ["export", str(tmp_path / "one"), "--format", "3d-tiles", "--space", "vae", "--release", "2"]
    assert CliRunner().invoke(app, one).exit_code == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"vae", "README.md"}
    for wrong in (["--space", "clip", "--format", "parquet"], ["--limit", "5"], ["--format", "ply"]):
        assert CliRunner().invoke(app, ["export", str(tmp_path / "no"), *wrong]).exit_code != 0
    assert not (tmp_path / "no").exists()
