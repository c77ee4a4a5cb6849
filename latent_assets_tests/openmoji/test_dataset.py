"""The demo's data set: names, categories, pictures, metadata."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from latent_assets.openmoji import dataset


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return dataset.emoji_table()


def caption_of(table: pl.DataFrame, char: str) -> str:
    return str(table.filter(pl.col("char") == char)["caption"].item())


def test_every_picture_is_captioned_or_counted(table: pl.DataFrame) -> None:
    pictures = {path.stem for path in Path(table["svg_path"][0]).parent.glob("*.svg")}
    assert len(pictures) == 4495 and table.height == 3953
    unnamed = pictures - set(table["hexcode"])
    assert len(unnamed) == 542, "those that the package `emoji` has no name for"
    assert dict(table.schema) == dataset.TABLE_SCHEMA
    assert table.null_count().sum_horizontal().item() == 0
    assert table["hexcode"].is_sorted() and table["hexcode"].is_unique().all()


def test_captions_read_like_words(table: pl.DataFrame) -> None:
    assert table["caption"].is_unique().all()
    assert not [caption for caption in table["caption"] if re.search(r"[_:]|  |^[ ,]|[ ,]$", caption)]
    assert caption_of(table, "🇫🇷") == "flag of France"
    assert caption_of(table, "👨🏿‍🍳") == "man cook, dark skin tone"
    assert caption_of(table, "❤️") == "red heart"
    assert dataset.base_caption("man cook, dark skin tone") == "man cook"


def test_every_category_is_one_of_unicode(table: pl.DataFrame) -> None:
    assert set(table["category"]) == {
        *("Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places"),
        *("Activities", "Objects", "Symbols", "Flags", "Component"),
    }
    categories = dict(table.select("caption", "category").iter_rows())
    assert categories["men wrestling, light skin tone, dark skin tone"] == "People & Body"
    assert categories["ballet dancer, medium skin tone"] == "People & Body"
    assert categories["orca"] == categories["dog face"] == "Animals & Nature"
    assert all(category == "Flags" for name, category in categories.items() if name.startswith("flag of "))


def test_each_points_to_its_page(table: pl.DataFrame) -> None:
    row = table.filter(pl.col("hexcode") == "1F600").to_dicts()[0]
    assert row["source_url"] == "https://openmoji.org/library/emoji-1F600/"
    assert Path(row["svg_path"]).is_file()


def test_render_is_opaque_on_white() -> None:
    image = Image.open(io.BytesIO(dataset.render_png("1F34E", 96))).convert("RGBA")
    pixels = np.asarray(image)
    assert image.size == (96, 96)
    assert (pixels[..., 3] == 255).all()
    assert (pixels[0, 0, :3] == 255).all()
    assert pixels[48, 48, 0] > pixels[48, 48, 2] + 60, "an apple's middle is red"


@pytest.mark.parametrize("code", ["nope", "../1F34E", "FFFFF", ""])
def test_an_unknown_code_is_named(code: str) -> None:
    with pytest.raises(KeyError, match=re.escape(repr(code))):
        dataset.render_png(code)


def test_render_all_continues_and_then_does_nothing(
    tmp_path: Path, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "emoji_table", lambda: table.head(30))
    seen: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.render_all(tmp_path, 32, progress=interrupt)
    assert not list(tmp_path.glob(".*")), "no half-written files"
    finished = len(list(tmp_path.glob("*.png")))
    assert finished >= 11
    assert dataset.render_all(tmp_path, 32) == 30 - finished
    assert dataset.render_all(tmp_path, 32) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == set(table.head(30)["hexcode"])


def test_metadata_has_laions_columns_and_invents_nothing(tmp_path: Path, table: pl.DataFrame) -> None:
    path = tmp_path / "metadata.parquet"
    assert dataset.write_metadata(path, "http://127.0.0.1:8737/openmoji/") == 3953
    written = pl.read_parquet(path)
    assert dict(written.schema) == {
        **{"URL": pl.String, "TEXT": pl.String, "WIDTH": pl.Float64, "HEIGHT": pl.Float64},
        **{"similarity": pl.Float64, "hash": pl.Int64, "punsafe": pl.Float32, "pwatermark": pl.Float32},
        **{"AESTHETIC_SCORE": pl.Float32, "__index_level_0__": pl.Int64},
        **{"source_url": pl.String, "category": pl.String},
    }
    scores = written.select("similarity", "punsafe", "pwatermark", "AESTHETIC_SCORE")
    assert scores.null_count().row(0) == (3953,) * 4
    assert written["URL"][0] == f"http://127.0.0.1:8737/openmoji/{table['hexcode'][0]}.png"
    assert written["TEXT"].to_list() == table["caption"].to_list()
    assert written["hash"].is_unique().all()
    first = path.read_bytes()
    dataset.write_metadata(path, "http://127.0.0.1:8737/openmoji")
    assert path.read_bytes() == first


def test_importing_the_data_set_and_server_loads_no_torch() -> None:
    code = "import sys, latent_assets.openmoji.dataset, latent_assets.openmoji.server; "
    code += "print([name for name in ('torch', 'diffusers', 'dagster') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
