"""What the atlas is made from but does not make: the list of images and the models, observed.

Their data version is what they are (files of the source, digest of the weights), so a change makes exactly
what depends on it stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import dagster as dg

from latent_assets.defs.metadata import OWNERS
from latent_assets.defs.partitions import asset_key, op_name
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.stages import Source


def source_assets(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Observable sources of a profile: its list of images and the models it names."""
    return [_observable(lineage, source) for source in lineage.sources.values()]


def _observable(lineage: Lineage, source: Source) -> dg.AssetsDefinition:
    key = asset_key(lineage.profile, source.name)
    spec = dg.AssetSpec(
        key,
        description=source.description,
        group_name=source.group,
        kinds=set(source.kinds),
        owners=OWNERS,
        metadata={"profile": lineage.profile.name},
    )

    @dg.multi_observable_source_asset(specs=[spec], name=op_name(lineage.profile, f"observe_{source.name}"))  # type: ignore[untyped-decorator]
    def observe() -> Iterator[dg.ObserveResult]:
        found = source.observe(lineage.profile, lineage.storage)
        yield dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(found.version), metadata=dict(found.facts))

    return cast(dg.AssetsDefinition, observe)
