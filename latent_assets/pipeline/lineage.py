"""What should be, what is, and why: the state of every artefact of an atlas, and making one when it is due.

Everything is derived from the table of stages and the manifests. Knows no Dagster: assets, `build`, `status` and
`verify` all ask this module. How a stage works is its room's business.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from latent_assets import progress
from latent_assets.errors import DataError, LatentAssetsError, NotBuiltError
from latent_assets.pipeline.claims import Claims, Holder
from latent_assets.pipeline.files import file_problem
from latent_assets.pipeline.manifests import WHOLE, Manifest, Manifests, Note, Recipe, read_details
from latent_assets.pipeline.stages import Finding, Observed, Output, Source, Stage, sources_of, stages_of
from latent_assets.profile import Profile
from latent_assets.spaces import resolve
from latent_assets.storage import Storage, fingerprint

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


@dataclass(frozen=True)
class Materialized:
    """Result of `ensure`: the manifest, whether it was there already, what its checks found, and pictures of it."""

    manifest: Manifest
    unchanged: bool
    findings: Sequence[Finding] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class MakeOptions:
    """How an artefact is made. force: nothing that is there is used again. mend: it is there, but damaged.

    retry: reasons of failed rows (images.download.outcome.Reason) that are fetched once more.
    """

    force: bool = False
    mend: bool = False
    retry: tuple[str, ...] = ()


Results = dict[str, "Materialized | Exception"]


class Lineage:
    """The lineage of one profile on one root. Sources and models are observed once, until `refresh`."""

    def __init__(self, profile: Profile, storage: Storage | None = None) -> None:
        self.profile = profile
        self.storage = storage or Storage(profile.root)
        self.manifests = Manifests(self.storage)
        self.claims = Claims(self.storage)
        # failures of this process; a full disk has no room for the notes of them
        self._failures: dict[str, dict[str, Note]] = defaultdict(dict)
        self._observed: dict[str, Observed] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        # stages over all shards that were current, and by which manifest: looked at once, not once for every shard
        self._known_whole: dict[str, ArtifactStatus] = {}

    # -- the table -----------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages in build order."""
        return stages_of(self.profile)

    @cached_property
    def sources(self) -> dict[str, Source]:
        """What the atlas is made from but does not make."""
        return sources_of(self.profile)

    def batches(self) -> list[list[str]]:
        """The stages in build order, those that one pass makes together in one list."""
        found: dict[str, list[str]] = {}
        for stage in self.stages.values():
            found.setdefault(stage.batch, []).append(stage.name)
        return list(found.values())

    def shards(self) -> list[str]:
        """Keys of all shards, sorted; [] before the catalog was built."""
        manifest = self.manifests.get("laion_metadata")
        return sorted(manifest.details["shards"]) if manifest else []

    def keys(self, stage: str) -> list[str]:
        """The artefacts of a stage: its shards, or the one whole."""
        return self.shards() if self.stages[stage].sharded else [WHOLE]

    def code_version(self, stage: str) -> str:
        """Dagster's code version: the stage's revision and its settings in the profile. Cheap to compute."""
        row = self.stages[stage]
        return f"{row.revision}-{fingerprint(row.settings(self.profile))[:8]}"

    # -- sources and models --------------------------------------------------------------------------

    def observed(self, name: str) -> Observed:
        """The version of a source or model, as it was when this lineage first looked."""
        if name not in self._observed:
            self._observed[name] = self.sources[name].observe(self.profile, self.storage)
        return self._observed[name]

    def refresh(self) -> None:
        """Look at sources and models anew on the next question: they may have changed."""
        self._observed.clear()
        self._inputs.clear()
        self._known_whole.clear()

    def inputs(self, stage: str) -> dict[str, Any]:
        """What decides a stage's artefacts and is only known on the machine that makes them."""
        if stage not in self._inputs:
            read = self.stages[stage].inputs
            self._inputs[stage] = read(self.profile) if read else {}
        return self._inputs[stage]

    # -- state ---------------------------------------------------------------------------------------

    def status(self, stages: Iterable[str] | None = None) -> dict[str, list[ArtifactStatus]]:
        """State of every artefact of every stage (or of `stages`), in build order.

        Reads all manifests, and looks whether the files are there, of the right size and whole at both ends.
        """
        view = _View(self, bulk=True)
        wanted = list(self.stages) if stages is None else list(stages)
        return {name: [view.status(name, key) for key in self.keys(name)] for name in wanted}

    def artifact(self, stage: str, key: str = WHOLE) -> ArtifactStatus:
        """State of one artefact."""
        return _View(self, bulk=False).status(stage, key)

    def recipe(self, stage: str, key: str = WHOLE) -> Recipe:
        """What an artefact should be made from now. Raises NotBuiltError naming what is not there or not current."""
        return _View(self, bulk=False).recipe(stage, key)

    def manifest(self, stage: str, key: str = WHOLE) -> Manifest:
        """The manifest of an artefact that must be there. Raises NotBuiltError when it is not."""
        manifest = self.manifests.get(stage, key)
        if manifest is None:
            raise NotBuiltError(f"{_artifact_name(stage, key)} is not there yet. Run `latent-assets build`.")
        return manifest

    def details(self, manifest: Manifest) -> Any:
        """The details of a manifest as the dataclass that its stage writes."""
        return read_details(manifest, resolve(self.stages[manifest.stage].details))

    # -- making --------------------------------------------------------------------------------------

    def ensure(self, stages: Sequence[str], key: str = WHOLE, options: MakeOptions | None = None) -> Results:
        """Make a shard's (or the whole's) artefacts of stages of one batch, unless they are current.

        Another process that makes them at the moment is waited for. Returns what became of each: a failure of one does
        not touch the other; it is noted for `status`.
        """
        chosen = options or MakeOptions()
        results, due = self._due(stages, key, chosen)
        if due:
            with self.claims.holding(f"{self.stages[next(iter(due))].batch}/{key}", _waiting(due, key)):
                # another process may have made them while we waited
                found, due = self._due(list(due), key, chosen)
                results |= found
                if due:
                    results |= self._make(due, key, chosen)
        return results

    def _due(self, stages: Sequence[str], key: str, options: MakeOptions) -> tuple[Results, dict[str, ArtifactStatus]]:
        """What is current or cannot be made now, and what is to be made."""
        view = _View(self, bulk=False)
        results: Results = {}
        due: dict[str, ArtifactStatus] = {}
        for stage in stages:
            try:
                found = view.status(stage, key, strict=False)
                if found.state is State.WAITING:
                    raise NotBuiltError(found.why)
                view.recipe(stage, key, strict=False)  # raises what the status only tells
            except LatentAssetsError as error:
                if not isinstance(error, NotBuiltError):
                    self.note_failure(stage, key, error)
                results[stage] = error
                continue
            if found.state is State.CURRENT and not (options.force or options.retry):
                assert found.manifest is not None
                self.manifests.clear(stage, key)
                self._failures[stage].pop(key, None)
                results[stage] = Materialized(found.manifest, unchanged=True)
            else:
                due[stage] = found
        return results, due

    def _make(self, due: Mapping[str, ArtifactStatus], key: str, options: MakeOptions) -> Results:
        view = _View(self, bulk=False)
        recipes = {stage: view.recipe(stage, key, strict=False) for stage in due}
        damaged = any(found.state is State.DAMAGED for found in due.values())
        chosen = MakeOptions(options.force, options.mend or damaged, options.retry)
        started = time.perf_counter()
        outputs: Mapping[str, Output | Exception]
        try:
            outputs = resolve(self.stages[next(iter(due))].maker)(self, key, recipes, chosen)
        except Exception as error:
            outputs = dict.fromkeys(due, error)
        seconds = round((time.perf_counter() - started) / len(due), 3)
        results: Results = {}
        for stage in due:
            try:
                output = outputs[stage]
                if isinstance(output, Exception):
                    raise output
                results[stage] = self._commit(self.stages[stage], key, recipes[stage], output, seconds)
            except Exception as error:
                self.note_failure(stage, key, error)
                results[stage] = error
        return results

    def _commit(self, stage: Stage, key: str, recipe: Recipe, output: Output, seconds: float) -> Materialized:
        """Judge what was made, and write its manifest when nothing is wrong with it."""
        sizes = self.storage.sizes(output.files)
        if lost := [name for name, size in sizes.items() if size is None]:
            raise DataError(f"{_artifact_name(stage.name, key)}: {lost[0]} was written and is not there.")
        files = {name: size for name, size in sizes.items() if size is not None}
        details = asdict(output.details) if output.details is not None else {}
        manifest = Manifest(stage.name, key, recipe, output.version, output.rows, seconds, 0.0, files, details)
        findings = output.findings or self._judge(manifest, deep=False)
        problems = _problems(stage, findings)
        if problems:
            raise DataError(f"{_artifact_name(stage.name, key)}: {'; '.join(problems.values())}", problems)
        written = self.manifests.commit(manifest)
        self._failures[stage.name].pop(key, None)
        self._forget_after(stage.name)
        return Materialized(written, unchanged=False, findings=findings, pictures=output.pictures)

    def _forget_after(self, stage: str) -> None:
        """What is made of a stage may no longer be current."""
        order = list(self.stages)
        for name in order[order.index(stage) :]:
            self._known_whole.pop(name, None)

    def note_failure(self, stage: str, key: str, error: BaseException) -> None:
        """Keep why an attempt failed, for `status`."""
        self._failures[stage][key] = self.manifests.note_failure(stage, key, error)

    def failures(self, stage: str) -> dict[str, Note]:
        """Why the last attempts at artefacts of a stage failed, by key."""
        return self._failures[stage] | self.manifests.failures(stage)

    # -- verifying -----------------------------------------------------------------------------------

    def judge(self, stage: str, key: str = WHOLE, deep: bool = False) -> Sequence[Finding]:
        """Read an artefact and say what its checks find. Damage is noted: the artefact is then due again.

        `deep` reads everything there is (every image is decoded). Raises NotBuiltError when it was never made.
        """
        manifest = self.manifest(stage, key)
        row = self.stages[stage]
        findings = self._judge(manifest, deep)
        if problems := _problems(row, findings):
            self.note_damage(stage, key, "; ".join(dict.fromkeys(problems.values())))
        elif self.manifests.damage(stage, key) and not self._look(manifest):
            self.manifests.clear(stage, key)
        return findings

    def note_damage(self, stage: str, key: str, found: str) -> None:
        """Keep what is damaged. A shard of the catalog is written by `laion_metadata`, which is then due, too."""
        self.manifests.note_damage(stage, key, found)
        if stage == "shard_catalog":
            self.manifests.note_damage("laion_metadata", WHOLE, found)

    def verify(self, deep: bool = False) -> Iterator[tuple[ArtifactStatus, Sequence[Finding]]]:
        """Read every artefact that was made; yields what was found in each. What is damaged becomes due again."""
        for stage in self.stages:
            keys = self.keys(stage)
            for done, key in enumerate(keys):
                progress.report(f"verify {stage}", done, len(keys), "artefacts")
                manifest = self.manifests.get(stage, key)
                if manifest is None:
                    continue
                findings = self.judge(stage, key, deep)
                problems = _problems(self.stages[stage], findings)
                state = State.DAMAGED if problems else State.CURRENT
                yield ArtifactStatus(stage, key, state, "; ".join(problems.values()), manifest), findings

    def _judge(self, manifest: Manifest, deep: bool) -> Sequence[Finding]:
        found: Sequence[Finding] = resolve(self.stages[manifest.stage].judge)(self, manifest, deep)
        if problem := self._look(manifest):
            # what the room did not notice by itself is the first check's to say
            first = self.stages[manifest.stage].checks[0].name
            if all(finding.passed for finding in found):
                return [Finding(first, False, problem), *(item for item in found if item.check != first)]
        return found

    def _look(self, manifest: Manifest) -> str:
        """What a look at the files of an artefact shows to be wrong: "" when nothing does."""
        sizes = self.storage.sizes(manifest.files)
        return next((p for name, size in manifest.files.items() if (p := self._wrong(name, size, sizes[name]))), "")

    def _wrong(self, name: str, expected: int, found: int | None) -> str:
        return file_problem(self.storage, name, expected, found)


