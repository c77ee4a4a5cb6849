"""The lineage of an atlas: the state of every artefact, making one when it is due, and reading what was made.

Everything is derived from the table of stages and the manifests; how a state is found is in `states`. Knows no
Dagster: assets, `build`, `status` and `verify` all ask this module. How a stage works is its room's business.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from latent_assets import progress
from latent_assets.errors import DataError, LatentAssetsError, NotBuiltError, ResourceError
from latent_assets.limits import shortage
from latent_assets.pipeline.claims import Claims, Holder
from latent_assets.pipeline.files import first_problem
from latent_assets.pipeline.manifests import WHOLE, Manifest, Manifests, Note, Recipe, read_details
from latent_assets.pipeline.stages import Finding, Observed, Output, Source, Stage, sources_of, stages_of
from latent_assets.pipeline.states import ArtifactStatus, State, View, artifact_name
from latent_assets.profile import Profile
from latent_assets.spaces import resolve
from latent_assets.storage import Storage, fingerprint


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
        self.recent_failures: dict[str, dict[str, Note]] = defaultdict(dict)
        # a limit of this machine that something failed at: nothing else is begun then
        self.exhausted: ResourceError | None = None
        self._observed: dict[str, Observed] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        # stages over all shards that were current, and by which manifest: looked at once, not once for every shard
        self.known_whole: dict[str, ArtifactStatus] = {}

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
        self.exhausted = None
        self._observed.clear()
        self._inputs.clear()
        self.known_whole.clear()

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
        view = View(self, bulk=True)
        wanted = list(self.stages) if stages is None else list(stages)
        return {name: [view.status(name, key) for key in self.keys(name)] for name in wanted}

    def artifact(self, stage: str, key: str = WHOLE) -> ArtifactStatus:
        """State of one artefact."""
        return View(self, bulk=False).status(stage, key)

    def recipe(self, stage: str, key: str = WHOLE) -> Recipe:
        """What an artefact should be made from now. Raises NotBuiltError naming what is not there or not current."""
        return View(self, bulk=False).recipe(stage, key)

    def manifest(self, stage: str, key: str = WHOLE) -> Manifest:
        """The manifest of an artefact that must be there. Raises NotBuiltError when it is not."""
        manifest = self.manifests.get(stage, key)
        if manifest is None:
            raise NotBuiltError(f"{artifact_name(stage, key)} is not there yet. Run `latent-assets build`.")
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
        view = View(self, bulk=False)
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
                self.recent_failures[stage].pop(key, None)
                results[stage] = Materialized(found.manifest, unchanged=True)
            else:
                due[stage] = found
        return results, due

    def _make(self, due: Mapping[str, ArtifactStatus], key: str, options: MakeOptions) -> Results:
        view = View(self, bulk=False)
        recipes = {stage: self._settled(view, view.recipe(stage, key, strict=False), key) for stage in due}
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

    def _settled(self, view: View, recipe: Recipe, key: str) -> Recipe:
        """The recipe of what is made now, with the inputs that are settled at this moment (`Stage.pins`)."""
        pins = self.stages[recipe.stage].pins
        if pins is None:
            return recipe
        before = view.manifest(recipe.stage, key)
        again = view.pinned(recipe.stage, key) if before and before.fingerprint == recipe.fingerprint else None
        found = self.inputs(recipe.stage) | resolve(pins)(self, again)
        return replace(recipe, inputs=found)

    def _commit(self, stage: Stage, key: str, recipe: Recipe, output: Output, seconds: float) -> Materialized:
        """Judge what was made, and write its manifest when nothing is wrong with it."""
        sizes = self.storage.sizes(output.files)
        if lost := [name for name, size in sizes.items() if size is None]:
            raise DataError(f"{artifact_name(stage.name, key)}: {lost[0]} was written and is not there.")
        files = {name: size for name, size in sizes.items() if size is not None}
        details = asdict(output.details) if output.details is not None else {}
        manifest = Manifest(stage.name, key, recipe, output.version, output.rows, seconds, 0.0, files, details)
        findings = output.findings or self._judge(manifest, deep=False)
        problems = _problems(stage, findings)
        if problems:
            raise DataError(f"{artifact_name(stage.name, key)}: {'; '.join(problems.values())}", problems)
        # what the manifest speaks of is on the disk before it is; so it is nothing that a power cut could take
        self.storage.flush(output.files)
        written = self.manifests.commit(manifest)
        self.recent_failures[stage.name].pop(key, None)
        self._forget_after(stage.name)
        return Materialized(written, unchanged=False, findings=findings, pictures=output.pictures)

    def _forget_after(self, stage: str) -> None:
        """What is made of a stage may no longer be current."""
        order = list(self.stages)
        for name in order[order.index(stage) :]:
            self.known_whole.pop(name, None)

    def note_failure(self, stage: str, key: str, error: BaseException) -> None:
        """Keep why an attempt failed, for `status`."""
        self.exhausted = self.exhausted or shortage(error)
        self.recent_failures[stage][key] = self.manifests.note_failure(stage, key, error)

    def failures(self, stage: str) -> dict[str, Note]:
        """Why the last attempts at artefacts of a stage failed, by key."""
        return self.recent_failures[stage] | self.manifests.failures(stage)

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
        return first_problem(self.storage, manifest.files, self.storage.sizes(manifest.files))


def _problems(stage: Stage, findings: Iterable[Finding]) -> dict[str, str]:
    """What failed checks found that must not travel, by check."""
    return {f.check: f.found or "failed" for f in findings if not f.passed and not stage.check(f.check).warns}


def _waiting(stages: Iterable[str], key: str) -> Callable[[Holder], None]:
    """Say, as progress, whom we wait for."""
    name = artifact_name(" + ".join(stages), key)
    return lambda holder: progress.report(name, 0, None, "", note=f"waits for {holder}")
