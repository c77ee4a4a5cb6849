"""Placing what was taken out of the inbox on the release `live`, and again when another release is published.

What is to do follows from the rows that are there: an image that was accepted, or was placed on an older release, and
has no row for the one that is live, or one whose verdict follows an older calibration of it. A process that is killed
leaves whole rows; the next one goes on after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import LIVE, open_table
from latent_assets.embeddings.thumbnails import thumbnail
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.generated import inbox
from latent_assets.generated.known_vectors import drop_vectors, known_ids, read_vectors
from latent_assets.generated.placement.calibration import calibration_version
from latent_assets.generated.placement.placing import ImagePlacer, calibration_key
from latent_assets.generated.table import GeneratedTable, generated_schema
from latent_assets.images.decode.image import decode_as_stored
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.layout import original_name
from latent_assets.progress import report
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.placement.placed import Placed
    from latent_assets.generated.placement.placing import Vectors
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_AT_ONCE = 64


@dataclass(frozen=True)
class Pending:
    """What there is to do. batch: files of the inbox that can be taken now. accepted: notes of images that were taken
    and are not placed. unplaced: images that were placed on older releases only, or by an older calibration. live: the
    release; None without one. calibration: its version.
    """

    batch: tuple[inbox.Dropped, ...]
    accepted: tuple[str, ...]
    unplaced: tuple[str, ...]
    live: int | None
    calibration: str | None

    def __bool__(self) -> bool:
        return bool(self.batch or self.accepted or self.unplaced)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, equal for the same work."""
        return fingerprint(
            [[drop.file.name, drop.file.size, drop.file.modified] for drop in self.batch],
            self.accepted,
            self.unplaced,
            self.live,
            self.calibration,
        )[:16]


@dataclass(frozen=True)
class Projection:
    """What was placed on a release. rows: of the table, newest placements last. lost: images whose originals cannot be
    read any more, and why. expired: images that the profile keeps no longer."""

    release: int
    rows: tuple[dict[str, Any], ...]
    lost: Mapping[str, str]
    expired: int


def pending(profile: Profile, storage: Storage) -> Pending:
    """What is to be taken or placed now. An atlas without a release, or without rows, places nothing yet."""
    batch = tuple(inbox.ready(storage)[: profile.generated.batch])
    target = live_target(storage)
    if target is None:
        return Pending(batch, (), (), None, None)
    return Pending(batch, tuple(inbox.accepted_names(storage)), tuple(_unplaced(storage, *target)), *target)


def live_release(storage: Storage) -> int | None:
    """The version of the release that images are placed on; None when there is none, or it has no rows.

    One whose calibration is not made yet is waited for: what is usual in it belongs to a placement.
    """
    target = live_target(storage)
    return target[0] if target else None


def live_target(storage: Storage) -> tuple[int, str] | None:
    """The release that images are placed on, and the version of its calibration."""
    try:
        table = open_table(storage.lance_uri, LIVE)
    except NotBuiltError:
        return None
    info = ReleaseInfo.of_schema(table.schema, storage.lance_uri)
    calibration = calibration_version(storage, calibration_key(info)) if info.rows else None
    return (int(table.version), calibration) if calibration is not None else None


def _unplaced(storage: Storage, release: int, calibration: str) -> list[str]:
    aside = inbox.ids_aside(storage)
    placed = GeneratedTable(storage.lance_uri).placements()
    return sorted(row_id for row_id, by in placed.items() if by.get(release) != calibration and row_id not in aside)


