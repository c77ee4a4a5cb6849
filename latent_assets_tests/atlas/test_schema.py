"""The schema: one list of columns, from which Arrow's schema and the documentation are made."""

import pyarrow as pa
import pytest

from latent_assets import spaces
from latent_assets.atlas.schema import arrow_schema, schema_markdown, table_fields
from latent_assets.catalog.schema import CATALOG_SCHEMA

SPACES = ("clip", "vae", "joint")


def test_arrow_types_of_a_whole_atlas() -> None:
    schema = arrow_schema({"clip": 768, "vae": 256}, SPACES, labels=True)
    assert schema.names == [field.name for field in table_fields()]
    assert schema.field("clip").type == pa.list_(pa.float32(), 768)
    assert schema.field("vae").type == pa.list_(pa.float32(), 256)
    assert schema.field("xyz_joint").type == pa.list_(pa.float32(), 3)
    assert schema.field("source_hash").type == pa.int64()
    assert schema.field("thumbnail").type == pa.binary()
    nullable = {name for name in schema.names if schema.field(name).nullable}
    assert nullable == {"path", "source_url", "caption", "category", "source_hash"} | {
        "aesthetic", "similarity", "punsafe", "pwatermark", "cluster_clip", "cluster_vae", "cluster_joint",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "spaces", "absent"),
    [
        ({"clip": 8}, ("clip",), {"vae", "xyz_vae", "xyz_joint", "cluster_vae", "cluster_joint"}),
        ({"vae": 8}, ("vae",), {"clip", "xyz_clip", "xyz_joint", "cluster_clip", "cluster_joint"}),
        ({"clip": 8, "vae": 8}, ("clip",), {"xyz_vae", "xyz_joint", "cluster_vae", "cluster_joint"}),
    ],
)
def test_columns_of_absent_models_and_spaces_are_absent(
    dims: dict[str, int], spaces: tuple[str, ...], absent: set[str]
) -> None:
    assert {field.name for field in table_fields()} - set(arrow_schema(dims, spaces, labels=True).names) == absent


def test_a_registered_embedding_has_its_column_and_its_map(third: spaces.Embedding) -> None:
    names = [field.name for field in table_fields()]
    maps = ["clip", "vae", "joint", "hue"]
    assert names[-9:] == [*(f"xyz_{name}" for name in maps), "shard", *(f"cluster_{name}" for name in maps)]
    assert names[names.index("vae") + 1] == "hue"
    schema = arrow_schema({"clip": 8, "hue": 12}, ("clip", "hue"))
    assert schema.field("hue").type == pa.list_(pa.float32(), 12) and "xyz_vae" not in schema.names
    assert schema.field("hue").metadata[b"description"] == b"histogram of hues; compare by L2"
    assert schema.field("xyz_hue").metadata[b"description"] == b"place on the map of colours alone, map units"
    assert "| `hue` | `fixed_size_list<float32>[hue dims]` | no |" in schema_markdown()


def test_a_release_with_labels_has_the_cluster_of_each_row() -> None:
    names = arrow_schema({"clip": 8}, ("clip", "joint"), labels=True).names
    assert names[-2:] == ["cluster_clip", "cluster_joint"]
    assert arrow_schema({"clip": 8}, ("clip", "joint")).names == names[:-2]


def test_each_column_carries_its_description() -> None:
    for field in arrow_schema({"clip": 8, "vae": 8}, SPACES):
        assert len(field.metadata[b"description"]) > 10


def test_every_catalog_column_that_means_something_to_a_reader_is_there() -> None:
    # the catalog's own width and height are the source's claim; the table has the measured ones
    inner = {"url_count"}
    assert set(CATALOG_SCHEMA) - inner <= {field.name for field in table_fields()}


def test_markdown_has_one_line_for_each_column() -> None:
    lines = schema_markdown().splitlines()
    assert lines[0] == "| column | type | null | meaning |"
    assert len(lines) == 2 + len(table_fields())
    for field, line in zip(table_fields(), lines[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == f"`{field.name}`" and len(cells) == 4
        assert cells[2] == ("yes" if field.nullable else "no") and cells[3].startswith(field.description)
    assert "`fixed_size_list<float32>[clip dims]`" in schema_markdown()
