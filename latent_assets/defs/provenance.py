"""What Dagster needs to know of a materialization to tell what is stale: versions of it and of all that went into it.

They come from the manifest, so that the UI and `status` say the same. Dagster's own record of a run over several
partitions would give all of them one version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg

from latent_assets.defs import tags
from latent_assets.defs.partitions import asset_key
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.manifests import Manifest


class Provenance:
    """Provenance of the materializations of one stage in one run: parents' events as they are when it begins."""

    def __init__(self, instance: dg.DagsterInstance, lineage: Lineage, stage: str) -> None:
        self._lineage, self._stage = lineage, lineage.stages[stage]
        self._events = {parent: _latest_event(instance, lineage, parent) for parent in self._stage.parents}

    def tags(self, manifest: Manifest) -> dict[str, str]:
        """Tags of the materialization of an artefact."""
        lineage, found = self._lineage, {}
        for parent in self._stage.parents:
            key = asset_key(lineage.profile, parent)
            found[tags.input_version(key)] = self._parent_version(parent, manifest)
            found[tags.input_event(key)] = str(self._events[parent] or tags.NO_EVENT)
        return {
            tags.CODE_VERSION: lineage.code_version(manifest.stage),
            tags.DATA_VERSION: manifest.version,
            tags.DATA_VERSION_IS_OURS: "true",
            **found,
        }

    def _parent_version(self, parent: str, manifest: Manifest) -> str:
        """The data version of a parent as the UI knows it."""
        above = self._lineage.stages.get(parent)
        if above is not None and above.slices and self._stage.sharded:
            # the recipe holds the shard's own part of it
            whole = self._lineage.manifests.get(parent)
            return whole.version if whole else tags.NOT_OBSERVED
        return manifest.recipe.parents[parent]


def _latest_event(instance: dg.DagsterInstance, lineage: Lineage, parent: str) -> int | None:
    key = asset_key(lineage.profile, parent)
    fetch = instance.fetch_observations if parent in lineage.sources else instance.fetch_materializations
    records = fetch(key, limit=1).records
    return records[0].storage_id if records else None


def _recorded_tags(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str | None]
) -> dict[str | None, dict[str, str]]:
    """Tags of the latest materialization of each partition (None: of an asset without partitions)."""
    if partitions == [None]:
        records = instance.fetch_materializations(key, limit=1).records
        event = records[0].asset_materialization if records else None
        return {None: dict(event.tags or {})} if event is not None else {}
    found: dict[str | None, dict[str, str]] = {}
    for some in _chunks([key for key in partitions if key is not None], 500):
        latest = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(some)
        )
        if not latest:
            continue
        ids = list(latest.values())
        filters = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids)
        for record in instance.fetch_materializations(filters, limit=len(ids)).records:
            event = record.asset_materialization
            if event is not None:
                found[event.partition] = dict(event.tags or {})
    return found


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def unrecorded(instance: dg.DagsterInstance, lineage: Lineage, stage: str, manifests: dict[str, Manifest]) -> list[str]:
    """Keys of artefacts that the instance does not know of as they are: a killed run made them, or another instance."""
    if not manifests:
        return []
    provenance, row = Provenance(instance, lineage, stage), lineage.stages[stage]
    key = asset_key(lineage.profile, stage)
    recorded = _recorded_tags(instance, key, list(manifests) if row.sharded else [None])
    pointers = {tags.input_event(asset_key(lineage.profile, parent)) for parent in row.parents}

    def is_recorded(manifest: Manifest) -> bool:
        before = recorded.get(manifest.key if row.sharded else None, {})
        wanted = provenance.tags(manifest).items()
        return all(before.get(name) == value for name, value in wanted if name not in pointers)

    return [key for key, manifest in manifests.items() if not is_recorded(manifest)]


def observe_sources(
    instance: dg.DagsterInstance, lineage: Lineage, names: Sequence[str]
) -> Iterator[dg.AssetObservation]:
    """Observations of sources and models whose version is not the one that the instance knows."""
    for name in names:
        key = asset_key(lineage.profile, name)
        found = lineage.observed(name)
        records = instance.fetch_observations(key, limit=1).records
        last = records[0].event_log_entry.asset_observation if records else None
        if last is None or (last.tags or {}).get(tags.DATA_VERSION) != found.version:
            yield observation(key, found.version, found.facts)


def observation(key: dg.AssetKey, version: str, facts: object) -> dg.AssetObservation:
    """The observation of a source's version."""
    assert isinstance(facts, dict)
    return dg.AssetObservation(
        asset_key=key,
        tags={tags.DATA_VERSION: version, tags.DATA_VERSION_IS_OURS: "true"},
        metadata=facts,
    )
