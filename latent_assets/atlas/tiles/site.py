"""A release as a static site: the viewer's files, the tiles, and what is said of each image, in files of 256 rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import open_table
from latent_assets.atlas.tiles.write import FORMAT
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.layout import SPRITES, TILES, TILES_INDEX, sprites_name
from latent_assets.progress import report
from latent_assets.storage import Storage

FACTS_ROWS = 256
_FACTS = ("id", "caption", "url", "source_url", "category", "width", "height", "shard")
_SCORES = ("aesthetic", "similarity", "punsafe", "pwatermark")


@dataclass(frozen=True)
class Site:
    """What was written."""

    folder: Path
    release: str
    files: int
    bytes: int


def export_site(storage: Storage, folder: Path, viewer: Path, release: str | None = None) -> Site:
    """Write a release (the newest with tiles, unless it is named) into `folder`; `viewer`: where the built viewer lies.

    Raises NotBuiltError when the viewer, the tiles or the release are not there, StorageError when `folder` is in use.
    """
    if not (viewer / "index.html").is_file():
        raise NotBuiltError(
            "The viewer was not built: run `make viewer` in the checkout, or install the package again."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is not empty: name a new folder, or empty it.")
    if not storage.exists(TILES_INDEX):
        raise NotBuiltError(f"{storage.root} has no tiles yet. Run `latent-assets build`.")
    listed = storage.read_json(TILES_INDEX)["releases"]
    chosen = next((one for one in listed if release in (None, one["release"])), None)
    if chosen is None:
        known = ", ".join(one["release"] for one in listed) or "none"
        raise NotBuiltError(f"There are no tiles of the release {release}. There are those of: {known}.")
    shutil.copytree(viewer, folder, dirs_exist_ok=True)
    (folder / TILES).mkdir()
    (folder / TILES_INDEX).write_text(json.dumps({"format": FORMAT, "releases": [chosen]}) + "\n", encoding="utf-8")
    about = storage.read_json(f"{TILES}/{chosen['release']}/tiles.json")
    names = [file.name for file in storage.files(f"{TILES}/{chosen['release']}")]
    names += sorted({sprites_name(shard["sprites"]) for shard in about["shards"]})
    (folder / SPRITES).mkdir()
    for number, name in enumerate(names):
        report("export", number, len(names), "files")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.local(name) as path:
            shutil.copyfile(path, target)
    _write_facts(storage, int(chosen["release"]), folder / TILES / chosen["release"] / "facts")
    written = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Site(folder, chosen["release"], len(written), sum(written))


def _write_facts(storage: Storage, version: int, folder: Path) -> None:
    """What the panel of an image shows, in the order of the rows: FACTS_ROWS to a file, a list of objects."""
    folder.mkdir()
    table = open_table(storage.lance_uri, version)
    spaces = [name.removeprefix(PLACE) for name in table.schema.names if name.startswith(PLACE)]
    present = [
        name for name in (*_FACTS, *_SCORES, *(f"{PLACE}{space}" for space in spaces)) if name in table.schema.names
    ]
    waiting: list[dict[str, object]] = []
    number = 0
    for batch in table.search().select(present).to_batches(FACTS_ROWS):
        for row in batch.to_pylist():
            scores = {name: row.pop(name) for name in _SCORES if name in row}
            places = {space: row.pop(f"{PLACE}{space}") for space in spaces}
            waiting.append(
                {
                    **row,
                    "positions": places,
                    "scores": {name: value for name, value in scores.items() if value is not None},
                }
            )
        while len(waiting) >= FACTS_ROWS:
            _write_page(folder, number, waiting[:FACTS_ROWS])
            waiting, number = waiting[FACTS_ROWS:], number + 1
    if waiting:
        _write_page(folder, number, waiting)


def _write_page(folder: Path, number: int, rows: list[dict[str, object]]) -> None:
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{number}.json").write_text(text + "\n", encoding="utf-8")
