"""A release for TensorBoard's embedding projector: vectors and maps as tensors, facts, and a sheet of thumbnails.

projector_config.pbtxt      what there is (tensorboard/plugins/projector/projector_config.proto, text format)
EMBEDDING.tsv  map_SPACE.tsv    one row of values for each image
metadata.tsv                a header, one row of facts for each image
sprite.png                  thumbnails in the order of the rows, square
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from latent_assets.atlas.export.release import Exported, OpenedRelease, finish, new_folder
from latent_assets.progress import report

ROWS = 10_000  # what the projector shows with ease in a browser
_SHEET = 8_192  # pixels of a texture's edge that every browser takes
_LARGEST = 64  # pixels of a picture
_STEP = 1_000
_BREAKS = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


def export_tensorboard(release: OpenedRelease, folder: Path, limit: int | None = ROWS) -> Exported:
    """Files for `tensorboard --logdir FOLDER` of at most `limit` rows, evenly chosen.

    Raises StorageError when `folder` is in use.
    """
    rows = release.sample(limit)
    new_folder(folder)
    names: list[tuple[str, str, int]] = []
    for name in release.info.dims:
        names.append((name, f"{name}.tsv", _write_vectors(release, rows, name, folder / f"{name}.tsv")))
    for space in release.info.spaces:
        places = release.places(space, rows)
        np.savetxt(folder / f"map_{space}.tsv", places, fmt="%.6g", delimiter="\t")
        names.append((f"map_{space}", f"map_{space}.tsv", 3))
    _write_facts(release.frame(release.facts, rows), folder / "metadata.tsv")
    size = _write_sprite(release, rows, folder / "sprite.png")
    blocks = [_embedding(name, file, len(rows), width, size) for name, file, width in names]
    (folder / "projector_config.pbtxt").write_text("".join(blocks), encoding="utf-8")
    use = (
        "    pip install tensorboard\n    tensorboard --logdir .\n\nChoose the projector. The tensors `map_...` are "
        "the atlas's own maps (three values: choose PCA with all three components), the others the vectors they were "
        "made from."
    )
    return finish(release, folder, len(rows), use)


def _write_vectors(release: OpenedRelease, rows: np.ndarray, name: str, path: Path) -> int:
    width = 0
    with path.open("w", encoding="ascii") as file:
        for start in range(0, len(rows), _STEP):
            vectors = release.frame([name], rows[start : start + _STEP])[name].to_numpy()
            width = vectors.shape[1]
            np.savetxt(file, vectors.astype(np.float32), fmt="%.6g", delimiter="\t")
            report("export", start, len(rows), note=name)
    return width


def _write_facts(frame: pl.DataFrame, path: Path) -> None:
    """One line a row: what would part it is a space."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(frame.columns) + "\n")
        for values in frame.iter_rows():
            file.write("\t".join("" if value is None else _BREAKS.sub(" ", str(value)) for value in values) + "\n")


def _write_sprite(release: OpenedRelease, rows: np.ndarray, path: Path) -> int:
    """Thumbnails, each in the middle of a square; returns the square's edge in pixels."""
    across = max(1, math.ceil(math.sqrt(len(rows))))
    size = max(1, min(_LARGEST, _SHEET // across))
    sheet = Image.new("RGBA", (across * size, across * size))
    for start in range(0, len(rows), _STEP):
        frame = release.frame(["thumbnail"], rows[start : start + _STEP])
        for number, data in enumerate(frame["thumbnail"], start):
            picture = Image.open(io.BytesIO(data)).convert("RGBA")
            picture.thumbnail((size, size))
            left, top = number % across * size, number // across * size
            sheet.paste(picture, (left + (size - picture.width) // 2, top + (size - picture.height) // 2))
    sheet.save(path, optimize=False)
    return size


def _embedding(name: str, file: str, rows: int, width: int, size: int) -> str:
    return (
        "embeddings {\n"
        f"  tensor_name: {json.dumps(name)}\n  tensor_shape: {rows}\n  tensor_shape: {width}\n"
        f"  tensor_path: {json.dumps(file)}\n"
        '  metadata_path: "metadata.tsv"\n'
        '  sprite {\n    image_path: "sprite.png"\n'
        f"    single_image_dim: {size}\n    single_image_dim: {size}\n  }}\n}}\n"
    )
