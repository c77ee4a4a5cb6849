"""The names that Dagster gives to what it keeps in events and runs, and ours. Nothing else spells them out.

Dagster does not export them; `latent_assets_tests/defs/test_tags.py` fails when a version of Dagster changes one.
"""

from __future__ import annotations

import sys
from typing import Any

import dagster as dg

DATA_VERSION = "dagster/data_version"
DATA_VERSION_IS_OURS = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
NO_EVENT = "NULL"  # an input of which no event is known
NOT_OBSERVED = "INITIAL"  # the version of a source that was never observed

# On an output: the asset's events were yielded by the op itself. Dagster would write one for every partition of the
# run, with the same version and metadata in each, after the last is done.
EVENTS_ARE_WRITTEN: dict[str, Any] = {"__source_asset_observation__": True}

# What a check's evaluation says of the materialization that it looked at (run_id, storage_id, timestamp). Without it
# the UI does not know which partitions a check has passed.
CheckedMaterialization: Any = vars(sys.modules[dg.AssetCheckEvaluation.__module__])[
    "AssetCheckEvaluationTargetMaterializationData"
]

# ours, on runs
PROFILE = "latent_assets/profile"
PROFILE_HASH = "latent_assets/profile_hash"
PROCESS = "latent_assets/process"
INBOX = "latent_assets/inbox"  # digest of the work that a run of generated images was started for


def input_version(parent: dg.AssetKey) -> str:
    """Tag of the data version of a parent that went into a materialization."""
    return f"dagster/input_data_version/{parent.to_user_string()}"


def input_event(parent: dg.AssetKey) -> str:
    """Tag of the storage id of the parent's event that went into a materialization."""
    return f"dagster/input_event_pointer/{parent.to_user_string()}"
