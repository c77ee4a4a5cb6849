"""The table of placements: one row an image and release, replaced when the calibration is another."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pyarrow as pa

from latent_assets.generated.table import GeneratedTable
from latent_assets.layout import GENERATED_TABLE

BEFORE = pa.schema([("id", pa.string()), ("release", pa.int64()), ("verdict", pa.string())])
NOW = BEFORE.append(pa.field("calibration", pa.string()))


def row(name: str, verdict: str, calibration: str = "a") -> dict[str, object]:
    return {"id": name, "release": 1, "verdict": verdict, "calibration": calibration}


def verdicts(table: GeneratedTable) -> dict[str, str]:
    return {found["id"]: found["verdict"] for found in table.columns(["id", "verdict"])}


def test_a_placement_by_the_same_calibration_is_written_once(tmp_path: Path) -> None:
    table = GeneratedTable(str(tmp_path))
    assert table.add([row("x", "first"), row("y", "first")], NOW) == 2
    assert table.add([row("x", "second")], NOW) == 0
    assert table.add([row("x", "third", "b")], NOW) == 1
    assert verdicts(table) == {"x": "third", "y": "first"}
    assert table.placements() == {"x": {1: "b"}, "y": {1: "a"}}


def test_a_table_of_a_version_before_is_read_and_its_rows_are_replaced(tmp_path: Path) -> None:
    old = pa.Table.from_pylist([{"id": "x", "release": 1, "verdict": "old"}], BEFORE)
    lancedb.connect(str(tmp_path)).create_table(GENERATED_TABLE, old)
    table = GeneratedTable(str(tmp_path))
    assert table.placements() == {"x": {1: None}}
    assert table.add([row("x", "new"), row("y", "new")], NOW) == 2
    assert verdicts(table) == {"x": "new", "y": "new"}


def test_a_client_reads_the_placements_on_its_release(tmp_path: Path) -> None:
    from dataclasses import replace

    import pytest

    from latent_assets.client import Atlas, QueryError
    from latent_assets_tests.atlas.built import build, published

    built = build(tmp_path / "root", n_epochs=5, spaces=("clip",))
    first = published(built)
    published(replace(built, release=replace(built.release, title="another")))
    table, atlas = GeneratedTable(built.storage.lance_uri), Atlas.open(built.storage.root, tag=first.tag)
    assert atlas.generated().is_empty()
    table.add([{**row("x", "far"), "release": first.version}, {**row("y", "near"), "release": first.version + 2}], NOW)
    assert atlas.generated(["id", "verdict"]).rows() == [("x", "far")]
    assert Atlas.open(built.storage.root).generated().to_dicts() == [{**row("y", "near"), "release": first.version + 2}]
    with pytest.raises(QueryError, match="table of generated images has no column prompt"):
        atlas.generated(["prompt"])
