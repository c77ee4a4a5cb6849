"""Manifests: what was made, of what, and which files it is; and the notes of attempts that failed and of damage found.

A manifest is written last and makes its artefact exist. What an artefact should be is decided in `lineage`.

    manifests/{stage}/{key}.json, {key}.failed.json, {key}.damaged.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from latent_assets.errors import StorageError
from latent_assets.layout import manifest_name, manifests_folder
from latent_assets.storage import Storage, fingerprint

WHOLE = "all"  # key of a stage that is not cut into shards
FORMAT = 2

_FAILED, _DAMAGED = ".failed", ".damaged"
Details = TypeVar("Details")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an artefact's content.

    revision: of the code that makes it. parents: data version by stage, model or source. settings: values of the
    profile by key. inputs: what is only known where it is made (digests of removal lists, number format of an encoder).
    """

    stage: str
    revision: int
    parents: dict[str, str]
    settings: dict[str, Any]
    inputs: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe: 32 hexadecimal characters."""
        return fingerprint(self.stage, self.revision, self.parents, self.settings, self.inputs)


@dataclass(frozen=True)
class Manifest:
    """One artefact: a stage's shard, or a stage as a whole.

    `version` is the data version that what follows depends on (what came out), `recipe` what went in. `files`: bytes by
    storage name of the files it consists of. `seconds`: how long the work took. `details`: read with `read_details`.
    """

    stage: str
    key: str
    recipe: Recipe
    version: str
    rows: int = 0
    seconds: float = 0.0
    created: float = 0.0
    files: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Hash of what it was made from."""
        return self.recipe.fingerprint


@dataclass(frozen=True)
class Note:
    """Why the last attempt at an artefact failed, or what was found damaged in it. The next success removes it."""

    stage: str
    key: str
    error: str
    at: float


def read_details(manifest: Manifest, kind: type[Details]) -> Details:
    """The details of a manifest as the dataclass that its stage writes; fields of later versions are ignored."""
    assert is_dataclass(kind)
    known = {item.name for item in fields(kind)}
    return kind(**{key: value for key, value in manifest.details.items() if key in known})


class Manifests:
    """The manifests and notes below one root."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        # the last bytes of a manifest and what they say: one of a whole stage can list ten thousand shards
        self._parsed: dict[str, tuple[bytes, Manifest | None]] = {}

    # -- manifests -----------------------------------------------------------------------------------

    def get(self, stage: str, key: str = WHOLE) -> Manifest | None:
        """The manifest of an artefact; None when it was never finished, or by a version that kept less of it."""
        name = manifest_name(stage, key)
        try:
            data = self._storage.read_bytes(name)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if key != WHOLE:
            return _parse(data)
        before = self._parsed.get(name)
        if before is None or before[0] != data:
            self._parsed[name] = before = (data, _parse(data))
        return before[1]

    def all(self, stage: str) -> dict[str, Manifest]:
        """All manifests of a stage by key, sorted."""
        keys = [name.removesuffix(".json") for name in self._storage.list(manifests_folder(stage), ".json")]
        keys = [key for key in keys if not key.endswith((_FAILED, _DAMAGED))]
        found = zip(keys, self._read_all([manifest_name(stage, key) for key in keys]), strict=True)
        return {key: manifest for key, data in found if data is not None and (manifest := _parse(data))}

    def commit(self, manifest: Manifest) -> Manifest:
        """Write a manifest: from now on the artefact exists. Clears the notes on it."""
        stamped = replace(manifest, created=manifest.created or time.time())
        name = manifest_name(stamped.stage, stamped.key)
        self._storage.write_json(name, asdict(stamped))
        self._storage.flush([name])
        self.clear(stamped.stage, stamped.key)
        return stamped

    def forget(self, stage: str, key: str) -> None:
        """Drop a manifest: the artefact is no longer part of the atlas."""
        self._storage.delete(manifest_name(stage, key))
        self.clear(stage, key)

    # -- notes ---------------------------------------------------------------------------------------

    def note_failure(self, stage: str, key: str, error: BaseException) -> Note:
        """Keep why an attempt failed; a root that cannot be written goes without."""
        return self._note(stage, key, f"{type(error).__name__}: {error}", _FAILED)

    def note_damage(self, stage: str, key: str, found: str) -> Note:
        """Keep what was found damaged in an artefact: it is made again by the next build."""
        return self._note(stage, key, found, _DAMAGED)

    def failures(self, stage: str) -> dict[str, Note]:
        """The failures noted for a stage, by key."""
        return self._notes(stage, _FAILED)

    def damages(self, stage: str) -> dict[str, Note]:
        """The damage noted for a stage, by key."""
        return self._notes(stage, _DAMAGED)

    def damage(self, stage: str, key: str) -> Note | None:
        """The damage noted for one artefact."""
        name = manifest_name(stage, key + _DAMAGED)
        return Note(**self._storage.read_json(name)) if self._storage.exists(name) else None

    def clear(self, stage: str, key: str) -> None:
        """Drop the notes on an artefact."""
        for kind in (_FAILED, _DAMAGED):
            self._storage.delete(manifest_name(stage, key + kind))

    def _note(self, stage: str, key: str, text: str, kind: str) -> Note:
        note = Note(stage, key, text[:2000], time.time())
        with suppress(StorageError):
            self._storage.write_json(manifest_name(stage, key + kind), asdict(note))
        return note

    def _notes(self, stage: str, kind: str) -> dict[str, Note]:
        names = self._storage.list(manifests_folder(stage), f"{kind}.json")
        found = zip(names, self._read_all([f"{manifests_folder(stage)}/{name}" for name in names]), strict=True)
        return {name.removesuffix(f"{kind}.json"): Note(**json.loads(data)) for name, data in found if data}

    def _read_all(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """The content of many small files, None for one that has gone; from S3 many at a time."""

        def read(name: str) -> bytes | None:
            try:
                return self._storage.read_bytes(name)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return None
                raise

        if self._storage.is_local:
            return [read(name) for name in names]
        with ThreadPoolExecutor(32, thread_name_prefix="manifests") as threads:
            return list(threads.map(read, names))


def _parse(data: bytes) -> Manifest | None:
    """The manifest in `data`; None for one of an earlier format, whose artefact is then made anew."""
    values: Mapping[str, Any] = json.loads(data)
    if values.get("format") != FORMAT:
        return None
    return Manifest(**{**values, "recipe": Recipe(**values["recipe"])})
