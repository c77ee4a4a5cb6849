"""What a release says of itself: kept in the table's schema metadata, so that the table's address is enough.

Written when a release is staged; read by clients, the viewer and `info`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_assets.atlas.schema import RELEASE_KEY
from latent_assets.errors import DataError, NotBuiltError

if TYPE_CHECKING:
    import pyarrow as pa

    from latent_assets.profile import ClipModel, Profile
    from latent_assets.storage import Storage

FORMAT = 1


@dataclass(frozen=True)
class ModelInfo:
    """A model of the release: its name, the digest of its files, its table of the profile.

    Paths in `spec` that lie in an installed package are written `package:NAME/PATH`, so that another machine
    finds its own copy; the digest tells whether it is the same.
    """

    name: str
    digest: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class ReleaseInfo:
    """One release. `dims`: vector length per model; `rows` per shard are in `shards`; `created`: ISO 8601, UTC.

    `quality`: per space trustworthiness, continuity, recall at 15 and triplet accuracy of the fit.
    `vae_recall`: per candidate map feature, the share of true neighbours it keeps; `vae_feature` is the chosen one.
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
    models: dict[str, ModelInfo]
    umap: dict[str, Any]
    backend: str
    device: str
    quality: dict[str, dict[str, Any]]
    vae_feature: str | None
    vae_recall: dict[str, float] | None
    format: int = FORMAT

    @property
    def clip_model(self) -> ClipModel | None:
        """The CLIP model that made the vectors, as `models.clip.load_clip` takes it."""
        from latent_assets.profile import ClipModel, resolve_path

        info = self.models.get("clip")
        if info is None:
            return None
        paths = {key: resolve_path(value) for key, value in info.spec.items() if _is_package_path(value)}
        return ClipModel.model_validate({**info.spec, **paths})

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> ReleaseInfo:
        """Read what `to_json` wrote; keys of later versions are ignored. Raises DataError for anything else."""
        try:
            values = json.loads(text)
            known = {field.name for field in fields(cls)}
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


def describe_release(
    profile: Profile,
    storage: Storage,
    shards: Sequence[str],
    projection: str,
    fingerprint: str,
    models: Mapping[str, ModelInfo],
) -> ReleaseInfo:
    """Gather what a release of `shards` says of itself; rows are counted in the shards' coordinates.

    `projection` is the fingerprint of the fitted maps, `fingerprint` that of the release as a whole. Raises
    NotBuiltError or StorageError when the maps or a shard's coordinates are not there.
    """
    from latent_assets.projection.model import read_header
    from latent_assets.projection.shard import coords_name

    header = read_header(storage, projection)
    fit = header["report"]
    counted = {shard: _rows(storage, coords_name(projection, shard)) for shard in sorted(shards)}
    return ReleaseInfo(
        profile=profile.name,
        title=profile.title or profile.name,
        attribution=profile.attribution,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint,
        projection=projection,
        rows=sum(counted.values()),
        shards=counted,
        spaces=tuple(recipe["space"] for recipe in header["recipes"]),
        dims=header["dims"],
        models={name: replace(model, spec=portable(model.spec)) for name, model in models.items()},
        umap=header["settings"],
        backend=fit["backend"],
        device=fit["device"],
        quality={name: space["quality"] for name, space in fit["spaces"].items()},
        vae_feature=header["features"].get("vae"),
        vae_recall=fit["features"]["vae"]["recall"] if "vae" in fit["features"] else None,
    )


def _rows(storage: Storage, name: str) -> int:
    import polars as pl

    with storage.open(name) as file:
        return int(pl.scan_parquet(file).select(pl.len()).collect().item())


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
