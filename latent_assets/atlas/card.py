"""What a release says of itself: kept in the table's schema metadata, so that the table's address is enough.

Written when a release is staged; read by clients, the viewer and `info`. Cards of earlier formats are read as if
they were written today.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_assets import spaces as registered
from latent_assets.atlas.rows import placed_rows, read_maps
from latent_assets.atlas.schema import RELEASE_KEY, arrow_schema
from latent_assets.atlas.table import LISTS
from latent_assets.errors import DataError, ModelError, NotBuiltError, QueryError
from latent_assets.models.fit import notice, unfit
from latent_assets.processes import host_name

if TYPE_CHECKING:
    import pyarrow as pa

    from latent_assets.models.encoder import Encoder
    from latent_assets.models.text_tower import TextEncoder
    from latent_assets.profile import Fetch, Profile
    from latent_assets.storage import Storage

FORMAT = 2
USER_VARIABLE = "LATENT_ASSETS_USER"
_PACKAGES = (
    *("latent-assets", "torch", "open_clip_torch", "diffusers", "transformers", "umap-learn", "cuml-cu13", "numpy"),
    *("pillow", "simplejpeg", "opencv-python-headless", "lancedb", "pylance", "pyarrow", "polars", "dagster"),
)
# where files of the package lay when cards of the first format were written, and where they lie now
_MOVED = ("package:latent_assets/demo/models/", "package:latent_assets/openmoji/models/")


@dataclass(frozen=True)
class ModelInfo:
    """A model of the release: its name, the digest of its files, its table of the profile.

    Paths in `spec` that lie in an installed package are written `package:NAME/PATH`, so that another machine
    finds its own copy; the digest tells whether it is the same. `arithmetic`: `dtype` and `device` that all vectors of
    the release were made with, and the `agreement` of that format with float32 where it was measured (`Agreement`);
    empty in cards that do not say.
    """

    name: str
    digest: str
    spec: dict[str, Any]
    arithmetic: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReleaseInfo:
    """One release. `rows` per shard are in `shards`; `created`: ISO 8601, UTC.

    `dims`, `metrics`: per embedding the length of its vectors and how they compare ("cosine" or "euclidean").
    `features`: per embedding the feature that stands for it in the table and on the maps. `feature_recall`: where
    there was a choice, per candidate the share of true neighbours it keeps.
    `vectors`: value type of the vectors in the table, "float32" or "float16" (cards that do not say it are of the
    second kind).
    `images`: how the images were stored whose vectors these are (keys of [fetch]); empty in cards that do not say.
    `quality`: per space the figures of the fitted rows (`projection.quality.MapQuality`); `placed_quality`: of rows
    that were placed among them. `continues`: the release whose maps these are a later state of, "" for first ones;
    `floor`: per space how far two such fits lie from each other by chance (`projection.drift.Drift`).
    `search`: per embedding how its vectors are searched: `index` (its kind, "" for comparing with every row), `lists`
    (how many there are), `probes` (how many of them are searched at least) and `recall` (the share of the ten nearest
    that is found so, measured when it was published); {} where every search is exact.
    `content`: hash over the rows, equal for equal rows whatever files they lie in (see `content`); "" in cards that do
    not say. `labels`: fingerprint of the labels of its maps, "" where there are none. `packages`: versions of what
    made it, Python's among them. `made_by`: user and machine. `settings`: the profile, without its root and its
    models, which are in `models`. `unfit`: per embedding why its model does not know images like these; empty where
    all do.
    """

    profile: str
    title: str
    attribution: str
    created: str
    fingerprint: str
    projection: str
    rows: int
    shards: dict[str, int]
    spaces: tuple[str, ...]
    dims: dict[str, int]
    metrics: dict[str, str]
    models: dict[str, ModelInfo]
    umap: dict[str, Any]
    backend: str
    device: str
    quality: dict[str, dict[str, Any]]
    features: dict[str, str]
    feature_recall: dict[str, dict[str, float]]
    format: int = FORMAT
    images: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    made_by: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    vectors: str = "float16"
    search: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: str = ""
    placed_quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    continues: str = ""
    floor: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)

    def probes(self, embedding: str) -> int:
        """How many lists of the index of an embedding a search has to look through."""
        return int(self.search.get(embedding, {}).get("probes", LISTS))

    def arrow_schema(self, described: bool = False) -> pa.Schema:
        """The schema of the release's table; `described` with this card in its metadata."""
        card = self.to_json() if described else ""
        return arrow_schema(self.dims, self.spaces, card, self.vectors, bool(self.labels))

    def model_settings(self, embedding: str) -> Any:
        """The settings of the model that made the vectors of `embedding`, as its row's `load` takes them.

        Raises KeyError when the release has no such model, or no extension registered the embedding here.
        """
        from latent_assets.profile import resolve_path

        spec = self.models[embedding].spec
        settings = registered.resolve(registered.embeddings()[embedding].settings)
        paths = {key: resolve_path(value) for key, value in spec.items() if _is_package_path(value)}
        return settings.model_validate({**spec, **paths})

    @property
    def notice(self) -> str:
        """What whoever searches has to know of the models; "" for nothing."""
        return notice(self.unfit)

    @property
    def how_stored(self) -> Fetch:
        """How the images of the release were stored; cards of earlier releases do not say it."""
        from latent_assets.profile import Fetch

        return Fetch.model_validate(self.images or {"resize": "none", "format": "png"})

    def load_encoder(self, embedding: str) -> Encoder:
        """The model that made the vectors of an embedding, loaded.

        Raises QueryError when the release has no such model, or no extension registered the embedding here; ModelError
        when the model is not on this machine or its weights are others.
        """
        settings = self._checked_settings(embedding)
        encoder: Encoder = registered.resolve(registered.embeddings()[embedding].load)(settings)
        return encoder

    def load_text_encoder(self) -> TextEncoder:
        """What makes vectors of texts that compare with the vectors of `clip`; raises as `load_encoder`."""
        from latent_assets.models.text_tower import load_text_encoder

        return load_text_encoder(self._checked_settings("clip"))

    def _checked_settings(self, embedding: str) -> Any:
        """The settings of the model of an embedding, if it is on this machine as it was; raises as `load_encoder`."""
        kind = {"clip": "CLIP", "vae": "VAE"}.get(embedding, embedding)
        recorded, row = self.models.get(embedding), registered.embeddings().get(embedding)
        if recorded is None:
            raise QueryError(f"The atlas {self.profile} has no {kind} model: it can be searched by `neighbors` only.")
        if row is None:
            raise QueryError(
                f"`{embedding}` is not known here: import the extension that registers it, then ask again."
            )
        settings = self.model_settings(embedding)
        found = registered.resolve(row.files)(settings)
        if found.digest != recorded.digest:
            raise ModelError(
                f"The {kind} model {recorded.name} on this machine has the digest {found.digest}, the atlas was made "
                f"with {recorded.digest}: their vectors do not compare. Install the weights of the atlas, or build it "
                "again."
            )
        return settings

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> ReleaseInfo:
        """Read what `to_json` wrote, now or in an earlier format; keys of later versions are ignored.

        Raises DataError for anything else.
        """
        try:
            values = json.loads(text)
            if values.get("format") == 1:
                values = _from_first_format(values)
            known = {each.name for each in fields(cls)}
            values = {key: value for key, value in values.items() if key in known}
            values["models"] = {name: ModelInfo(**model) for name, model in values["models"].items()}
            values["spaces"] = tuple(values["spaces"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"The table's release information cannot be read ({error}): publish it again.") from error

    @classmethod
    def of_schema(cls, schema: pa.Schema, where: str) -> ReleaseInfo:
        """Read from a table's schema. Raises NotBuiltError when the table at `where` is not an atlas."""
        found = (schema.metadata or {}).get(RELEASE_KEY.encode())
        if found is None:
            raise NotBuiltError(f"{where} is a Lance table, but not an atlas: it carries no release information.")
        return cls.from_json(found)


def _from_first_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """A card of the first format, which knew CLIP and VAE only and the models' folder by its old name."""
    feature, recall = values["vae_feature"], values["vae_recall"]
    dims = values["dims"]
    models = {
        name: {**model, "spec": {key: _moved(value) for key, value in model["spec"].items()}}
        for name, model in values["models"].items()
    }
    return {
        **values,
        "models": models,
        "metrics": {name: {"clip": "cosine", "vae": "euclidean"}[name] for name in dims},
        "features": {name: "vector" if name == "clip" else feature for name in dims},
        "feature_recall": {"vae": recall} if recall else {},
    }


def _moved(value: Any) -> Any:
    return value.replace(*_MOVED, 1) if isinstance(value, str) and value.startswith(_MOVED[0]) else value


def describe_release(
    profile: Profile,
    storage: Storage,
    shards: Sequence[str],
    projection: str,
    fingerprint: str,
    models: Mapping[str, ModelInfo],
    labels: str = "",
) -> ReleaseInfo:
    """Gather what a release of `shards` says of itself; rows are counted in the shards' coordinates.

    `projection` is the fingerprint of the fitted maps, `labels` that of their labels, `fingerprint` that of the release
    as a whole. Raises NotBuiltError or StorageError when the maps or a shard's coordinates are not there.
    """
    from latent_assets.profile import HOW_STORED

    maps = read_maps(storage, projection)
    counted = {shard: placed_rows(storage, projection, shard) for shard in sorted(shards)}
    embeddings = registered.embeddings()
    return ReleaseInfo(
        profile=profile.name,
        title=profile.title or profile.name,
        attribution=profile.attribution,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint,
        projection=projection,
        rows=sum(counted.values()),
        shards=counted,
        spaces=maps.spaces,
        dims=maps.dims,
        metrics={name: embeddings[name].metric for name in maps.dims},
        models={name: replace(model, spec=portable(model.spec)) for name, model in models.items()},
        umap=maps.settings,
        backend=maps.backend,
        device=maps.device,
        quality=maps.quality,
        placed_quality=maps.placed_quality,
        continues=maps.continues,
        floor=maps.floor,
        features=maps.features,
        feature_recall=maps.feature_recall,
        images=profile.fetch.model_dump(mode="json", include=set(HOW_STORED)),
        packages=package_versions(),
        made_by=who(),
        settings=profile.model_dump(mode="json", exclude={"root", "models"}),
        vectors=profile.table.vectors,
        labels=labels,
        unfit=unfit(profile),
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what is in a release, and of Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def who() -> str:
    """Whoever works here: $LATENT_ASSETS_USER, else the user's name and this machine's."""
    if named := os.environ.get(USER_VARIABLE):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{host_name()}"


def portable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with absolute paths inside importable packages written as `package:NAME/PATH`."""
    return {key: _portable(value) if isinstance(value, str) else value for key, value in spec.items()}


def _portable(value: str) -> str:
    path = Path(value)
    if not path.is_absolute():
        return value
    for folder in path.parents:
        spec = find_spec(folder.name) if folder.name.isidentifier() and (folder / "__init__.py").is_file() else None
        if spec and str(folder) in (spec.submodule_search_locations or ()):
            return f"package:{folder.name}/{path.relative_to(folder).as_posix()}"
    return value


def _is_package_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("package:")
