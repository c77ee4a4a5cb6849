"""Power cuts: what is published is on the disk before readers see it; what lost files opens again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lancedb.table import Tags

from latent_assets.atlas.recovery import problem_of, recover
from latent_assets.atlas.table import LIVE, table_uri, tags
from latent_assets.errors import LatentAssetsError
from latent_assets_tests.atlas.built import Built, at, live, published
from latent_assets_tests.power import Disk, disk, loop_disk

__all__ = ["disk"]


def table(built: Built) -> Path:
    return Path(table_uri(built.storage.lance_uri))


def test_everything_is_flushed_before_a_tag_moves_and_after(
    built: Built, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def watched(move: Callable[..., None]) -> Callable[..., None]:
        def call(self: Tags, tag: str, version: int) -> None:
            unsafe = [name for name in disk.lost(table(built)) if not name.startswith("_refs")]
            assert unsafe == [], f"{tag} names what a power cut would take"
            moved.append(tag)
            move(self, tag, version)

        return call

    for name in ("create", "update"):
        monkeypatch.setattr(Tags, name, watched(getattr(Tags, name)))
    published(built)
    published(built)
    assert moved == ["release-00002", LIVE, "release-00004", LIVE]
    assert disk.cut(table(built)) == []
    assert live(built).count_rows() == 60


def test_a_disk_that_is_not_flushed_is_told(built: Built, disk: Disk) -> None:
    """The recorder itself: what is written behind its back is not safe, nor is a name that its folder did not have."""
    folder = Path(built.storage.root) / "new"
    built.storage.write_bytes("new/a", b"a")
    assert disk.lost(folder) == ["a"], "its name is not on the disk"
    built.storage.flush(["new/a"])
    assert disk.lost(folder) == []
    (folder / "b").write_bytes(b"b")
    os.truncate(folder / "a", 0)
    assert disk.lost(folder) == ["a", "b"]
    built.storage.flush(["new"])
    assert disk.cut(folder) == []


def test_a_real_power_cut_takes_nothing_of_a_release(template: Built, tmp_path: Path) -> None:
    with loop_disk(tmp_path) as (disk, cut):
        shutil.copytree(template.storage.root, disk / "root")
        built = at(template, disk / "root")
        published(built)
        published(built)
        (disk / "unflushed").write_bytes(b"x" * 100_000)
        cut()
        assert not (disk / "unflushed").exists() or (disk / "unflushed").stat().st_size == 0, "the power was cut"
        assert tags(built.storage.lance_uri) == {"release-00002": 2, "release-00004": 4, LIVE: 4}
        assert problem_of(built.storage, 4) == "" and recover(built.storage) == ""
        assert live(built).search().limit(None).to_arrow().num_rows == 60


def _newest(folder: Path) -> Path:
    """The manifest of the newest version: its number is counted down."""
    return min((folder / "_versions").glob("*.manifest"))


_LOST: dict[str, tuple[Callable[[Path], list[Path]], int | None]] = {
    "newest version": (lambda folder: [_newest(folder)], 2),
    "live": (lambda folder: [folder / "_refs/tags/live.json"], 4),
    "newest release": (lambda folder: [folder / "_refs/tags/release-00004.json"], 4),
    "live and newest release": (lambda folder: [*(folder / "_refs/tags").glob("*[!2].json")], 2),
    "hint": (lambda folder: list((folder / "_versions").glob("*.json")), 4),
    "older version": (lambda folder: [max((folder / "_versions").glob("*.manifest"))], 4),
    "transactions": (lambda folder: list((folder / "_transactions").iterdir()), 4),
    "data of the newest": (lambda folder: [_rewritten(folder)], 2),
    "all data": (lambda folder: list((folder / "data").iterdir()), None),
    "all versions": (lambda folder: list((folder / "_versions").iterdir()), None),
    "all": (lambda folder: [path for path in folder.rglob("*") if path.is_file()], None),
}  # fmt: skip


def _rewritten(folder: Path) -> Path:
    return max((folder / "data").iterdir(), key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.parametrize("how", ["emptied", "gone"])
@pytest.mark.parametrize("what", _LOST)
def test_lost_files(built: Built, what: str, how: str) -> None:
    """Readers get the newest release that is whole; the next build publishes one as ever."""
    from latent_assets_tests.atlas.built import change_caption

    published(built)
    change_caption(built, 3, "another caption")
    published(built)
    chosen, version = _LOST[what]
    for file in chosen(table(built)):
        os.truncate(file, 0) if how == "emptied" else file.unlink()
    said = recover(built.storage)
    assert said.count(".") <= 1 and "\n" not in said
    if version is None:
        assert "made anew" in said or (what, how) == ("all", "gone"), "which is no table any more"
    else:
        assert live(built).version == version
        assert live(built).search().limit(None).to_arrow().num_rows == 60
        assert problem_of(built.storage, version) == ""
    assert recover(built.storage) in ("", said), "once is enough"
    made = published(built)
    assert live(built).version == made.version and live(built).search().limit(None).to_arrow().num_rows == 60
    assert problem_of(built.storage, made.version) == "" and recover(built.storage) == ""
    named = tags(built.storage.lance_uri)
    assert named[LIVE] == named[made.tag] == made.version


def test_what_has_content_is_never_removed(built: Built) -> None:
    """A version of a library to come may write what this one cannot read: that is no damage."""
    published(built)
    newest = _newest(table(built))
    data = newest.read_bytes()
    newest.write_bytes(b"\xff" * 100 + data[-16:])
    before = {path: path.stat().st_size for path in table(built).rglob("*")}
    recover(built.storage)
    assert {path: path.stat().st_size for path in table(built).rglob("*")} == before
    assert problem_of(built.storage, 2) != ""


def test_a_tag_that_lies_in_pieces(built: Built) -> None:
    published(built)
    for text in ("{", "[]", json.dumps({"version": "x"}), json.dumps({"branch": None})):
        (table(built) / "_refs/tags/live.json").write_text(text)
        with pytest.raises(LatentAssetsError):
            _open(built)
        assert "whole" not in problem_of(built.storage, 2) != ""
        assert "version 2" in recover(built.storage)
        assert live(built).version == 2


def _open(built: Built) -> Any:
    return live(built)
