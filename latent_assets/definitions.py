"""The code location. Assembly only: what the assets are is in `defs`, what they do is in the library."""

from typing import Any

import dagster as dg

from latent_assets.defs.atlas import atlas_assets
from latent_assets.defs.catalog import catalog_assets
from latent_assets.defs.embeddings import embedding_assets
from latent_assets.defs.images import image_assets
from latent_assets.defs.projection import projection_assets
from latent_assets.defs.sources import source_assets
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile, load_profile


def build_defs(profile: Profile | None = None, **overrides: Any) -> dg.Definitions:
    """Definitions for a profile (default: the selected one); `overrides` replace resources by name."""
    chosen = profile or load_profile()
    return dg.Definitions(
        assets=[
            *source_assets(chosen),
            *catalog_assets(chosen),
            *image_assets(chosen),
            *embedding_assets(chosen),
            *projection_assets(chosen),
            *atlas_assets(chosen),
        ],
        resources={"lineage": Lineage(chosen)} | overrides,
        # one process: models load once, and the shards of a run share them
        executor=dg.in_process_executor,
        metadata={"profile": chosen.name, "root": chosen.root},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The selected profile's definitions ($LATENT_ASSETS_PROFILE, else the demo)."""
    return build_defs()
