"""Asset keys and shard partitions of a profile. Both carry its name, so that one instance holds several atlases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import dagster as dg

from latent_assets.errors import DataError
from latent_assets.profile import Profile

SHARD_KEY = re.compile(r"^[0-9]{5,}\Z")


def asset_key(profile: Profile, name: str) -> dg.AssetKey:
    """The key of a stage, model or source: the profile's name, then its own."""
    return dg.AssetKey([profile.name, name])


def op_name(profile: Profile, name: str) -> str:
    """A name for an op, job, schedule or sensor: Dagster allows letters, digits and `_` only."""
    return f"{re.sub(r'[^A-Za-z0-9]', '_', profile.name)}__{name}"


def partitions_name(profile: Profile) -> str:
    """Name of the shard partitions of a profile in the instance."""
    return f"{profile.name}/shard"


def shard_partitions(profile: Profile) -> dg.DynamicPartitionsDefinition:
    """The shards of a profile. Keys come from its catalog; nothing else makes partitions."""
    return dg.DynamicPartitionsDefinition(name=partitions_name(profile))


def register(instance: dg.DagsterInstance, profile: Profile, keys: Sequence[str]) -> list[str]:
    """Add shard keys in sorted order, so that ranges are contiguous; return those that were new.

    Raises DataError for a key that is not a zero-padded number: a key becomes a file name.
    """
    for key in keys:
        if not SHARD_KEY.match(key):
            raise DataError(f"{key!r} is not a shard key: expected a zero-padded number such as 00012.")
    name = partitions_name(profile)
    known = set(instance.get_dynamic_partitions(name))
    new = sorted(set(keys) - known)
    for start in range(0, len(new), 1000):
        instance.add_dynamic_partitions(name, new[start : start + 1000])
    return new
