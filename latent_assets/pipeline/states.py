"""Where every artefact of an atlas stands, and why: what it should be made from, beside what its manifest says.

Decides, and changes nothing. Making what is due is done in `lineage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from latent_assets.errors import LatentAssetsError, NotBuiltError
from latent_assets.pipeline.files import first_problem
from latent_assets.pipeline.manifests import WHOLE, Manifest, Note, Recipe
from latent_assets.pipeline.stages import Stage
from latent_assets.spaces import resolve
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage

_LISTED = 20


class State(StrEnum):
    """Where an artefact stands. WAITING: something it is made from is not current."""

    CURRENT = "current"
    MISSING = "missing"
    STALE = "stale"
    DAMAGED = "damaged"
    FAILED = "failed"
    WAITING = "waiting"


DUE = (State.MISSING, State.STALE, State.DAMAGED, State.FAILED)


@dataclass(frozen=True)
class ArtifactStatus:
    """State of one artefact, and why."""

    stage: str
    key: str
    state: State
    why: str = ""
    manifest: Manifest | None = None


class View:
    """The manifests as they are at one moment, each read once; `bulk` reads those of a stage all together."""

    def __init__(self, lineage: Lineage, bulk: bool) -> None:
        self._lineage, self._bulk = lineage, bulk
        self._manifests: dict[str, dict[str, Manifest | None]] = {}
        self._notes: dict[str, tuple[dict[str, Note], dict[str, Note]]] = {}
        self._statuses: dict[tuple[str, str, bool], ArtifactStatus] = {}
        self._read_whole: set[str] = set()
        self._sizes: dict[str, dict[str, int | None]] = {}

    def manifest(self, stage: str, key: str) -> Manifest | None:
        known = self._manifests.setdefault(stage, {})
        if self._bulk and stage not in self._read_whole:
            self._read_whole.add(stage)
            known.update(self._lineage.manifests.all(stage))
        if key not in known and not self._bulk:
            known[key] = self._lineage.manifests.get(stage, key)
        return known.get(key)

    def status(self, stage: str, key: str, strict: bool = True) -> ArtifactStatus:
        """State of an artefact. `strict`: a list of images that changed makes everything after it wait."""
        known = self._statuses.get((stage, key, strict))
        if known is None:
            known = self._statuses[stage, key, strict] = self._status(stage, key, strict)
        return known

    def _status(self, stage: str, key: str, strict: bool) -> ArtifactStatus:
        manifest = self.manifest(stage, key)
        failure, damage = self._notes_on(stage, key)
        try:
            recipe = self.recipe(stage, key, strict)
        except NotBuiltError as error:
            return ArtifactStatus(stage, key, State.WAITING, str(error), manifest)
        except LatentAssetsError as error:  # a source, a model or a list that cannot be read
            return ArtifactStatus(stage, key, State.FAILED, f"{type(error).__name__}: {error}", manifest)
        if manifest is None or manifest.fingerprint != recipe.fingerprint:
            if failure is not None:
                return ArtifactStatus(stage, key, State.FAILED, failure.error, manifest)
            if manifest is None:
                return ArtifactStatus(stage, key, State.MISSING, "never built")
            return ArtifactStatus(stage, key, State.STALE, why_stale(manifest.recipe, recipe), manifest)
        if problem := (damage.error if damage else self._look(manifest)):
            if failure is not None and damage is not None and failure.at > damage.at:
                return ArtifactStatus(stage, key, State.FAILED, failure.error, manifest)
            return ArtifactStatus(stage, key, State.DAMAGED, problem, manifest)
        return ArtifactStatus(stage, key, State.CURRENT, "", manifest)

    def _notes_on(self, stage: str, key: str) -> tuple[Note | None, Note | None]:
        lineage = self._lineage
        if not self._bulk:
            return lineage.recent_failures[stage].get(key), lineage.manifests.damage(stage, key)
        if stage not in self._notes:
            self._notes[stage] = (lineage.failures(stage), lineage.manifests.damages(stage))
        failures, damages = self._notes[stage]
        return failures.get(key), damages.get(key)

    def _look(self, manifest: Manifest) -> str:
        opens = self._lineage.stages[manifest.stage].opens
        return self._look_at_files(manifest) or (resolve(opens)(self._lineage, manifest) if opens else "")

    def _look_at_files(self, manifest: Manifest) -> str:
        storage = self._lineage.storage
        if not self._bulk:
            return first_problem(storage, manifest.files, storage.sizes(manifest.files))
        if manifest.stage not in self._sizes:
            names = {n for m in self._manifests[manifest.stage].values() if m is not None for n in m.files}
            self._sizes[manifest.stage] = storage.sizes(names)
        return first_problem(storage, manifest.files, self._sizes[manifest.stage])

    def recipe(self, stage: str, key: str, strict: bool = True) -> Recipe:
        """What an artefact should be made from. Raises NotBuiltError naming what is not there or not current."""
        row, lineage = self._lineage.stages[stage], self._lineage
        parents, missing = {}, []
        for parent in row.parents:
            try:
                parents[parent] = self._parent_version(row, key, parent, strict)
            except NotBuiltError as error:
                missing.append(str(error))
        if missing:
            raise NotBuiltError(" ".join(dict.fromkeys(missing)))
        inputs = lineage.inputs(stage) | (self.pinned(stage, key) if row.pins else {})
        return Recipe(stage, row.revision, parents, row.settings(lineage.profile), inputs)

    def pinned(self, stage: str, key: str) -> dict[str, Any]:
        """The inputs that were settled when the artefact that is there was made."""
        manifest = self.manifest(stage, key)
        known = self._lineage.inputs(stage)
        return {name: value for name, value in manifest.recipe.inputs.items() if name not in known} if manifest else {}

    def _parent_version(self, row: Stage, key: str, parent: str, strict: bool) -> str:
        lineage = self._lineage
        if parent in lineage.sources:
            return lineage.observed(parent).version
        above = lineage.stages[parent]
        if above.sharded and not row.sharded:
            return self._all_shards(row, parent, strict)
        manifest = self._current(row, key, parent, key if above.sharded else WHOLE, strict)
        if not (above.slices and row.sharded):
            return manifest.version
        shards = manifest.details["shards"]
        if key not in shards:
            raise NotBuiltError(f"{key} is not a shard of this catalog, which has {len(shards)} of them.")
        return fingerprint(*shards[key])

    def _current(self, row: Stage, key: str, parent: str, parent_key: str, strict: bool) -> Manifest:
        """The manifest of a parent that is as it should be.

        Without `strict`, the list of images may have changed since: what is made from the catalog as it is goes on.
        """
        what = f"{artifact_name(row.name, key)} needs {artifact_name(parent, parent_key)}"
        if not strict and parent == "laion_metadata":
            manifest = self.manifest(parent, parent_key)
            if manifest is None:
                raise NotBuiltError(f"{what}, which is not there yet.")
            return manifest
        found = self._whole(parent) if parent_key == WHOLE and not strict else self.status(parent, parent_key, strict)
        if found.state is not State.CURRENT or found.manifest is None:
            there = "not there yet" if found.manifest is None else found.state
            why = f" ({found.why})" if found.state in (State.FAILED, State.STALE, State.DAMAGED) else ""
            raise NotBuiltError(f"{what}, which is {there}{why}.")
        return found.manifest

    def _whole(self, stage: str) -> ArtifactStatus:
        """State of a stage over all shards, as this lineage found it: a run is pinned to the parents it began with."""
        known = self._lineage.known_whole.get(stage)
        if known is None or known.manifest != self.manifest(stage, WHOLE):
            known = self.status(stage, WHOLE, strict=False)
            if known.state is State.CURRENT:
                self._lineage.known_whole[stage] = known
        return known

    def _all_shards(self, row: Stage, parent: str, strict: bool) -> str:
        """One version over all shards of a parent.

        Raises NotBuiltError naming every shard that is missing, or older than what it is made from: an atlas is never
        put together from shards of different states.
        """
        self._bulk = True  # they are all read anyhow
        shards = self._lineage.shards()
        if not shards and self.manifest("laion_metadata", WHOLE) is None:
            raise NotBuiltError(f"{row.name} needs shards: the catalog was not built yet.")
        statuses = {shard: self.status(parent, shard, strict) for shard in shards}
        if behind := [f"{parent}[{k}]" for k, found in statuses.items() if found.state is not State.CURRENT]:
            listed = ", ".join(behind[:_LISTED]) + (f" and {len(behind) - _LISTED} more" if behind[_LISTED:] else "")
            raise NotBuiltError(f"{row.name} needs every shard; not there or out of date: {listed}.")
        return fingerprint([[k, found.manifest.version] for k, found in statuses.items() if found.manifest])


def why_stale(before: Recipe, now: Recipe) -> str:
    """What changed between two recipes, in words."""
    reasons = []
    if before.revision != now.revision:
        reasons.append("the code that makes it changed")
    for old, new, what in ((before.settings, now.settings, ""), (before.inputs, now.inputs, "")):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                reasons.append(f"{what}{key}: {_short(old.get(key))} → {_short(new.get(key))}")
    for parent in sorted(before.parents.keys() | now.parents.keys()):
        if before.parents.get(parent) != now.parents.get(parent):
            reasons.append(f"{parent} changed" if parent in before.parents else f"{parent} is new")
    return "; ".join(reasons) or "what it is made from changed"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def artifact_name(stage: str, key: str) -> str:
    """How a message calls an artefact."""
    return stage if key == WHOLE else f"{stage}[{key}]"
