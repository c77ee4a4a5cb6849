"""The shard partitions. Keys come from the catalog; nothing else makes partitions."""

import re
from collections.abc import Sequence

import dagster as dg

from latent_assets.errors import DataError

SHARD_KEY = re.compile(r"^[0-9]{5,}\Z")

shards = dg.DynamicPartitionsDefinition(name="shard")


def register(instance: dg.DagsterInstance, keys: Sequence[str]) -> list[str]:
    """Add shard keys in sorted order, so that ranges are contiguous; return those that were new.

    Raises DataError for a key that is not a zero-padded number: a key becomes a file name.
    """
    for key in keys:
        if not SHARD_KEY.match(key):
            raise DataError(f"{key!r} is not a shard key: expected a zero-padded number such as 00012.")
    known = set(instance.get_dynamic_partitions("shard"))
    new = sorted(set(keys) - known)
    for start in range(0, len(new), 1000):
        instance.add_dynamic_partitions("shard", new[start : start + 1000])
    return new
