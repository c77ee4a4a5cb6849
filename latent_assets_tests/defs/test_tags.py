"""The names that Dagster gives to things are what `defs.tags` says: a version that changes one fails here."""

from dagster import AssetKey
from dagster._core.definitions import data_version
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.storage import tags as run_tags

from latent_assets.defs import tags

KEY = AssetKey(["demo", "shard_catalog"])


def test_tags_of_events_are_dagsters() -> None:
    assert tags.DATA_VERSION == data_version.DATA_VERSION_TAG
    assert tags.DATA_VERSION_IS_OURS == data_version.DATA_VERSION_IS_USER_PROVIDED_TAG
    assert tags.CODE_VERSION == data_version.CODE_VERSION_TAG
    assert tags.input_version(KEY) == data_version.get_input_data_version_tag(KEY)
    assert tags.input_event(KEY) == data_version.get_input_event_pointer_tag(KEY)
    assert tags.NO_EVENT == data_version.NULL_EVENT_POINTER
    assert data_version.DEFAULT_DATA_VERSION.value == tags.NOT_OBSERVED
    assert tags.EVENTS_ARE_WRITTEN == {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}


def test_tags_of_runs_are_dagsters() -> None:
    assert tags.RANGE_START == run_tags.ASSET_PARTITION_RANGE_START_TAG
    assert tags.RANGE_END == run_tags.ASSET_PARTITION_RANGE_END_TAG
