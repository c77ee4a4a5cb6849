"""Images that were accepted: put into the inbox, and found there, until the asset has placed them in the table.

The service writes files only. Their names are their hashes, so nothing is kept twice, and nothing that was killed
leaves half of one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from latent_assets.atlas.schema import PLACE
from latent_assets.generated import inbox
from latent_assets.generated.known_vectors import read_vectors, write_vectors
from latent_assets.generated.metadata.reading import read_generation
from latent_assets.generated.projecting import encoder_fingerprint
from latent_assets.generated.table import GeneratedTable
from latent_assets.images.decode.formats import EXTENSIONS, sniff
from latent_assets.images.decode.image import decode_image, store_image
from latent_assets.layout import SERVICE_INBOX, kept_name, original_name
from latent_assets.service.answers import GeneratedAnswer, GeneratedEntry
from latent_assets.service.problems import ProblemError

if TYPE_CHECKING:
    from latent_assets.generated.metadata.generation import Generation
    from latent_assets.generated.placement.placed import Placed
    from latent_assets.profile import Profile
    from latent_assets.service.releases import OpenRelease
    from latent_assets.storage import Storage

_COUNTED_FOR = 10.0  # seconds for which the number of files in the inbox is believed
_REMEMBERED = 1_000
_LISTED = ("id", "prompt", "received")
_TOLD = (
    *("id", "prompt", "received", "name", "width", "height", "negative_prompt", "seed", "steps", "guidance"),
    *("sampler", "model", "tool", "verdict", "explanation", "agreement", "path", "file", "release"),
)


@dataclass(frozen=True)
class Kept:
    """A file that was accepted and is not in the table. when: seconds since 1970."""

    row_id: str
    file: str
    when: float


class Keeper:
    """What this service keeps below a root."""

    def __init__(self, profile: Profile, storage: Storage) -> None:
        self._profile, self._storage = profile, storage
        self._lock = threading.Lock()
        self._counted: tuple[float, int] = (0.0, 0)
        self._entries: dict[tuple[str, int], GeneratedEntry] = {}
        self._table: tuple[tuple[int, int], list[GeneratedEntry]] | None = None

    # -- keeping -------------------------------------------------------------------------------------

    def keep(self, release: OpenRelease, data: bytes, placed: Placed, sidecar: Mapping[str, Any] | None = None) -> None:
        """Put an image into the inbox, with its vectors, and a sidecar (JSON) where there is something to say.

        The image comes last: what lies in the inbox is whole. Raises ProblemError when too many wait there.
        """
        row_id = placed.generated_id
        assert row_id is not None
        name = kept_name(row_id, EXTENSIONS[sniff(data)])
        if self._storage.exists(name) or self._original(row_id) is not None:
            return
        self._count()
        write_vectors(self._storage, row_id, encoder_fingerprint(release.placer), placed.vectors)
        if sidecar is not None:
            self._storage.write_bytes(kept_name(row_id, "json"), json.dumps(sidecar).encode())
        self._storage.write_bytes(name, data)

    def _count(self) -> None:
        with self._lock:
            when, number = self._counted
            if time.monotonic() - when > _COUNTED_FOR or not when:
                when, number = time.monotonic(), len(self._storage.list(SERVICE_INBOX))
            if number >= self._profile.service.inbox:
                raise ProblemError(
                    503,
                    f"{number:,} kept images wait to be taken out of the inbox: nothing more is kept until the Dagster "
                    "asset has taken them (`latent-assets inbox take`).",
                    {"Retry-After": "60"},
                )
            self._counted = (when, number + 1)

    # -- finding -------------------------------------------------------------------------------------

    def listed(self, release: OpenRelease, after: str | None, limit: int) -> list[GeneratedEntry]:
        """The newest images on a release, at most `limit`, newest first; those that came after the image `after`."""
        placed = self._placed(release)
        known = {entry.generated_id for entry in placed}
        waiting = sorted(
            (kept for kept in self._waiting() if kept.row_id not in known), key=lambda kept: kept.when, reverse=True
        )
        pending = [entry for kept in waiting[:limit] if (entry := self._pending_entry(release, kept)) is not None]
        found = sorted([*pending, *placed], key=lambda entry: (entry.created, entry.generated_id), reverse=True)
        ids = [entry.generated_id for entry in found]
        newer = found[: ids.index(after)] if after in ids else found
        return newer[:limit]

    def told(self, release: OpenRelease, row_id: str) -> GeneratedAnswer:
        """All that is known of an image. Raises ProblemError when nothing is."""
        for row in self._rows(release, list(_TOLD), row_id):
            return _answer(release, row)
        kept = self._kept(row_id)
        if kept is None:
            raise _unknown(row_id)
        return self._pending(release, kept)

    def original(self, row_id: str) -> bytes:
        """The file of an image, as it came. Raises ProblemError when it is not there."""
        name = self._original(row_id)
        if name is None:
            kept = self._kept(row_id)
            name = kept.file if kept else None
        if name is None:
            raise _unknown(row_id)
        return self._storage.read_bytes(name)

    def _original(self, row_id: str) -> str | None:
        names = [original_name(row_id, extension) for extension in sorted(set(EXTENSIONS.values()))]
        sizes = (
            self._storage.sizes(names)
            if self._storage.is_local
            else {n: self._storage.exists(n) or None for n in names}
        )
        return next((name for name, size in sizes.items() if size is not None), None)

    def _placed(self, release: OpenRelease) -> list[GeneratedEntry]:
        """The images in the table, on a release, newest first; read again when the table has changed."""
        table = GeneratedTable(self._storage.lance_uri).open()
        if table is None:
            return []
        key = (int(table.version), release.version)
        with self._lock:
            if self._table is not None and self._table[0] == key:
                return self._table[1]
        rows = sorted(self._rows(release, list(_LISTED)), key=lambda row: (row["received"], row["id"]), reverse=True)
        found = [
            GeneratedEntry(
                generated_id=row["id"],
                prompt=row["prompt"],
                created=row["received"].astimezone(UTC).isoformat(),
                positions=_positions(release, row),
                image=image_address(row["id"]),
                pending=False,
            )
            for row in rows[:_REMEMBERED]
        ]
        with self._lock:
            self._table = (key, found)
        return found

    def _rows(self, release: OpenRelease, columns: list[str], row_id: str | None = None) -> Iterator[dict[str, Any]]:
        table = GeneratedTable(self._storage.lance_uri).open()
        if table is None:
            return
        places = [f"{PLACE}{space}" for space in release.atlas.info.spaces]
        where = f"release = {release.version}" + (f" AND id = '{row_id}'" if row_id else "")
        names = [name for name in (*columns, *places) if name in table.schema.names]
        for batch in table.search().where(where).select(names).limit(None).to_batches():
            yield from batch.to_pylist()

    def _waiting(self) -> list[Kept]:
        """Files of this service that are still in the inbox, and images that were taken out and are not placed."""
        found = [_kept_file(file.name, file.modified) for file in self._storage.files(SERVICE_INBOX)]
        taken = [
            Kept(row["id"], original_name(row["id"], row["extension"]), row["received"])
            for _, rows in inbox.accepted(self._storage)
            for row in rows
        ]
        return [*taken, *(kept for kept in found if kept is not None)]

    def _kept(self, row_id: str) -> Kept | None:
        return next((kept for kept in self._waiting() if kept.row_id == row_id), None)

    def _pending_entry(self, release: OpenRelease, kept: Kept) -> GeneratedEntry | None:
        key = (kept.row_id, release.version)
        with self._lock:
            if key in self._entries:
                return self._entries[key]
        try:
            answer = self._pending(release, kept)
        except Exception:  # taken, placed or damaged since it was listed
            return None
        entry = GeneratedEntry(**{name: getattr(answer, name) for name in GeneratedEntry.model_fields})
        with self._lock:
            while len(self._entries) >= _REMEMBERED:
                self._entries.pop(next(iter(self._entries)))
            self._entries[key] = entry
        return entry

    def _pending(self, release: OpenRelease, kept: Kept) -> GeneratedAnswer:
        """What will be in the table of an image, from its file."""
        data = self._storage.read_bytes(kept.file)
        sidecar = f"{PurePosixPath(kept.file).with_suffix('.json')}"
        text = self._storage.read_bytes(sidecar) if self._storage.exists(sidecar) else None
        generation = read_generation(data, (sidecar, text) if text is not None else None)
        settings = release.atlas.info.how_stored.model_copy(update={"max_pixels": self._profile.fetch.max_pixels})
        stored = store_image(data, settings)
        vectors = read_vectors(self._storage, kept.row_id, encoder_fingerprint(release.placer))
        placed = release.placer.place(decode_image(stored.data), vectors)
        return GeneratedAnswer(
            generated_id=kept.row_id,
            prompt=generation.prompt,
            created=datetime.fromtimestamp(kept.when, UTC).isoformat(),
            positions={space: found.position for space, found in placed.placements.items()},
            image=image_address(kept.row_id),
            pending=True,
            release=release.version,
            name=PurePosixPath(kept.file).name,
            width=stored.width,
            height=stored.height,
            verdict=placed.verdict,
            sentence=placed.sentence,
            agreement=placed.agreement,
            path={},
            **_generation(generation),
        )


def image_address(row_id: str) -> str:
    """Where the original of a generated image is."""
    return f"/api/generated/{row_id}/image"


def _kept_file(name: str, modified: float) -> Kept | None:
    path = PurePosixPath(name)
    return Kept(path.stem, name, modified) if path.suffix[1:] in EXTENSIONS.values() else None


def _positions(release: OpenRelease, row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    places = {space: row.get(f"{PLACE}{space}") for space in release.atlas.info.spaces}
    return {space: (xyz[0], xyz[1], xyz[2]) for space, xyz in places.items() if xyz is not None}


def _generation(found: Generation) -> dict[str, Any]:
    names = ("seed", "steps", "guidance", "sampler", "model", "tool")
    return {"negative": found.negative_prompt, **{name: getattr(found, name) for name in names}}


def _answer(release: OpenRelease, row: Mapping[str, Any]) -> GeneratedAnswer:
    path: dict[str, list[Any]] = {}
    for step in sorted(row["path"], key=lambda step: step["step"]):
        path.setdefault(step["space"], []).append(step["xyz"])
    names = ("prompt", "name", "width", "height", "seed", "steps", "guidance", "sampler", "model", "tool", "verdict")
    return GeneratedAnswer(
        generated_id=row["id"],
        created=row["received"].astimezone(UTC).isoformat(),
        positions=_positions(release, row),
        image=image_address(row["id"]),
        pending=False,
        negative=row["negative_prompt"],
        sentence=row["explanation"],
        agreement=row["agreement"],
        release=row["release"],
        path=path,
        **{name: row[name] for name in names},
    )


def _unknown(row_id: str) -> ProblemError:
    return ProblemError(404, f"There is no generated image {row_id} on this release.")
