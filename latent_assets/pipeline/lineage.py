"""What the atlas is made of, stage by stage, and what is there, missing or stale.

The fingerprint of every artefact is decided here, from the manifests of what it is made of; `ensure` makes
an artefact only when its fingerprint changed. How a stage works is its room's business, and nothing here
knows Dagster: assets, `build` and `status` all ask this module.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from latent_assets.errors import DataError, LatentAssetsError, NotBuiltError, SourceError
from latent_assets.models.device import device_kind
from latent_assets.profile import Profile
from latent_assets.storage import Failure, Manifest, Storage, fingerprint

if TYPE_CHECKING:
    from latent_assets.embeddings.store import ShardEmbeddings

WHOLE = "all"  # key of a stage that is not cut into shards

# Raise a stage's number when its code changes what it writes for the same input.
CODE_REVISION = {
    "laion_metadata": 2,
    "shard_catalog": 1,
    "image_shards": 2,
    "clip_embeddings": 1,
    "vae_latents": 1,
    "embedding_manifest": 1,
    "umap_model": 1,
    "umap_projection": 1,
    "atlas_table": 1,
}


@dataclass(frozen=True)
class Stage:
    """One asset: its name, whether it is cut into shards, and what it is made from."""

    name: str
    sharded: bool
    parents: tuple[str, ...]


class State(StrEnum):
    """Where an artefact stands. WAITING: something it is made from is not current."""

    CURRENT = "current"
    MISSING = "missing"
    STALE = "stale"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True)
class Standing:
    """State of one artefact, and why."""

    stage: str
    key: str
    state: State
    why: str = ""
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Produced:
    """What a stage made: the data version others depend on, its rows, and details for the manifest.

    `problems` are failed checks of things that must not travel (name of the check -> what was found): with any,
    the artefact is not committed.
    """

    version: str
    rows: int
    details: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    report: Any = None


@dataclass(frozen=True)
class Made:
    """Result of `ensure`: the manifest, and whether work was done for it."""

    manifest: Manifest
    unchanged: bool
    report: Any = None


class Lineage:
    """The lineage of one profile on one root."""

    def __init__(self, profile: Profile, storage: Storage | None = None) -> None:
        self.profile = profile
        self.storage = storage or Storage(profile.root)
        # failures of this process; a full disk has no room for the notes of them
        self._failures: dict[str, dict[str, Failure]] = defaultdict(dict)
        self._snapshot: dict[str, dict[str, Manifest]] | None = None
        self._known_current: dict[tuple[str, str], bool] = {}

    # -- stages --------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages in build order. Embeddings of models that the profile lacks are left out."""
        embeddings = [
            Stage(name, True, ("image_shards",))
            for name, model in (("vae_latents", self.profile.models.vae), ("clip_embeddings", self.profile.models.clip))
            if model is not None
        ]
        names = tuple(stage.name for stage in embeddings)
        ordered = [
            Stage("laion_metadata", False, ()),
            Stage("shard_catalog", True, ("laion_metadata",)),
            Stage("image_shards", True, ("shard_catalog",)),
            *embeddings,
            Stage("embedding_manifest", False, names),
            Stage("umap_model", False, ("embedding_manifest",)),
            Stage("umap_projection", True, ("umap_model", *names)),
            Stage("atlas_table", False, ("shard_catalog", "image_shards", *names, "umap_projection")),
        ]
        return {stage.name: stage for stage in ordered}

    def shards(self) -> list[str]:
        """Keys of all shards, sorted; [] before the catalog was built."""
        manifest = self._manifest("laion_metadata", WHOLE)
        return sorted(manifest.details["shards"]) if manifest else []

    def keys(self, stage: str) -> list[str]:
        """The artefacts of a stage: its shards, or the one whole."""
        return self.shards() if self.stages[stage].sharded else [WHOLE]

    # -- sources -------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> Any:
        """The observed version of the list of images (catalog.source.SourceVersion)."""
        from latent_assets.catalog.source import observe_source

        return observe_source(self.profile, self.storage)

    @cached_property
    def clip_files(self) -> Any:
        """Weights of the CLIP model (models.weights.ModelFiles)."""
        from latent_assets.models.weights import clip_files

        assert self.profile.models.clip is not None
        return clip_files(self.profile.models.clip)

    @cached_property
    def vae_files(self) -> Any:
        """Weights of the VAE (models.weights.ModelFiles)."""
        from latent_assets.models.weights import vae_files

        assert self.profile.models.vae is not None
        return vae_files(self.profile.models.vae)

    @cached_property
    def diffusion_files(self) -> Any:
        """Weights of the text-to-image pipeline (models.weights.ModelFiles)."""
        from latent_assets.models.weights import diffusion_files

        assert self.profile.models.diffusion is not None
        return diffusion_files(self.profile.models.diffusion)

    def refresh(self) -> None:
        """Look at sources and models anew on the next question: they may have changed."""
        for name in ("source", "clip_files", "vae_files", "diffusion_files", "clip_fingerprint", "vae_fingerprint"):
            self.__dict__.pop(name, None)

    @cached_property
    def clip_fingerprint(self) -> str:
        """Decides a CLIP vector, apart from the image: weights, preprocessing, number format, device kind, code."""
        spec = self.profile.models.clip
        assert spec is not None
        return fingerprint(
            "clip", CODE_REVISION["clip_embeddings"], self.clip_files.digest, _number_format(spec.dtype, "float16")
        )

    @cached_property
    def vae_fingerprint(self) -> str:
        """Decides a VAE latent and its features, apart from the image."""
        spec = self.profile.models.vae
        assert spec is not None
        settings = [self.vae_files.digest, spec.size, spec.feature_dim, _number_format(spec.dtype, "bfloat16")]
        return fingerprint("vae", CODE_REVISION["vae_latents"], *settings)

    # -- fingerprints --------------------------------------------------------------------------------

    def settings(self, stage: str) -> Any:
        """The parts of the profile that decide what a stage writes."""
        profile = self.profile
        content = {"resize", "size", "format", "quality", "max_bytes", "max_pixels", "robots", "respect_opt_out"}
        vae = {"size", "feature_dim", "dtype"}
        chosen: dict[str, Callable[[], Any]] = {
            "laion_metadata": lambda: [
                profile.source.model_dump(mode="json"),
                profile.filters.model_dump(mode="json"),
                profile.shards.model_dump(mode="json", exclude={"per_run"}),
            ],
            "image_shards": lambda: profile.fetch.model_dump(mode="json", include=content),
            # not where the weights lie: the digest of the observed model tells what they are
            "clip_embeddings": lambda: profile.models.clip and profile.models.clip.dtype,
            "vae_latents": lambda: profile.models.vae and profile.models.vae.model_dump(include=vae),
            "umap_model": lambda: profile.projection.model_dump(mode="json"),
            "atlas_table": lambda: [profile.table.model_dump(mode="json"), profile.title, profile.attribution],
        }
        return chosen[stage]() if stage in chosen else None

    def code_version(self, stage: str) -> str:
        """Dagster's code version: the stage's revision and its settings in the profile. Cheap to compute."""
        return f"{CODE_REVISION[stage]}-{fingerprint(self.settings(stage))[:8]}"

    def expected(self, stage: str, key: str = WHOLE) -> str:
        """The fingerprint an artefact should have now. Raises NotBuiltError naming what is not there yet."""
        revision = CODE_REVISION[stage]
        match stage:
            case "laion_metadata":
                return fingerprint(stage, revision, self.source.version, self._filter_files(), self.settings(stage))
            case "shard_catalog":
                shards = self._need(stage, key, "laion_metadata").details["shards"]
                if key not in shards:
                    raise NotBuiltError(f"{key} is not a shard of this catalog, which has {len(shards)} of them.")
                rows, digest = shards[key]
                return fingerprint(stage, revision, rows, digest)
            case "image_shards":
                catalog = self._need(stage, key, "shard_catalog", key)
                return fingerprint(stage, revision, catalog.version, self.settings(stage))
            case "clip_embeddings":
                return fingerprint(self.clip_fingerprint, self._need(stage, key, "image_shards", key).version)
            case "vae_latents":
                return fingerprint(self.vae_fingerprint, self._need(stage, key, "image_shards", key).version)
            case "embedding_manifest":
                return fingerprint(stage, revision, self._shard_versions(stage, self.stages[stage].parents))
            case "umap_model":
                manifest = self._need(stage, key, "embedding_manifest")
                return fingerprint(stage, revision, manifest.version, self.settings(stage), self.backend)
            case "umap_projection":
                sharded = [p for p in self.stages[stage].parents if p != "umap_model"]
                versions = [self._need(stage, key, parent, key).version for parent in sharded]
                return fingerprint(stage, revision, self._need(stage, key, "umap_model").version, versions)
            case "atlas_table":
                model = self._need(stage, key, "umap_model").version
                rows = self._shard_versions(stage, self.stages[stage].parents)
                return fingerprint(stage, revision, model, rows, self.settings(stage))
            case _:
                raise KeyError(stage)

    @cached_property
    def backend(self) -> str:
        """The projection backend that this machine would use."""
        if self.profile.projection.backend != "auto":
            return self.profile.projection.backend
        from latent_assets.projection.backend import choose_backend

        return choose_backend(self.profile.projection).name

    def _filter_files(self) -> list[str]:
        """Digests of the removal lists: their content counts, not their names."""
        import hashlib

        import fsspec

        digests = []
        for path in self.profile.filters.remove:
            try:
                with fsspec.open(path, "rb") as file:
                    digests.append(hashlib.sha256(file.read()).hexdigest())
            except OSError as error:
                raise SourceError(
                    f"filters.remove: {path} cannot be read ({error.strerror or error}). Correct the path: nothing is "
                    "fetched without its removal lists."
                ) from error
        return digests

    def _need(self, stage: str, key: str, parent: str, parent_key: str = WHOLE) -> Manifest:
        manifest = self._manifest(parent, parent_key)
        if manifest is None:
            what = parent if parent_key == WHOLE else f"{parent}[{parent_key}]"
            raise NotBuiltError(f"{stage}{'' if key == WHOLE else f'[{key}]'} needs {what}, which is not there yet.")
        return manifest

    def _shard_versions(self, stage: str, parents: tuple[str, ...]) -> list[list[str]]:
        """Data versions of every shard of `parents`.

        Raises NotBuiltError naming every shard that is missing, or that is older than what it is made from: an
        atlas is never put together from shards of different states.
        """
        with self._reading_once():
            shards = self.shards()
            if not shards:
                raise NotBuiltError(f"{stage} needs shards: the catalog is empty or was not built yet.")
            wanted = [(parent, shard) for parent in parents for shard in shards]
            if behind := [f"{parent}[{shard}]" for parent, shard in wanted if not self._is_current(parent, shard)]:
                listed = ", ".join(behind[:20]) + (f" and {len(behind) - 20} more" if len(behind) > 20 else "")
                raise NotBuiltError(f"{stage} needs every shard; not there or out of date: {listed}.")
            found = {item: self._manifest(*item) for item in wanted}
            return [[shard, *(m.version for parent in parents if (m := found[parent, shard]))] for shard in shards]

    def _is_current(self, stage: str, key: str) -> bool:
        """Whether an artefact, and all it is made from, is there with the fingerprint it should have."""
        if (stage, key) not in self._known_current:
            manifest = self._manifest(stage, key)
            parents = ((p, key if self.stages[p].sharded else WHOLE) for p in self.stages[stage].parents)
            try:
                current = (
                    manifest is not None
                    and (not self.stages[stage].sharded or all(self._is_current(*parent) for parent in parents))
                    and manifest.fingerprint == self.expected(stage, key)
                )
            except NotBuiltError:
                current = False
            self._known_current[stage, key] = current
        return self._known_current[stage, key]

    def _manifest(self, stage: str, key: str) -> Manifest | None:
        if self._snapshot is None:
            return self.storage.manifest(stage, key)
        if stage not in self._snapshot:
            self._snapshot[stage] = self.storage.manifests(stage)
        return self._snapshot[stage].get(key)

    @contextmanager
    def _reading_once(self) -> Iterator[None]:
        """Read each stage's manifests once inside the block, however often they are asked for."""
        if self._snapshot is not None:
            yield
            return
        self._snapshot = {}
        try:
            yield
        finally:
            self._snapshot = None
            self._known_current.clear()

    # -- making --------------------------------------------------------------------------------------

    def ensure(self, stage: str, key: str, produce: Callable[[str], Produced], again: bool = False) -> Made:
        """Make an artefact unless it is there with the expected fingerprint (`again`: also then).

        `produce` gets that fingerprint. What it raises is noted for `status` and raised again; a result with
        problems is not committed and raises DataError.
        """
        try:
            wanted = self.expected(stage, key)
            manifest = self.storage.manifest(stage, key)
            if manifest and manifest.fingerprint == wanted and not again:
                self.storage.forget_failure(stage, key)
                self._failures[stage].pop(key, None)
                return Made(manifest, unchanged=True)
            started = time.perf_counter()
            made = produce(wanted)
            if made.problems:
                what = f"{stage}{'' if key == WHOLE else f'[{key}]'}"
                raise DataError(f"{what}: {'; '.join(made.problems.values())}", made.problems)
            seconds = round(time.perf_counter() - started, 3)
            written = self.storage.commit(
                Manifest(stage, key, wanted, made.version, made.rows, seconds, details=made.details)
            )
        except Exception as error:
            self.note_failure(stage, key, error)
            raise
        self._failures[stage].pop(key, None)
        return Made(written, unchanged=False, report=made.report)

    def note_failure(self, stage: str, key: str, error: Exception) -> None:
        """Keep why an attempt failed, for `standing` and, on disk, for `status`."""
        self._failures[stage][key] = self.storage.note_failure(stage, key, error)

    # -- standing ------------------------------------------------------------------------------------

    def standings(self) -> dict[str, list[Standing]]:
        """State of every artefact of every stage, in build order."""
        result: dict[str, list[Standing]] = {}
        with self._reading_once():
            for name, stage in self.stages.items():
                failures = self._failures_of(name)
                parents = {parent: {s.key: s for s in result[parent]} for parent in stage.parents}
                result[name] = [self._standing(stage, key, failures.get(key), parents) for key in self.keys(name)]
        return result

    def standing(self, stage: str) -> list[Standing]:
        """State of every artefact of one stage, against its parents as they are."""
        failures = self._failures_of(stage)
        with self._reading_once():
            return [self._standing(self.stages[stage], key, failures.get(key), {}) for key in self.keys(stage)]

    def _failures_of(self, stage: str) -> dict[str, Failure]:
        return self._failures[stage] | self.storage.failures(stage)

    def _standing(
        self,
        stage: Stage,
        key: str,
        failure: Failure | None,
        parents: dict[str, dict[str, Standing]],
    ) -> Standing:
        manifest = self._manifest(stage.name, key)
        if behind := _not_current(parents, key):
            if failure:
                return Standing(stage.name, key, State.FAILED, failure.error, manifest)
            return Standing(stage.name, key, State.WAITING, f"waits for {behind}", manifest)
        try:
            wanted = self.expected(stage.name, key)
        except LatentAssetsError as error:
            return Standing(stage.name, key, State.WAITING, str(error), manifest)
        if manifest is not None and manifest.fingerprint == wanted:
            return Standing(stage.name, key, State.CURRENT, "", manifest)
        if failure:
            return Standing(stage.name, key, State.FAILED, failure.error, manifest)
        if manifest is None:
            return Standing(stage.name, key, State.MISSING, "never built")
        return Standing(stage.name, key, State.STALE, self._reason(stage, manifest), manifest)

    def _reason(self, stage: Stage, manifest: Manifest) -> str:
        """Why a stale artefact is stale, as far as its manifest tells."""
        if manifest.details.get("code_version") not in (None, self.code_version(stage.name)):
            return "its settings or code changed"
        models = {"clip_embeddings": "clip_fingerprint", "vae_latents": "vae_fingerprint"}
        if stage.name in models and manifest.details.get("model") != getattr(self, models[stage.name]):
            return "the model changed"
        return f"{' or '.join(stage.parents) or 'the source'} changed"

    # -- places --------------------------------------------------------------------------------------

    def embeddings(self, shard: str) -> ShardEmbeddings:
        """Where the embeddings of a shard lie under the current models."""
        from latent_assets.embeddings.store import ShardEmbeddings, embedding_name

        models = self.profile.models
        files = {"clip": embedding_name(self.clip_fingerprint, shard)} if models.clip else {}
        files |= {"vae": embedding_name(self.vae_fingerprint, shard)} if models.vae else {}
        return ShardEmbeddings(shard, files)


def _not_current(parents: dict[str, dict[str, Standing]], key: str) -> str:
    """Names of the parents (the same shard of a sharded one, or all) that are not current."""
    names = []
    for parent, standings in parents.items():
        relevant = [standings[key]] if key in standings else list(standings.values())
        behind = [s for s in relevant if s.state is not State.CURRENT]
        if behind or not relevant:
            names.append(parent if len(relevant) <= 1 else f"{len(behind)} of {len(relevant)} shards of {parent}")
    return ", ".join(names)


def _number_format(dtype: str, accelerated: str) -> list[str]:
    """Number format and device kind of an encoder here: they decide the last bits of what it makes."""
    kind = device_kind()
    return [dtype if dtype != "auto" else accelerated if kind == "cuda" else "float32", kind]
