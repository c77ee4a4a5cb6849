"""The atlas table's schema: the one place where its columns are defined and described.

Columns of vectors and places come from the rows of `spaces`. The Arrow schema, the README's table and the client's
columns are all made from `table_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from latent_assets import spaces as registered

RELEASE_KEY = "latent_assets.release"
PLACE = "xyz_"
CLUSTER = "cluster_"
VECTORS = "float32"  # value type of vectors unless the profile says otherwise

_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "binary": pa.binary(),
}


@dataclass(frozen=True)
class Field:
    """One column. `type` names a type of `_TYPES`, or the value type of a vector whose length is `shape`.

    `shape`: "" for a scalar, "3", or the name of the embedding whose vector's length it is.
    `embedding`, `space`, `labels`: the column exists only when the atlas has that embedding, that space, labels.
    """

    name: str
    type: str
    description: str
    nullable: bool = False
    shape: str = ""
    embedding: str | None = None
    space: str | None = None
    labels: bool = False

    @property
    def type_text(self) -> str:
        """The type as a reader of the documentation sees it."""
        if not self.shape:
            return self.type
        return f"fixed_size_list<{self.type}>[{self.shape if self.shape.isdigit() else f'{self.shape} dims'}]"


_FACTS: tuple[Field, ...] = (
    Field("id", "string", "32 hexadecimal digits, stable over releases: made from the URL (or path) of the image"),
    Field("url", "string", "where the image was fetched from; of a file the link in its sidecar, else its path"),
    Field("path", "string", "the file below the folder, or tar::member::offset+size; null for links", nullable=True),
    Field("source_url", "string", "page the image stands on", nullable=True),
    Field("caption", "string", "text that came with the image", nullable=True),
    Field("category", "string", "label given by the source", nullable=True),
    Field(
        "aesthetic", "float32", "aesthetic score given by the source, about 1 to 10; predictors differ", nullable=True
    ),
    Field("similarity", "float32", "cosine of image and caption given by the source, -1 to 1", nullable=True),
    Field("punsafe", "float32", "probability of being unsafe given by the source, 0 to 1", nullable=True),
    Field("pwatermark", "float32", "probability of a watermark given by the source, 0 to 1", nullable=True),
    Field("source_hash", "int64", "the source's own hash of the row", nullable=True),
    Field("width", "int32", "width of the image as fetched, before any resizing, in pixels"),
    Field("height", "int32", "height of the image as fetched, before any resizing, in pixels"),
    Field("sha256", "string", "SHA-256 of the bytes as fetched, 64 hexadecimal digits"),
    Field("thumbnail", "binary", "WebP or JPEG file, at most 96 pixels wide and high"),
)
_SHARD = Field("shard", "string", "shard of the catalog the row belongs to")


def table_fields() -> tuple[Field, ...]:
    """All columns that an atlas can have: facts, a vector for each embedding, a place and a cluster for each space.

    Embeddings come in the order in which the spaces name them, then those that no space names.
    """
    embeddings, spaces = registered.embeddings(), registered.spaces()
    named = [name for space in spaces.values() for name in space.embeddings]
    vectors = [
        Field(name, VECTORS, embeddings[name].meaning, shape=name, embedding=name)
        for name in dict.fromkeys([*named, *embeddings])
    ]
    places = [
        Field(f"{PLACE}{name}", "float32", f"place on the map of {space.shows}, map units", shape="3", space=name)
        for name, space in spaces.items()
    ]
    clusters = [
        Field(
            f"{CLUSTER}{name}",
            "string",
            f"id of the finest cluster on the map of {space.shows} that the image is in (`labels`); null for none",
            nullable=True,
            space=name,
            labels=True,
        )
        for name, space in spaces.items()
    ]
    return (*_FACTS, *vectors, *places, _SHARD, *clusters)


def fields_of(
    dims: Mapping[str, int], spaces: Sequence[str], vectors: str = VECTORS, labels: bool = False
) -> tuple[Field, ...]:
    """The columns of an atlas with the embeddings of `dims` (name -> vector length) and `spaces`.

    `vectors`: "float32" or "float16", the value type of its vectors. `labels`: whether its maps have labels.
    """
    return tuple(
        replace(field, type=vectors) if field.embedding else field
        for field in table_fields()
        if (field.embedding is None or field.embedding in dims)
        and (field.space is None or field.space in spaces)
        and (labels or not field.labels)
    )


def arrow_type(field: Field, dims: Mapping[str, int]) -> pa.DataType:
    """Arrow type of a column; vectors are fixed-size lists."""
    if not field.shape:
        return _TYPES[field.type]
    return pa.list_(_TYPES[field.type], int(field.shape) if field.shape.isdigit() else dims[field.shape])


def arrow_schema(
    dims: Mapping[str, int], spaces: Sequence[str], release: str = "", vectors: str = VECTORS, labels: bool = False
) -> pa.Schema:
    """The table's schema. Each field carries its description; `release` (JSON) goes into the schema's metadata."""
    columns = [
        pa.field(field.name, arrow_type(field, dims), field.nullable, {"description": field.description})
        for field in fields_of(dims, spaces, vectors, labels)
    ]
    return pa.schema(columns, metadata={RELEASE_KEY: release} if release else None)


def schema_markdown() -> str:
    """The schema as a Markdown table, for the documentation."""
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for field in table_fields():
        present = ""
        if field.embedding or field.space:
            present = f" (with the {f'model `{field.embedding}`' if field.embedding else f'space `{field.space}`'})"
        null = "yes" if field.nullable else "no"
        lines.append(f"| `{field.name}` | `{field.type_text}` | {null} | {field.description}{present} |")
    return "\n".join(lines) + "\n"
