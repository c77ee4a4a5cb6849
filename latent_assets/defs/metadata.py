"""What an event says of an artefact: rows, figures, where it lies, its schema, small pictures."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import dagster as dg

from latent_assets.layout import picture_name
from latent_assets.pipeline.lineage import Lineage, Materialized
from latent_assets.pipeline.manifests import Manifest
from latent_assets.pipeline.stages import Columns
from latent_assets.profile import PICTURES_VARIABLE
from latent_assets.spaces import resolve

Metadata = dict[str, Any]

OWNERS = ["team:atlas"]
_INLINE = 20_000  # bytes of a picture that an event may hold


def event_metadata(lineage: Lineage, made: Materialized) -> Metadata:
    """Metadata of a materialization: what is in it and its pictures, then how it was made and how it is identified."""
    manifest = made.manifest
    stage = lineage.stages[manifest.stage]
    facts: Mapping[str, Any] = resolve(stage.describe)(lineage, manifest)
    parents = {
        name: f"{lineage.observed(name).facts.get('model', name)} {version}"
        for name, version in manifest.recipe.parents.items()
        if name in lineage.sources and name != "laion_source"
    }
    return {
        "dagster/row_count": manifest.rows,
        **{name: metadata_value(value) for name, value in facts.items()},
        **picture_metadata(lineage, f"{manifest.stage}/{manifest.key}", made.pictures),
        **({"files": _files(lineage, manifest)} if manifest.files else {}),
        "work": "unchanged, nothing done" if made.unchanged else "done",
        "seconds": manifest.seconds,
        **{f"model {name}": text for name, text in parents.items()},
        "fingerprint": manifest.fingerprint,
    }


def _files(lineage: Lineage, manifest: Manifest) -> Any:
    """The first file by path, or all of them by number and size."""
    if len(manifest.files) == 1:
        return dg.MetadataValue.path(lineage.storage.uri(next(iter(manifest.files))))
    return f"{len(manifest.files)} files, {sum(manifest.files.values()):,} bytes"


def metadata_value(value: Any) -> Any:
    """Plain values as Dagster shows them best: columns as a schema, lists of rows as tables."""
    if isinstance(value, Columns):
        return dg.TableSchema(
            [
                dg.TableColumn(name, kind, text, dg.TableColumnConstraints(nullable=nullable))
                for name, kind, nullable, text in value
            ]
        )
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        head, *rows = [[str(cell).replace("|", "\\|") for cell in row] for row in value]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        return dg.MetadataValue.md("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]))
    if isinstance(value, Mapping):
        return dg.MetadataValue.json(dict(value))
    return value


def picture_metadata(lineage: Lineage, folder: str, pictures: Mapping[str, bytes]) -> Metadata:
    """Pictures by name: stored in the root's `pictures`; in the event a preview of at most 20 kB, and where it lies."""
    return {name: _picture(lineage, folder, name, data) for name, data in pictures.items()}


def _picture(lineage: Lineage, folder: str, name: str, data: bytes) -> Any:
    kind = "webp" if data[:4] == b"RIFF" else "png"
    place = picture_name(folder, name, kind)
    lineage.storage.write_bytes(place, data)
    base = os.environ.get(PICTURES_VARIABLE)
    where = f"{base}/{lineage.profile.name}/{quote(place)}" if base else lineage.storage.uri(place)
    whole = f"[{name}, whole]({where})" if base else f"`{where}`"
    shown, kind = (data, kind) if len(data) <= _INLINE * 3 // 4 else (_preview(data), "webp")
    return dg.MetadataValue.md(f"![{name}](data:image/{kind};base64,{base64.b64encode(shown).decode()})\n\n{whole}")


def _preview(data: bytes) -> bytes:
    """The picture as WebP, smaller and smaller until it fits into an event."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    width = 640
    while True:
        small = image.copy()
        small.thumbnail((width, width))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=60)
        if len(buffer.getvalue()) <= _INLINE * 3 // 4 or width <= 80:
            return buffer.getvalue()
        width = width * 3 // 4