def project(profile: Profile, storage: Storage) -> Projection:
    """Place all that is accepted or not placed on the release that is live.

    Raises NotBuiltError when there is no release with rows, ModelError when a model of it is not on this machine.
    """
    target = live_target(storage)
    if target is None:
        raise NotBuiltError("There is no release to place images on yet. Run `latent-assets build`.")
    live, calibration = target
    placer, table = _placer(storage, live, calibration), GeneratedTable(storage.lance_uri)
    notes = list(inbox.accepted(storage))
    known = table.placements()
    waiting = {row["id"]: row for _, rows in notes for row in rows if live not in known.get(row["id"], ())}
    anew = [row_id for row_id in _unplaced(storage, live, calibration) if row_id not in waiting]
    work, made_before = [*waiting, *anew], known_ids(storage)
    placed: list[dict[str, Any]] = []
    lost: dict[str, str] = {}
    for start in range(0, len(work), _AT_ONCE):
        chunk = work[start : start + _AT_ONCE]
        before = table.rows([row_id for row_id in chunk if row_id in known])
        facts = [
            _again(before[row_id], live) if row_id in before else _facts(waiting[row_id], live) for row_id in chunk
        ]
        rows, missing = _place(profile, storage, placer, facts, made_before)
        table.add(rows, generated_schema(placer.model.features, placer.info.spaces))
        for row_id in made_before & set(chunk):
            drop_vectors(storage, row_id)
        placed += rows
        lost |= missing
        report("generated_projection", min(start + _AT_ONCE, len(work)), len(work), "images")
    for name, _ in notes:
        storage.delete(name)
    expired = expire(profile, storage)
    table.compact()
    return Projection(live, tuple(placed), lost, expired)


@lru_cache(maxsize=1)
def _placer(storage: Storage, release: int, calibration: str) -> ImagePlacer:
    """Models load once a process and release; `calibration` is part of the cache's key: another one is read anew."""
    return ImagePlacer.open(storage, release)


def forget(storage: Storage, ids: Sequence[str]) -> int:
    """Take images out altogether, on all releases: placements, originals, notes. How many there were."""
    table = GeneratedTable(storage.lance_uri)
    ages = table.ages()
    chosen = [row_id for row_id in ids if row_id in ages]
    table.delete(chosen)
    for row_id in chosen:
        storage.delete(ages[row_id][1])
    return len(chosen)


def expire(profile: Profile, storage: Storage, now: datetime | None = None) -> int:
    """Forget what is older than the profile keeps (`generated.max_age_days`), and the oldest above `max_images`."""
    settings = profile.generated
    if settings.max_age_days is None and settings.max_images is None:
        return 0
    moment = now or datetime.now(UTC)
    ages = GeneratedTable(storage.lance_uri).ages()
    newest = sorted(ages, key=lambda row_id: (ages[row_id][0], row_id), reverse=True)
    kept = newest if settings.max_images is None else newest[: settings.max_images]
    if settings.max_age_days is not None:
        since = moment - timedelta(days=settings.max_age_days)
        kept = [row_id for row_id in kept if ages[row_id][0] >= since]
    return forget(storage, sorted(set(newest) - set(kept)))


# -- rows ----------------------------------------------------------------------------------------------


