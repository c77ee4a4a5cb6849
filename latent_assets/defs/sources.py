"""What the atlas is made from but does not make: the list of images and the models, observed.

Their data version is what they are (files of the source, digest of the weights), so a change makes exactly
what depends on it stale.
"""

from collections.abc import Iterator
from typing import cast

import dagster as dg

from latent_assets.defs.materialization import OWNERS
from latent_assets.models.weights import ModelFiles
from latent_assets.pipeline.lineage import Lineage
from latent_assets.profile import Profile

_MODELS = {
    "clip_model": ("clip", {"pytorch", "openclip"}, "CLIP model: text and images to vectors of one space."),
    "vae_model": ("vae", {"pytorch", "diffusers"}, "Autoencoder whose latents are Stable Diffusion's space."),
    "diffusion_model": ("diffusion", {"pytorch", "diffusers"}, "Text-to-image pipeline that makes new images."),
}


def source_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """Observable sources of a profile: its list of images and the models it names."""
    return [_laion_source(), *(_model(name) for name in _MODELS if getattr(profile.models, _MODELS[name][0]))]


def source_names(profile: Profile) -> list[str]:
    """Asset names of `source_assets`."""
    return ["laion_source", *(name for name in _MODELS if getattr(profile.models, _MODELS[name][0]))]


def _laion_source() -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        "laion_source",
        description="The list of images as found: files of links with captions and scores, tars, or a folder.",
        group_name="sources",
        kinds={"parquet"},
        owners=OWNERS,
    )

    @dg.multi_observable_source_asset(specs=[spec], name="observe_laion_source")  # type: ignore[untyped-decorator]
    def observe_laion_source(lineage: dg.ResourceParam[Lineage]) -> Iterator[dg.ObserveResult]:
        lineage.refresh()
        source = lineage.source
        yield dg.ObserveResult(
            asset_key="laion_source",
            data_version=dg.DataVersion(source.version),
            metadata={"files": source.files, "bytes": source.bytes, "kind": lineage.profile.source.kind},
        )

    return cast(dg.AssetsDefinition, observe_laion_source)


def _model(name: str) -> dg.AssetsDefinition:
    section, kinds, description = _MODELS[name]
    spec = dg.AssetSpec(
        name,
        description=f"{description} The data version is the SHA-256 over its configuration and weights.",
        group_name="sources",
        kinds=kinds,
        owners=OWNERS,
    )

    @dg.multi_observable_source_asset(specs=[spec], name=f"observe_{name}")  # type: ignore[untyped-decorator]
    def observe(lineage: dg.ResourceParam[Lineage]) -> Iterator[dg.ObserveResult]:
        lineage.refresh()
        files: ModelFiles = getattr(lineage, f"{section}_files")
        yield dg.ObserveResult(
            asset_key=name,
            data_version=dg.DataVersion(files.digest),
            metadata={"model": files.name, "files": files.files, "bytes": files.bytes},
        )

    return cast(dg.AssetsDefinition, observe)
