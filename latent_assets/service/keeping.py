"""Images that were accepted: put into the inbox, and found there, until the asset has placed them in the table.

The service writes files only. Their names are their hashes, so nothing is kept twice, and nothing that was killed
leaves half of one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets.atlas.schema import PLACE
from latent_assets.errors import StorageError
from latent_assets.generated import inbox
from latent_assets.generated.intake import read_path
from latent_assets.generated.known_vectors import read_vectors, write_vectors
from latent_assets.generated.metadata.reading import read_generation
from latent_assets.generated.projecting import encoder_fingerprint
from latent_assets.generated.table import GeneratedTable
from latent_assets.images.decode.formats import EXTENSIONS, sniff
from latent_assets.images.decode.image import decode_image, store_image
from latent_assets.layout import SERVICE_INBOX, kept_name, original_name
from latent_assets.service.answers import GeneratedAnswer, GeneratedEntry
from latent_assets.service.placements import answer
from latent_assets.service.problems import ProblemError

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.placement.placed import Placed
    from latent_assets.generated.placement.placing import Vectors
    from latent_assets.profile import Fetch, Profile
    from latent_assets.service.releases import OpenRelease
    from latent_assets.storage import Storage

_COUNTED_FOR = 10.0  # seconds for which the number of files in the inbox is believed
_LISTED = 1_000  # newest images of the table that are listed
_REMEMBERED = 256  # answers
_OF_GENERATION = ("prompt", "seed", "steps", "guidance", "sampler", "model", "tool")
_COLUMNS = ("id", "name", "received", "file", "negative_prompt", "encoder", "path", *_OF_GENERATION)


@dataclass(frozen=True)
class _Known:
    """What is known of an image besides where it falls. vectors: those that it is shown by, where they are kept."""

    row_id: str
    name: str
    created: datetime
    data: bytes
    pending: bool
    facts: Mapping[str, Any]
    path: dict[str, list[Any]]
    vectors: Vectors | None


@dataclass(frozen=True)
class _Waiting:
    """A file that was accepted and is not in the table. when: seconds since 1970. taken: not in the inbox any more."""

    row_id: str
    file: str
    when: float
    row: Mapping[str, Any] | None


class Keeper:
    """What this service keeps below a root."""

    def __init__(self, profile: Profile, storage: Storage) -> None:
        self._profile, self._storage = profile, storage
        self._lock = threading.Lock()
        self._counted: tuple[float, int] | None = None
        self._answers: OrderedDict[tuple[Any, ...], GeneratedAnswer] = OrderedDict()
        self._table: tuple[tuple[int, int], list[GeneratedEntry]] | None = None

    # -- keeping -------------------------------------------------------------------------------------

    def keep(self, release: OpenRelease, data: bytes, placed: Placed, sidecar: bytes | None = None) -> None:
        """Put an image into the inbox, with its vectors, and its sidecar (JSON) where it has one.

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
            self._storage.write_bytes(kept_name(row_id, "json"), sidecar)
        self._storage.write_bytes(name, data)

    def _count(self) -> None:
        with self._lock:
            when, number = self._counted or (0.0, 0)
            if self._counted is None or time.monotonic() - when > _COUNTED_FOR:
                when, number = time.monotonic(), len(list(self._images_in_inbox()))
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
        waiting = [item for item in self._waiting() if item.row_id not in known]
        newest = sorted(waiting, key=lambda item: item.when, reverse=True)[:limit]
        pending = [entry for item in newest if (entry := self._pending_entry(release, item)) is not None]
        found = sorted([*pending, *placed], key=lambda entry: (entry.created, entry.generated_id), reverse=True)
        ids = [entry.generated_id for entry in found]
        newer = found[: ids.index(after)] if after in ids else found
        return newer[:limit]

    def told(self, release: OpenRelease, row_id: str) -> GeneratedAnswer:
        """All that is known of an image, and where it falls on a release. Raises ProblemError when nothing is."""
        for row in self._rows(release, list(_COLUMNS), row_id):
            return self._answer(release, self._of_row(release, row))
        for item in self._waiting():
            if item.row_id == row_id:
                return self._answer(release, self._of_waiting(release, item))
        raise _unknown(row_id)

    def original(self, row_id: str) -> bytes:
        """The file of an image, as it came. Raises ProblemError when it is not there."""
        waiting = (kept_name(row_id, extension) for extension in sorted(set(EXTENSIONS.values())))
        name = self._original(row_id) or next((name for name in waiting if self._storage.exists(name)), None)
        if name is None:
            raise _unknown(row_id)
        return self._storage.read_bytes(name)

    def picture(self, release: OpenRelease, row_id: str) -> Image.Image:
        """A generated image, decoded as those of a release were. Raises ProblemError when it is not there."""
        return decode_image(store_image(self.original(row_id), self._stored(release)).data)

    def _stored(self, release: OpenRelease) -> Fetch:
        return release.atlas.info.how_stored.model_copy(update={"max_pixels": self._profile.fetch.max_pixels})

    def _original(self, row_id: str) -> str | None:
        names = (original_name(row_id, extension) for extension in sorted(set(EXTENSIONS.values())))
        return next((name for name in names if self._storage.exists(name)), None)

    def _answer(self, release: OpenRelease, known: _Known) -> GeneratedAnswer:
        """Where an image falls, with what is known of it; the newest answers are remembered."""
        key = (known.row_id, release.version, release.calibration, known.pending)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        stored = store_image(known.data, self._stored(release))
        placed = release.placer.place(decode_image(stored.data), known.vectors)
        found = GeneratedAnswer(
            **{
                **dict(answer(placed, known.row_id, kept=True)),
                "width": stored.width,
                "height": stored.height,
            },
            created=known.created.astimezone(UTC).isoformat(),
            image=image_address(known.row_id),
            pending=known.pending,
            name=known.name,
            negative=known.facts["negative_prompt"],
            path=known.path,
            **{name: known.facts[name] for name in _OF_GENERATION},
        )
        with self._lock:
            self._answers[key] = found
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return found

    # -- in the table --------------------------------------------------------------------------------

    def _placed(self, release: OpenRelease) -> list[GeneratedEntry]:
        """The images in the table, on a release, newest first; read again when the table has changed."""
        table = GeneratedTable(self._storage.lance_uri).open()
        if table is None:
            return []
        key = (int(table.version), release.version)
        with self._lock:
            if self._table is not None and self._table[0] == key:
                return self._table[1]
        rows = sorted(self._rows(release, ["id", "received"]), key=lambda row: (row["received"], row["id"]))
        ids = {row["id"] for row in rows[-_LISTED:]}
        found = [
            GeneratedEntry(
                generated_id=row["id"],
                prompt=row["prompt"],
                created=row["received"].astimezone(UTC).isoformat(),
                positions=_positions(release, row),
                image=image_address(row["id"]),
                pending=False,
            )
            for row in self._rows(release, ["id", "prompt", "received"])
            if row["id"] in ids
        ]
        with self._lock:
            self._table = (key, found)
        return found

    def _rows(self, release: OpenRelease, columns: list[str], row_id: str | None = None) -> Iterator[dict[str, Any]]:
        table = GeneratedTable(self._storage.lance_uri).open()
        if table is None:
            return
        where = f"release = {release.version}" + (f" AND id = '{row_id}'" if row_id else "")
        further = [f"{PLACE}{space}" for space in release.atlas.info.spaces]
        further += list(release.placer.model.features) if row_id else []
        names = [name for name in (*columns, *further) if name in table.schema.names]
        for batch in table.search().where(where).select(names).limit(None).to_batches():
            yield from batch.to_pylist()

    def _of_row(self, release: OpenRelease, row: Mapping[str, Any]) -> _Known:
        path: dict[str, list[Any]] = {}
        for step in sorted(row["path"], key=lambda step: int(step["step"])):
            path.setdefault(step["space"], []).append(step["xyz"])
        same = row["encoder"] == encoder_fingerprint(release.placer)
        return _Known(
            row_id=row["id"],
            name=row["name"],
            created=row["received"],
            data=self._storage.read_bytes(row["file"]),
            pending=False,
            facts=row,
            path=path,
            vectors={name: np.asarray(row[name], np.float16) for name in release.placer.model.features}
            if same
            else None,
        )

    # -- not in the table yet ------------------------------------------------------------------------

    def _images_in_inbox(self) -> Iterator[_Waiting]:
        for file in self._storage.files(SERVICE_INBOX):
            path = PurePosixPath(file.name)
            if path.suffix[1:] in EXTENSIONS.values():
                yield _Waiting(path.stem, file.name, file.modified, None)

    def _waiting(self) -> Iterator[_Waiting]:
        """Files of this service that are still in the inbox, and images that were taken out and are not placed."""
        yield from self._images_in_inbox()
        for _, rows in inbox.accepted(self._storage):
            for row in rows:
                yield _Waiting(row["id"], original_name(row["id"], row["extension"]), row["received"], row)

    def _pending_entry(self, release: OpenRelease, item: _Waiting) -> GeneratedEntry | None:
        try:
            told = self._answer(release, self._of_waiting(release, item))
        except (StorageError, FileNotFoundError):  # taken or placed since it was listed
            return None
        return GeneratedEntry(
            generated_id=told.generated_id,
            prompt=told.prompt,
            created=told.created,
            positions={space: found.position for space, found in told.placements.items()},
            image=told.image,
            pending=True,
        )

    def _of_waiting(self, release: OpenRelease, item: _Waiting) -> _Known:
        data = self._storage.read_bytes(item.file)
        if item.row is not None:
            facts, steps, of = item.row["generation"], item.row["path"], item.row["path_release"]
        else:
            name = kept_name(item.row_id, "json")
            sidecar = (name, self._storage.read_bytes(name)) if self._storage.exists(name) else None
            facts, (steps, of) = vars(read_generation(data, sidecar)), read_path(sidecar)
        path: dict[str, list[Any]] = {}
        for step in steps if of == release.version else ():
            for space, xyz in step["places"].items():
                path.setdefault(space, []).append(xyz)
        return _Known(
            row_id=item.row_id,
            name=item.row["name"] if item.row is not None else PurePosixPath(item.file).name,
            created=datetime.fromtimestamp(item.when, UTC),
            data=data,
            pending=True,
            facts=facts,
            path=path,
            vectors=read_vectors(self._storage, item.row_id, encoder_fingerprint(release.placer)),
        )


def image_address(row_id: str) -> str:
    """Where the original of a generated image is."""
    return f"/api/generated/{row_id}/image"


def _positions(release: OpenRelease, row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    places = {space: row.get(f"{PLACE}{space}") for space in release.atlas.info.spaces}
    return {space: (xyz[0], xyz[1], xyz[2]) for space, xyz in places.items() if xyz is not None}


def _unknown(row_id: str) -> ProblemError:
    return ProblemError(404, f"There is no generated image {row_id} on this release.")
