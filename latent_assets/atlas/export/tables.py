"""A release as Parquet: all of its columns, or those that Embedding Atlas shows (apple.github.io/embedding-atlas).

parquet             rows-00000.parquet, ...: every column of the table, vectors too
embedding-atlas     atlas.parquet: facts, thumbnails, and two axes of every map
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latent_assets.atlas.export.release import Exported, OpenedRelease, finish, new_folder, origin
from latent_assets.atlas.schema import PLACE
from latent_assets.progress import report

_FILE_ROWS = 262_144
_META = b"latent_assets.export"
_EMBEDDING_ATLAS = "atlas.parquet"


def export_parquet(release: OpenedRelease, folder: Path) -> Exported:
    """Every row and column in Parquet files of 262,144 rows; their metadata say the release and its attribution.

    Raises StorageError when `folder` is in use.
    """
    new_folder(folder)
    schema = release.table.schema
    schema = schema.with_metadata({**(schema.metadata or {}), _META: json.dumps(dict(origin(release))).encode()})
    writer: pq.ParquetWriter | None = None
    done = within = number = 0
    for batch in release.batches(schema.names):
        if writer is None or within >= _FILE_ROWS:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(folder / f"rows-{number:05d}.parquet", schema, compression="zstd")
            number, within = number + 1, 0
        writer.write_batch(batch.select(schema.names).replace_schema_metadata(schema.metadata))
        done, within = done + batch.num_rows, within + batch.num_rows
        report("export", done, release.rows)
    if writer is None:  # a release without rows is a file without rows
        writer = pq.ParquetWriter(folder / "rows-00000.parquet", schema, compression="zstd")
    writer.close()
    use = (
        "Read it with polars (`pl.scan_parquet('rows-*.parquet')`), DuckDB or pandas. The columns and their meaning "
        "are those of the table: each field's metadata carry a description."
    )
    return finish(release, folder, done, use)


def export_embedding_atlas(release: OpenedRelease, folder: Path, space: str | None = None) -> Exported:
    """One Parquet file for Embedding Atlas: facts, `image` (as Hugging Face writes images), and axes of the maps.

    Its maps are flat: `x_SPACE` and `y_SPACE` are the two directions in which a map reaches farthest, `z_SPACE` the
    third. Raises QueryError for a space the release has not, StorageError when `folder` is in use.
    """
    spaces = release.chosen_spaces(space)
    new_folder(folder)
    views = {name: _View(release.places(name)) for name in spaces}
    facts = [release.table.schema.field(name) for name in release.facts]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    axes = [pa.field(f"{axis}_{name}", pa.float32()) for name in spaces for axis in "xyz"]
    schema = pa.schema([*facts, pa.field("image", image), *axes])
    schema = schema.with_metadata({_META: json.dumps(dict(origin(release))).encode()})
    done = 0
    with pq.ParquetWriter(folder / _EMBEDDING_ATLAS, schema, compression="zstd") as writer:
        for batch in release.batches([*release.facts, "thumbnail", *(f"{PLACE}{name}" for name in spaces)]):
            pictures = pa.StructArray.from_arrays([batch.column("thumbnail"), batch.column("id")], fields=list(image))
            columns = [batch.column(name) for name in release.facts]
            placed = [values for name, view in views.items() for values in view.columns(batch.column(f"{PLACE}{name}"))]
            writer.write_batch(pa.record_batch([*columns, pictures, *placed], schema=schema))
            done += batch.num_rows
            report("export", done, release.rows)
    first = spaces[0]
    use = (
        "    pip install embedding-atlas\n"
        f"    embedding-atlas {_EMBEDDING_ATLAS} --text caption --image image --x x_{first} --y y_{first} "
        "--disable-projection\n\n"
        f"Maps in it: {', '.join(f'`x_{name}`, `y_{name}`' for name in spaces)}: each seen along the direction in "
        "which it reaches least."
    )
    return finish(release, folder, done, use)


class _View:
    """A map seen from where most of it is seen: turned onto its principal axes, in map units."""

    def __init__(self, places: np.ndarray) -> None:
        """places: float32 [n, 3]."""
        wide = places.astype(np.float64)
        self._middle = wide.mean(axis=0) if len(wide) else np.zeros(3)
        _, axes = np.linalg.eigh(np.cov((wide - self._middle).T) if len(wide) > 1 else np.eye(3))
        axes = axes[:, ::-1]
        # the same map gives the same view: eigenvectors have no sign of their own
        self._axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])

    def columns(self, places: pa.Array) -> Iterator[pa.Array]:
        values = places.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3).astype(np.float64)
        turned = ((values - self._middle) @ self._axes).astype(np.float32)
        yield from (pa.array(np.ascontiguousarray(turned[:, axis])) for axis in range(3))
