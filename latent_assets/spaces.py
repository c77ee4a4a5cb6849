"""Embeddings and spaces as data: which vectors an image has, how they compare, and which maps they give.

Everything that depends on there being a `clip` or a `vae` asks these rows: assets, files, columns of the table, maps.
An extension of a profile adds rows with `register`; no other file needs to know. How a vector is made is the business
of the row's `load`, named as "module:function" so that nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Embedding:
    """One kind of vector that every image gets.

    name: column of the table, key of the profile's [models.NAME].
    stage, source: assets that hold the vectors and observe the model.
    settings: pydantic model of [models.NAME]. decides: its fields that decide a vector (weights count by their digest).
    files: settings -> models.weights.ModelFiles, the digest that is the model's data version.
    load: settings -> models.encoder.Encoder.
    check: settings -> None; raises ProfileError, without loading anything heavy, for values that cannot work.
    features: columns that can stand for the embedding on a map and in the table; with several, the one that keeps
        the neighbours of the column `whole` best (the first on a tie). whole: kept in a file of its own, may be large.
    metric: how two vectors compare. unit: vectors have length 1.
    meaning: the column of the table in words. shows: what nearness means, in words.
    """

    name: str
    stage: str
    source: str
    settings: str
    decides: tuple[str, ...]
    files: str
    load: str
    features: tuple[str, ...]
    whole: str | None
    metric: Metric
    unit: bool
    meaning: str
    shows: str
    model_description: str
    stage_description: str
    kinds: frozenset[str]
    revision: int = 1
    check: str | None = None


@dataclass(frozen=True)
class Space:
    """One map. Features of several embeddings are brought to the same scale and weighted before they are joined.

    weights: share of each embedding in the mean squared distance; None: `projection.joint_clip_weight` of the
        profile for the first of two, otherwise equal shares.
    shows: what nearness on this map means, in words.
    """

    name: str
    embeddings: tuple[str, ...]
    metric: Metric
    shows: str
    weights: tuple[float, ...] | None = None


_EMBEDDINGS: dict[str, Embedding] = {}
_SPACES: dict[str, Space] = {}


def register(embedding: Embedding | None = None, *spaces: Space) -> None:
    """Add an embedding and maps made from it. Registering equal rows again changes nothing.

    Raises ValueError for a name that is taken by something else, for a space of unknown embeddings or with
    weights for other than its parts, and for an embedding whose feature cannot be chosen.
    """
    if embedding is not None:
        if not embedding.features or (len(embedding.features) > 1 and embedding.whole is None):
            raise ValueError(f"`{embedding.name}`: a feature is missing, or several have no `whole` to compare with")
        _add(_EMBEDDINGS, embedding.name, embedding)
    for space in spaces:
        if unknown := [name for name in space.embeddings if name not in _EMBEDDINGS]:
            raise ValueError(f"space `{space.name}` is made from `{unknown[0]}`, which is no registered embedding")
        if space.weights is not None and len(space.weights) != len(space.embeddings):
            raise ValueError(f"space `{space.name}` has {len(space.weights)} weights for {len(space.embeddings)} parts")
        _add(_SPACES, space.name, space)


def _add(table: dict[str, Any], name: str, row: Any) -> None:
    if table.setdefault(name, row) != row:
        raise ValueError(f"`{name}` is registered already, with other values")


def embeddings() -> dict[str, Embedding]:
    """All registered embeddings by name, in the order of registration."""
    return dict(_EMBEDDINGS)


def spaces() -> dict[str, Space]:
    """All registered spaces by name, in the order of registration."""
    return dict(_SPACES)


def resolve(reference: str) -> Any:
    """The object that "module:name" names; imports the module."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


register(
    Embedding(
        name="vae",
        stage="vae_latents",
        source="vae_model",
        settings="latent_assets.profile:VaeModel",
        decides=("size", "feature_dim", "dtype"),
        files="latent_assets.models.weights:vae_files",
        load="latent_assets.models.vae:load_vae",
        features=("pooled", "random"),
        whole="latent",
        metric="euclidean",
        unit=False,
        meaning="map feature of the VAE latents; compare by L2",
        shows="colour and layout (VAE latents)",
        model_description="Autoencoder whose latents are Stable Diffusion's space.",
        stage_description="Latents of the autoencoder, whole (float16, the distribution's mean times the model's "
        "scaling factor), and the candidates for a map feature made from them.",
        kinds=frozenset({"pytorch", "diffusers"}),
        revision=2,
        check="latent_assets.models.weights:check_vae",
    )
)
register(
    Embedding(
        name="clip",
        stage="clip_embeddings",
        source="clip_model",
        settings="latent_assets.profile:ClipModel",
        decides=("dtype",),
        files="latent_assets.models.weights:clip_files",
        load="latent_assets.models.clip:load_clip",
        features=("vector",),
        whole=None,
        metric="cosine",
        unit=True,
        meaning="CLIP image vector, unit length; compare by cosine",
        shows="meaning (CLIP)",
        model_description="CLIP model: text and images to vectors of one space.",
        stage_description="CLIP vectors of the images (float16, unit length).",
        kinds=frozenset({"pytorch", "openclip"}),
        revision=2,
        check="latent_assets.models.weights:check_clip",
    ),
    Space("clip", ("clip",), "cosine", "meaning (CLIP)"),
    Space("vae", ("vae",), "euclidean", "colour and layout (VAE latents)"),
    Space("joint", ("clip", "vae"), "euclidean", "both"),
)