class _View:
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
            return lineage._failures[stage].get(key), lineage.manifests.damage(stage, key)
        if stage not in self._notes:
            self._notes[stage] = (lineage.failures(stage), lineage.manifests.damages(stage))
        failures, damages = self._notes[stage]
        return failures.get(key), damages.get(key)

    def _look(self, manifest: Manifest) -> str:
        if not self._bulk:
            return self._lineage._look(manifest)
        if manifest.stage not in self._sizes:
            names = {n for m in self._manifests[manifest.stage].values() if m is not None for n in m.files}
            self._sizes[manifest.stage] = self._lineage.storage.sizes(names)
        sizes = self._sizes[manifest.stage]
        wrong = (self._lineage._wrong(name, size, sizes[name]) for name, size in manifest.files.items())
        return next((problem for problem in wrong if problem), "")

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
        return Recipe(stage, row.revision, parents, row.settings(lineage.profile), lineage.inputs(stage))

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
        what = f"{_artifact_name(row.name, key)} needs {_artifact_name(parent, parent_key)}"
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
        known = self._lineage._known_whole.get(stage)
        if known is None or known.manifest != self.manifest(stage, WHOLE):
            known = self.status(stage, WHOLE, strict=False)
            if known.state is State.CURRENT:
                self._lineage._known_whole[stage] = known
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


def _problems(stage: Stage, findings: Iterable[Finding]) -> dict[str, str]:
    """What failed checks found that must not travel, by check."""
    return {f.check: f.found or "failed" for f in findings if not f.passed and not stage.check(f.check).warns}


def _artifact_name(stage: str, key: str) -> str:
    return stage if key == WHOLE else f"{stage}[{key}]"


def _waiting(stages: Iterable[str], key: str) -> Callable[[Holder], None]:
    """Say, as progress, whom we wait for."""
    name = _artifact_name(" + ".join(stages), key)
    return lambda holder: progress.report(name, 0, None, "", note=f"waits for {holder}")
