"""What an event of the catalog says of it: its columns, and shards that had to be written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latent_assets.catalog.schema import CATALOG_SCHEMA, NEVER_NULL
from latent_assets.catalog.shards import read_shard
from latent_assets.layout import catalog_name
from latent_assets.pipeline.lineage import Lineage, MakeOptions
from latent_assets.pipeline.makers.catalog import describe_metadata
from latent_assets.profile import Profile


def test_the_catalog_names_its_columns_and_what_it_mended(small_profile: Callable[..., Profile]) -> None:
    lineage = Lineage(small_profile())
    lineage.ensure(["laion_metadata"])
    facts = describe_metadata(lineage, lineage.manifest("laion_metadata"))
    columns = {name: (kind, nullable, meaning) for name, kind, nullable, meaning in facts["dagster/column_schema"]}
    assert list(columns) == list(CATALOG_SCHEMA) and all(meaning for _, _, meaning in columns.values())
    assert columns["id"][:2] == ("String", False) and columns["caption"][:2] == ("String", True)
    assert read_shard(lineage.storage, "00000").select(NEVER_NULL).null_count().row(0) == (0, 0, 0)
    assert "shards written again, damaged" not in facts

    shard = Path(lineage.storage.uri(catalog_name("00000")).removeprefix("file://"))
    shard.write_bytes(shard.read_bytes()[:-100])
    lineage.refresh()
    lineage.ensure(["laion_metadata"], options=MakeOptions(force=True))
    facts = describe_metadata(lineage, lineage.manifest("laion_metadata"))
    assert facts["shards written again, damaged"] == "00000"
