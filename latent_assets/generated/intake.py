"""Taking images out of the inbox: judged with the fetcher's limits, kept under their hash, their metadata read.

Nothing is encoded or placed here; see `projecting`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from latent_assets.errors import StorageError
from latent_assets.generated import inbox
from latent_assets.generated.inbox import Dropped, Quarantined
from latent_assets.generated.metadata.reading import read_generation
from latent_assets.images.decode.formats import EXTENSIONS, sniff
from latent_assets.images.decode.image import decode_image
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.layout import original_name
from latent_assets.progress import report

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_AT_ONCE = 256
_KINDS = frozenset({"png", "jpeg", "webp", "avif"})
_MOST_STEPS = 1_000
_SPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Intake:
    """What became of the inbox. rows: of the images that were taken. new: files whose bytes were not there before;
    again: those whose were."""

    rows: tuple[dict[str, Any], ...]
    new: int
    again: int
    quarantined: tuple[Quarantined, ...]
    left: int


def take_in(profile: Profile, storage: Storage, dropped: Iterable[Dropped]) -> Intake:
    """Take what lies in the inbox: keep the originals, note them as accepted, put aside what is no image.

    Some hundred files at a time; a killed process goes on where it stopped.
    """
    source, noted = list(dropped), inbox.ids_aside(storage)
    files = iter(source)
    rows: dict[str, dict[str, Any]] = {}
    aside: list[Quarantined] = []
    new = again = left = done = 0
    while chunk := list(islice(files, _AT_ONCE)):
        taken: list[tuple[Dropped, dict[str, Any]]] = []
        for drop in chunk:
            try:
                found = inbox.read(storage, drop, profile.fetch.max_bytes)
            except StorageError as error:
                if not isinstance(error.__cause__, PermissionError):
                    raise
                unread = drop.file.name.encode("utf-8", "surrogateescape")
                aside.append(inbox.quarantine(storage, drop, unread, Reason.FILE_UNREADABLE.value, str(error)))
                continue
            if found is None:
                left += 1
                continue
            data, sidecar = found
            try:
                row, is_new = _kept(profile, storage, drop, data, sidecar)
            except FetchError as error:
                aside.append(inbox.quarantine(storage, drop, data, error.reason.value, error.evidence))
                continue
            taken.append((drop, row))
            new += is_new
            again += not is_new
        fresh = {row["id"]: row for _, row in reversed(taken) if row["id"] not in rows}
        kept = [original_name(row["id"], row["extension"]) for _, row in taken]
        if fresh:
            kept.append(inbox.accept(storage, list(fresh.values())))
        storage.flush(kept)  # before the files of the inbox go
        for row_id in noted & fresh.keys():  # its original was lost, and is there again
            inbox.clear_reason(storage, row_id)
        for drop, _ in taken:
            inbox.remove(storage, drop)
        rows |= fresh
        done += len(chunk)
        report("generated_images", done, len(source), "images")
    return Intake(tuple(rows.values()), new, again, tuple(aside), left)


def decoded(data: bytes, profile: Profile) -> Image.Image:
    """The image in `data` as the atlas sees it: upright, opaque, sRGB.

    Raises FetchError for what is no image, or one beyond the profile's limits (`fetch.max_bytes`, `max_pixels`).
    """
    if len(data) > profile.fetch.max_bytes:
        raise FetchError(Reason.TOO_MANY_BYTES, f"more than {profile.fetch.max_bytes:,} bytes")
    if data and (kind := sniff(data)) not in _KINDS:
        raise FetchError(Reason.UNSUPPORTED_FORMAT, f"{kind}: PNG, JPEG, WebP or AVIF are taken")
    return decode_image(data, profile.fetch)


def _kept(
    profile: Profile, storage: Storage, drop: Dropped, data: bytes, sidecar: tuple[str, bytes] | None
) -> tuple[dict[str, Any], bool]:
    """Keep the original of an image; its row, as JSON takes it, and whether it is new.

    Raises FetchError as `decoded` does.
    """
    image = decoded(data, profile)
    sha256 = hashlib.sha256(data).hexdigest()
    extension = EXTENSIONS[sniff(data)]
    kept = original_name(sha256, extension)
    is_new = storage.create(kept, data)
    if not is_new and storage.read_bytes(kept) != data:  # damaged since
        storage.write_bytes(kept, data)
    path, release = read_path(sidecar)
    row = {
        "id": sha256,
        "name": inbox.shown_name(drop.file.name),
        "extension": extension,
        "received": round(time.time(), 3),
        "bytes": len(data),
        "pixel_width": image.width,
        "pixel_height": image.height,
        "generation": asdict(read_generation(data, sidecar)),
        "path": path,
        "path_release": release,
    }
    return row, is_new


def read_path(sidecar: tuple[str, bytes] | None) -> tuple[list[Any], int | None]:
    """The way of an image through the maps of a release, where this package's own sidecar tells both: steps as
    {"step": 3, "places": {"clip": [x, y, z], ...}} and the release; else none."""
    if sidecar is None or not sidecar[0].lower().endswith(".json"):
        return [], None
    try:
        values = json.loads(sidecar[1])
    except (ValueError, RecursionError):
        return [], None
    if not isinstance(values, Mapping):
        return [], None
    steps, release = values.get("path"), values.get("release")
    if not isinstance(steps, list) or len(steps) > _MOST_STEPS or type(release) is not int:
        return [], None
    return (steps, release) if all(map(_is_step, steps)) else ([], None)


def _is_step(step: object) -> bool:
    if not isinstance(step, Mapping) or type(number := step.get("step")) is not int:
        return False
    places = step.get("places")
    return (
        0 <= number <= _MOST_STEPS
        and isinstance(places, Mapping)
        and all(
            _SPACE.fullmatch(name)
            and isinstance(xyz, list)
            and len(xyz) == 3
            and all(type(value) in (float, int) and abs(value) < 1e9 for value in xyz)
            for name, xyz in places.items()
        )
    )
