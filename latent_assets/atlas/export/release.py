"""What every export begins and ends with: the release that is meant, an empty folder, a page that says what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.history import find_release
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import LIVE, open_table, reading
from latent_assets.errors import QueryError, StorageError

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_BATCH_ROWS = 4_096
_THUMBNAIL = "thumbnail"
NOTES = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    release: str
    rows: int
    files: int
    bytes: int


@dataclass(frozen=True)
class OpenedRelease:
    """A release to be exported. `facts`: its columns with texts and numbers, in the order of the table."""

    table: Any
    info: ReleaseInfo
    tag: str
    uri: str
    rows: int

    @property
    def facts(self) -> list[str]:
        skipped = {_THUMBNAIL, *self.info.dims, *(f"{PLACE}{space}" for space in self.info.spaces)}
        return [name for name in self.table.schema.names if name not in skipped]

    def batches(self, columns: list[str], batch_rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Columns of all rows, in the order of the table."""
        with reading(self.uri, int(self.table.version)):
            yield from self.table.search().select(columns).limit(None).to_batches(batch_rows)

    def frame(self, columns: list[str], rows: np.ndarray | None = None) -> pl.DataFrame:
        """Columns of all rows, or of those at the positions `rows`, int64, ascending."""
        with reading(self.uri, int(self.table.version)):
            if rows is None:
                found = self.table.search().select(columns).limit(None).to_arrow()
            else:
                found = self.table.take_offsets(rows.tolist()).select(columns).to_arrow()
        frame = pl.from_arrow(found.select(columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def places(self, space: str, rows: np.ndarray | None = None) -> np.ndarray:
        """The places on a map: float32 [n, 3], map units."""
        column = f"{PLACE}{space}"
        return np.asarray(self.frame([column], rows)[column].to_numpy(), np.float32).reshape(-1, 3)

    def chosen_spaces(self, space: str | None) -> list[str]:
        """The maps that are meant: the named one, all without a name. Raises QueryError for another."""
        if space is None:
            return list(self.info.spaces)
        if space not in self.info.spaces:
            raise QueryError(f"The atlas has no map `{space}`. It has: {', '.join(self.info.spaces)}.")
        return [space]

    def sample(self, limit: int | None) -> np.ndarray:
        """Positions of at most `limit` rows, evenly chosen: int64, ascending."""
        if limit is not None and limit < 1:
            raise QueryError(f"limit = {limit}: give 1 row or more.")
        count = self.rows if limit is None else min(limit, self.rows)
        return np.unique(np.linspace(0, max(0, self.rows - 1), count).astype(np.int64))


def open_release(storage: Storage, name: str | None) -> OpenedRelease:
    """The release with a tag or number, `live` without. Raises NotBuiltError naming those that there are."""
    found = find_release(storage.lance_uri, name or LIVE)
    table = open_table(storage.lance_uri, found.version)
    return OpenedRelease(table, found.info, found.tag, storage.lance_uri, int(table.count_rows()))


def new_folder(folder: Path) -> None:
    """Make the folder, if it is not there. Raises StorageError when it is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is not empty: name a new folder, or empty it.")
    folder.mkdir(parents=True, exist_ok=True)


def finish(release: OpenedRelease, folder: Path, rows: int, use: str) -> Exported:
    """Write the page that says what lies here, and count. use: Markdown, how the tool reads it."""
    (folder / NOTES).write_text(_notes(release, rows, use), encoding="utf-8")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Exported(folder, release.tag, rows, len(sizes), sum(sizes))


def origin(release: OpenedRelease) -> Mapping[str, str]:
    """What identifies an export, for the metadata of files."""
    info = release.info
    return {
        "title": info.title,
        "attribution": info.attribution,
        "release": release.tag,
        "content": info.content,
        "published": info.created,
    }


def _notes(release: OpenedRelease, rows: int, use: str) -> str:
    info = release.info
    attribution = f"\n{info.attribution}\n" if info.attribution else ""
    return (
        f"# {info.title}\n{attribution}\n"
        f"{rows:,} of the {release.rows:,} images of {release.tag} (rows' hash {info.content or 'not known'}, made "
        f"{info.created[:19]} UTC).\n\n"
        "Every row says where its image came from: `url` is the image's own address (or its file), `source_url` the "
        "page it stands on. Rights in the images are those of their authors; what is shown here are links, small "
        "pictures and numbers computed from them. Nearness on a map is similarity, not authorship.\n\n"
        "Images are taken down on request. Whoever passes this export on has to take them out of it, too: a new "
        f"release of the atlas has none of them.\n\n{use.strip()}\n"
    )
