"""Sources as they are found in the wild: schemas, formats, places, and files that are none."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from latent_assets.catalog.columns import recognise
from latent_assets.catalog.source import list_files, observe_source
from latent_assets.errors import SourceError
from latent_assets_tests.catalog.conftest import Collection, aesthetics

RELAION = {
    "url": "https://e.com/1.jpg", "caption": "c", "similarity": 0.3, "hash": 5, "punsafe": 0.1, "pwatermark": 0.2,
    "width": 640, "height": 480, "key": "1", "status": "success", "LICENSE": "?",
}  # fmt: skip
LAION2B_EN_AESTHETIC = {
    "URL": "https://e.com/1.jpg", "TEXT": "c", "WIDTH": 640, "HEIGHT": 480, "similarity": 0.3, "hash": 5,
    "punsafe": 0.1, "pwatermark": 0.2, "aesthetic": 5.5,
}  # fmt: skip
DATACOMP = {
    "uid": "ab", "url": "https://e.com/1.jpg", "text": "c", "original_width": 640, "original_height": 480,
    "clip_b32_similarity_score": 0.2, "clip_l14_similarity_score": 0.3, "sha256": "ff",
}  # fmt: skip
COYO = {
    "id": 1, "url": "https://e.com/1.jpg", "text": "c", "width": 640, "height": 480, "image_phash": "ff",
    "clip_similarity_vitb32": 0.2, "clip_similarity_vitl14": 0.3, "nsfw_score_opennsfw2": 0.1,
    "watermark_score": 0.2, "aesthetic_score_laion_v2": 5.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "row", "scores"),
    [
        ("laion-aesthetic", aesthetics(1, start=7).row(0, named=True), (6.85, 0.3007, 0.7, 0.4)),
        ("laion-aesthetic", LAION2B_EN_AESTHETIC, (5.5, 0.3, 0.1, 0.2)),
        ("laion", {k: v for k, v in LAION2B_EN_AESTHETIC.items() if k != "aesthetic"}, (None, 0.3, 0.1, 0.2)),
        ("relaion", RELAION, (None, 0.3, 0.1, 0.2)),
        ("datacomp", DATACOMP, (None, 0.3, None, None)),
        ("coyo", COYO, (5.5, 0.3, 0.1, 0.2)),
        ("any", {"image_url": "https://e.com/1.jpg", "alt": "c", "width": 640, "height": 480}, (None,) * 4),
    ],
)
def test_known_schemas(collection: Collection, schema: str, row: dict[str, Any], scores: tuple[float | None]) -> None:
    assert recognise(row) == schema
    collection.write("a.parquet", pl.DataFrame([row]))
    collection.build()
    got = collection.rows().row(0, named=True)
    found = (got["aesthetic"], got["similarity"], got["punsafe"], got["pwatermark"])
    assert [value and round(value, 4) for value in found] == list(scores)
    assert got["url"].startswith("https://") and got["caption"]
    assert (got["width"], got["height"]) == ((307, 207) if "AESTHETIC_SCORE" in row else (640, 480))


def test_schema_by_name_wins_over_recognition(collection: Collection) -> None:
    collection.source = {"schema_name": "relaion"}
    collection.write("a.parquet", pl.DataFrame([{**RELAION, "uid": "looks like datacomp"}]))
    collection.build()
    assert collection.rows()["punsafe"].item() == pytest.approx(0.1)


def test_own_mapping(collection: Collection) -> None:
    collection.source = {
        "columns": {"url": "Link", "caption": "Beschreibung", "category": "Klasse", "source_url": "page"}
    }
    collection.write(
        "a.csv",
        pl.DataFrame({"Link": ["https://e.com/1"], "Beschreibung": ["ü"], "Klasse": [3], "page": ["https://e.com"]}),
    )
    collection.build()
    row = collection.rows().row(0, named=True)
    assert (row["caption"], row["category"], row["source_url"]) == ("ü", "3", "https://e.com")


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64, pl.Int16, pl.Int64, pl.String])
def test_columns_are_cast(collection: Collection, dtype: type[pl.DataType]) -> None:
    frame = pl.DataFrame({"url": ["https://e.com/1"], "text": ["c"]}).with_columns(
        pl.Series("width", [640]).cast(dtype), pl.Series("punsafe", [1]).cast(dtype), pl.Series("hash", [5]).cast(dtype)
    )
    collection.write("a.parquet", frame)
    collection.build()
    row = collection.rows().row(0, named=True)
    assert (row["width"], row["punsafe"], row["source_hash"]) == (640, 1.0, 5)


def test_values_that_cannot_be_cast_are_null(collection: Collection) -> None:
    collection.write(
        "a.parquet",
        pl.DataFrame(
            {
                "url": [f"https://e.com/{n}" for n in range(4)], "text": ["c"] * 4,
                "width": ["640", " 320.0 ", "wide", None], "similarity": [float("nan"), float("inf"), 0.25, None],
            }
        ),
    )  # fmt: skip
    collection.build()
    rows = collection.rows().sort("url")
    assert rows["width"].to_list() == [640, 320, None, None]
    assert rows["similarity"].to_list() == [None, None, 0.25, None]


def test_files_of_different_case_and_type_together(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(5))
    lower = (
        aesthetics(5, start=5)
        .rename(str.lower)
        .with_columns(pl.col("width").cast(pl.String), pl.col("punsafe").cast(pl.Float64))
    )
    collection.write("deep/er/b.parquet", lower)
    report = collection.build()
    assert report.rows_kept == 10
    assert collection.rows()["width"].sort().to_list() == list(range(300, 310))


# -- formats and places --------------------------------------------------------------------------------


def test_formats_give_the_same_rows(collection: Collection, tmp_path: Path) -> None:
    rows = aesthetics(12).with_columns(pl.lit('commas, "quotes"\nlines').alias("TEXT"))
    collection.write("a.parquet", rows)
    expected = collection.build().version
    for name in ("a.csv", "a.jsonl", "a.tsv"):
        other = Collection(tmp_path / name)
        path = other.write(name, rows)
        assert other.build().version == expected, name
        packed = Collection(tmp_path / f"{name}.gz")
        (packed.folder / "source").mkdir(parents=True)
        (packed.folder / "source" / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        assert packed.build().version == expected, f"{name}.gz"


def test_format_can_be_said(collection: Collection) -> None:
    path = collection.write("links.csv", aesthetics(3))
    path.rename(path.with_name("links"))
    collection.source = {"path": str(path.with_name("links"))}
    with pytest.raises(SourceError, match=r"source\.format"):
        collection.build()
    collection.source["format"] = "csv"
    assert collection.build().rows_kept == 3


@pytest.mark.parametrize(
    "path", ["source", "source/a.parquet", "source/*.parquet", "source/**/*.parquet", "source/[ab].parquet"]
)
def test_file_directory_or_glob(collection: Collection, path: str) -> None:
    collection.write("a.parquet", aesthetics(4))
    collection.write("notes.txt.parquet.bak", aesthetics(1))
    collection.source = {"path": str(collection.folder / path)}
    assert collection.build().rows_kept == 4
    assert [file.name for file in list_files(collection.profile, collection.storage)] == ["a.parquet"]


def test_source_over_https_style_urls(collection: Collection) -> None:
    """The same reader as for https://, from a server on loopback."""
    collection.write("links.parquet", aesthetics(4))
    handler = partial(_Quiet, directory=str(collection.folder / "source"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        collection.source = {"path": f"http://127.0.0.1:{server.server_address[1]}/links.parquet"}
        assert collection.build().rows_kept == 4
        assert observe_source(collection.profile, collection.storage).files == 1
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as its own filesystem needs to list and read a data set of one file."""

    protocol_version = "HTTP/1.1"
    content = b""

    def do_GET(self) -> None:
        folder = {"type": "directory", "oid": "b" * 40, "size": 0, "path": "data"}
        file = {"type": "file", "oid": "a" * 40, "size": len(self.content), "path": "data/x.parquet"}
        path = self.path.partition("?")[0]
        answers: dict[str, Any] = {
            "/api/datasets/someone/links": {"id": "someone/links", "sha": "c" * 40, "siblings": [], "private": False},
            "/api/datasets/someone/links/tree/main": [folder],
            "/api/datasets/someone/links/tree/main/data": [file],
        }
        body = json.dumps(answers.get(path, {})).encode()
        if path == "/datasets/someone/links/resolve/main/data/x.parquet":
            body = self.content
        self.send_response(200 if path in answers or body is self.content else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


def test_source_on_a_hub(collection: Collection) -> None:
    """hf:// through huggingface_hub's own filesystem, from a hub on loopback (its address is read at import)."""
    path = collection.write("x.parquet", aesthetics(4))
    handler = type("Hub", (_Hub,), {"content": path.read_bytes()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = """
import sys
from pathlib import Path
from latent_assets.catalog.source import observe_source
from latent_assets_tests.catalog.conftest import Collection
collection = Collection(Path(sys.argv[1]), source={"path": "hf://datasets/someone/links/data/*.parquet"})
print(observe_source(collection.profile, collection.storage).files, collection.build().rows_kept)
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(collection.folder / "hub"),
    }
    command = [sys.executable, "-c", script, str(collection.folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.stdout.split() == ["1", "4"], done.stderr
    finally:
        server.shutdown()
        server.server_close()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "SourceError: `source.path` = hf://datasets/someone/links/data/*.parquet cannot be listed" in done.stderr


# -- what a source is now ------------------------------------------------------------------------------


def test_version_of_a_source(collection: Collection) -> None:
    path = collection.write("a.parquet", aesthetics(4))
    first = observe_source(collection.profile, collection.storage)
    assert (first.files, first.bytes) == (1, path.stat().st_size)
    assert observe_source(collection.profile, collection.storage) == first
    collection.write("b.parquet", aesthetics(4, start=4))
    second = observe_source(collection.profile, collection.storage)
    assert second.files == 2 and second.version != first.version
    (collection.folder / "source" / "b.parquet").unlink()
    assert observe_source(collection.profile, collection.storage).version == first.version
    collection.write("a.parquet", aesthetics(5))
    assert observe_source(collection.profile, collection.storage).version != first.version


# -- files that are none -------------------------------------------------------------------------------


def test_nothing_there(collection: Collection) -> None:
    with pytest.raises(SourceError, match=r"nothing at `source\.path` = .*source"):
        collection.build()


def test_no_rows(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(0))
    with pytest.raises(SourceError, match="has no rows"):
        collection.build()


def test_missing_url_column(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(2).rename({"URL": "where"}))
    with pytest.raises(SourceError) as caught:
        collection.build()
    message = str(caught.value)
    assert "a.parquet" in message and "where (String)" in message and "AESTHETIC_SCORE (Float32)" in message
    assert '[source.columns]\nurl = "' in message


@pytest.mark.parametrize("column", ["URL", "TEXT", "WIDTH"])
def test_wrong_type(collection: Collection, column: str) -> None:
    collection.write("a.parquet", aesthetics(2).with_columns(pl.lit([1, 2]).alias(column)))
    with pytest.raises(SourceError, match=rf"a\.parquet: its column `{column}` is of type List"):
        collection.build()


def test_mapping_to_nowhere(collection: Collection) -> None:
    collection.write("a.parquet", aesthetics(2))
    collection.source = {"columns": {"caption": "nope"}}
    with pytest.raises(SourceError, match=r"no column `nope`, which `caption` is mapped to"):
        collection.build()
    collection.source = {"columns": {"captoin": "TEXT"}}
    with pytest.raises(SourceError, match=r"`captoin`, which is not a column of the catalog"):
        collection.build()


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"not what it says", b"PAR1 but no more"])
def test_damaged_files(collection: Collection, name: str, content: bytes) -> None:
    path = collection.write("fine.parquet", aesthetics(2)).with_name(name)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        collection.build()


def test_half_a_parquet_file(collection: Collection) -> None:
    path = collection.write("a.parquet", aesthetics(2000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read"):
        collection.build()
    assert collection.storage.list("catalog") == []


def test_unknown_protocol(collection: Collection) -> None:
    collection.source = {"path": "gopher://example/x.parquet"}
    with pytest.raises(SourceError, match=r"gopher.*hf://"):
        collection.build()