def _facts(row: Mapping[str, Any], release: int) -> dict[str, Any]:
    """An accepted image (`intake`) in the table's columns, for its placement on a release."""
    generation = row["generation"]
    steps = row["path"] if row["path_release"] == release else []
    return {
        "id": row["id"],
        "name": row["name"],
        "received": datetime.fromtimestamp(row["received"], UTC),
        "file": original_name(row["id"], row["extension"]),
        "bytes": row["bytes"],
        "width": row["pixel_width"],
        "height": row["pixel_height"],
        **{
            name: generation[name]
            for name in ("tool", "prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "model")
        },
        "parameters": generation["raw"],
        "path": [
            {"step": step["step"], "space": space, "xyz": xyz}
            for step in steps
            for space, xyz in step["places"].items()
        ],
    }


def _again(row: Mapping[str, Any], release: int) -> dict[str, Any]:
    """An image that was placed before, for its placement on `release`: the way through generation was told in the
    places of one release."""
    return {**row, "path": row["path"] if row["release"] == release else []}


_KEPT = (
    *("id", "name", "received", "file", "bytes", "width", "height", "tool", "prompt", "negative_prompt", "seed"),
    *("steps", "guidance", "sampler", "model", "parameters", "path"),
)


def _place(
    profile: Profile, storage: Storage, placer: ImagePlacer, facts: Sequence[Mapping[str, Any]], made_before: Set[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of images on a release, and those whose originals cannot be read or encoded, which are put aside."""
    encoder = encoder_fingerprint(placer)
    stored = placer.info.how_stored.model_copy(update={"max_pixels": profile.fetch.max_pixels})
    lost: dict[str, str] = {}

    def give_up(row: Mapping[str, Any], reason: str, detail: str) -> None:
        lost[row["id"]] = f"{reason}: {detail}"
        inbox.set_aside(storage, row["id"], row["name"], reason, detail)

    pictures: dict[str, Image.Image] = {}
    for row in facts:
        try:
            if not storage.exists(row["file"]):
                raise FetchError(Reason.FILE_MISSING, f"{row['file']} is not there")
            pictures[row["id"]] = decode_as_stored(storage.read_bytes(row["file"]), stored)
        except FetchError as error:
            give_up(row, error.reason.value, error.evidence)
    readable = [row for row in facts if row["id"] in pictures]
    # vectors of the placement before, where the models are still the same
    vectors: dict[str, Vectors | None] = {
        row["id"]: {name: np.asarray(row[name], np.float16) for name in placer.model.features}
        for row in readable
        if row.get("encoder") == encoder
    }
    # those that were made when the image was accepted
    for row_id in (row["id"] for row in readable if row["id"] in made_before and row["id"] not in vectors):
        if (made := read_vectors(storage, row_id, encoder)) is not None and made.keys() == placer.model.features.keys():
            vectors[row_id] = made
    new = [row["id"] for row in readable if row["id"] not in vectors]
    vectors |= zip(new, _encoded(placer, [pictures[row_id] for row_id in new]), strict=True)
    found = []
    for row in readable:
        if vectors[row["id"]] is None:
            give_up(row, "no_vector", "a model gives values that are not finite")
        else:
            found.append(row)
    placements = placer.place_all(
        [pictures[row["id"]] for row in found], [known for row in found if (known := vectors[row["id"]]) is not None]
    )
    now = datetime.now(UTC)
    rows = []
    for row, placed in zip(found, placements, strict=True):
        kept = {name: row[name] for name in _KEPT}
        small = thumbnail(pictures[row["id"]], profile.table)
        rows.append({**kept, **_placement(placed), "placed": now, "encoder": encoder, "thumbnail": small})
    return rows, lost


def _encoded(placer: ImagePlacer, pictures: Sequence[Image.Image]) -> list[Vectors | None]:
    """The vectors of images; None for one of which a model makes nothing. One such image does not stop the others."""
    try:
        return list(placer.encode(pictures))
    except DataError:
        if len(pictures) == 1:
            return [None]
        return [found for picture in pictures for found in _encoded(placer, [picture])]


def encoder_fingerprint(placer: ImagePlacer) -> str:
    """What decides the vectors of an image on a release: its models, their features, how images are sized."""
    models = {name: placer.info.models[name].digest for name in placer.model.features}
    return fingerprint("generated", 1, models, dict(placer.model.features), placer.info.images)[:16]


def _placement(placed: Placed) -> dict[str, Any]:
    """Where an image falls, in the table's columns."""
    row: dict[str, Any] = {
        "release": placed.release,
        "calibration": placed.calibration,
        "verdict": placed.verdict,
        "explanation": placed.sentence,
        "p_value": placed.p_value,
        "agreement": placed.agreement,
        "copy_of": placed.copy.id if placed.copy else None,
        "copy_correlation": placed.copy.correlation if placed.copy else None,
        "copy_chance": placed.copy.chance if placed.copy else None,
        "behind": [vars(share) for share in placed.behind],
        **placed.vectors,
    }
    for space, place in placed.placements.items():
        row |= {
            f"{PLACE}{space}": place.position,
            f"spread_{space}": place.uncertainty,
            f"jitter_{space}": place.jitter,
            f"trust_{space}": place.trust,
            f"near_{space}": [
                {"id": item.id, "similarity": item.similarity, "distance": item.distance, "size": item.group_size}
                for item in place.neighbours
            ],
            f"distance_{space}": place.distance,
            f"percentile_{space}": place.percentile,
            f"group_percentile_{space}": place.group_percentile,
            f"p_value_{space}": place.p_value,
            f"verdict_{space}": place.verdict,
        }
    return row
