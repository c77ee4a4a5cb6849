"""Searches, rows and thumbnails of a release, as the API answers them. Everything here runs on a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from latent_assets.atlas.resident import matrix
from latent_assets.atlas.schema import PLACE
from latent_assets.client import Hit, checked_text
from latent_assets.errors import NotBuiltError, QueryError
from latent_assets.service.answers import (
    Found,
    ImageAnswer,
    LabelAnswer,
    Labels,
    Mode,
    NeighbourGroup,
    SearchAnswer,
)
from latent_assets.service.placements import groups, thumbnail_address
from latent_assets.service.releases import KeptRelease, OpenRelease

_SCORES = ("aesthetic", "similarity", "punsafe", "pwatermark")
_NEIGHBOURS = 8
# the API's words -> the client's
MODES: Mapping[str, Literal["clip", "words", "hybrid"]] = {"meaning": "clip", "words": "words", "both": "hybrid"}
MOST_COMPARED = 1_000_000  # rows whose vectors are read for one question
_BATCH_ROWS = 8_192
_COLUMNS = ("id", "caption", "category", "url", "source_url")


@dataclass(frozen=True)
class Question:
    """What is asked of a search by words. k, offset: which of the results. min_score: in the mode's measure."""

    text: str
    mode: Mode
    k: int
    offset: int
    min_score: float | None
    category: str | None
    domain: str | None
    where: str | None = None


def search(release: OpenRelease, question: Question) -> SearchAnswer:
    """Images whose meaning or caption fits a text. Raises QueryError for what cannot be asked."""
    most = question.offset + question.k
    found = _meaning(release, question, most) if question.mode == "meaning" else _words(release, question, most)
    kept = [hit for hit in found if question.min_score is None or hit.similarity >= question.min_score]
    return SearchAnswer(
        query=question.text,
        mode=question.mode,
        release=release.version,
        results=kept[question.offset : most],
        notice=release.atlas.info.notice,
    )


def search_image(release: OpenRelease, data: bytes, k: int, space: str) -> SearchAnswer:
    """Images that resemble a picture. Raises QueryError as `Atlas.search_image` does."""
    hits = release.atlas.search_image(data, k, space)
    return _like_an_image(release, hits)


def neighbours(release: OpenRelease, row_id: str, k: int, space: str) -> SearchAnswer:
    """Images that resemble one of the atlas. Raises QueryError or NotBuiltError as `Atlas.neighbors` does."""
    hits = release.atlas.neighbors(row_id, k, space)
    return _like_an_image(release, hits)


def _like_an_image(release: OpenRelease, hits: Sequence[Hit]) -> SearchAnswer:
    found, notice = _found(release, hits), release.atlas.info.notice
    return SearchAnswer(query=None, mode="image", release=release.version, results=found, notice=notice)


def image(release: OpenRelease, row_id: str) -> ImageAnswer:
    """A row and what is near it on every map. Raises NotBuiltError for an unknown id."""
    found = image_before(release, row_id)
    return found.model_copy(update={"neighbours": _near(release, row_id)})


def image_before(release: KeptRelease, row_id: str) -> ImageAnswer:
    """A row of any release, without what is near it: that needs the release's maps in memory.

    Raises NotBuiltError for an unknown id.
    """
    atlas, row = release.atlas, release.atlas.row(row_id)
    return ImageAnswer(
        **{name: getattr(row, name) for name in (*_COLUMNS, "width", "height", "shard")},
        release=atlas.version,
        licence=getattr(row, "licence", None),
        attribution=getattr(row, "attribution", None) or atlas.info.attribution or None,
        scores={name: value for name in _SCORES if (value := getattr(row, name)) is not None},
        positions=row.xyz,
        thumbnail=thumbnail_address(row_id, atlas.version),
        neighbours={},
    )


def labels(release: OpenRelease, space: str, level: int | None) -> Labels:
    """Clusters of a map. Raises QueryError or NotBuiltError as `Atlas.labels` does."""
    found = release.atlas.labels(space, level)
    entries = [
        LabelAnswer(
            id=label.id,
            level=label.level,
            parent=label.parent,
            text=label.name,
            words=list(label.words),
            rows=label.rows,
            position=label.centre,
            radius=label.radius,
            image=label.representative,
            thumbnail=thumbnail_address(label.representative, release.version),
        )
        for label in found
    ]
    return Labels(release=release.version, space=space, rows=release.atlas.info.rows, labels=entries)


def thumbnail(release: KeptRelease, row_id: str) -> bytes:
    """The bytes of a row's thumbnail, WebP or JPEG. Raises NotBuiltError for an unknown id."""
    held = release.placer.resident if isinstance(release, OpenRelease) else None
    if held is not None and (at := held.position(row_id)) is not None:
        return held.thumbnail(at)
    found = release.table.search().where(f"id = '{row_id}'").select(["thumbnail"]).limit(1).to_arrow()
    if not len(found):
        name, version = release.atlas.info.profile, release.atlas.version
        raise NotBuiltError(f"The atlas {name} (version {version}) has no row {row_id}.")
    data: bytes = found["thumbnail"][0].as_py()
    return data


def similarities(release: OpenRelease, text: str) -> tuple[bytes, float, float]:
    """How similar every row is to a text, in the order of the table: one byte a row, 1 for the least similar, 255 for
    the most; and the cosines of those two. Raises QueryError for an atlas of more than `MOST_COMPARED` rows.
    """
    if release.atlas.info.rows > MOST_COMPARED:
        raise QueryError(
            f"Every image is compared in atlases of at most {MOST_COMPARED:,} images; this one has "
            f"{release.atlas.info.rows:,}. Search instead: the nearest are found in any."
        )
    query = release.texts.vector(checked_text(text)).astype(np.float32)
    batches = release.table.search().select(["clip"]).to_batches(_BATCH_ROWS)
    parts = [matrix(pa.chunked_array([batch.column("clip")])).astype(np.float32) @ query for batch in batches]
    found = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(found):
        return b"", 0.0, 0.0
    low, high = float(found.min()), float(found.max())
    share = (found - low) / ((high - low) or 1.0)
    return (1 + np.rint(share * 254)).astype(np.uint8).tobytes(), low, high


def _meaning(release: OpenRelease, question: Question, most: int) -> list[Found]:
    vector = release.texts.vector(checked_text(question.text))
    held, filters = release.placer.resident, (question.where, question.category, question.domain)
    if held is None or "clip" not in held.vectors or any(each is not None for each in filters):
        where, category, domain = filters
        hits = release.atlas.search_vector(vector, most, where=where, category=category, domain=domain)
        return _found(release, hits)
    rows, distances = held.nearest("clip", vector, most)
    return [
        _of_row(release, held.row(at), 1.0 - distance)
        for at, distance in zip(rows.tolist(), distances.tolist(), strict=True)
    ]


def _words(release: OpenRelease, question: Question, most: int) -> list[Found]:
    hits = release.atlas.search_text(
        question.text,
        most,
        mode=MODES[question.mode],
        where=question.where,
        category=question.category,
        domain=question.domain,
    )
    return _found(release, hits)


def _of_row(release: OpenRelease, row: Mapping[str, Any], similarity: float) -> Found:
    return Found(
        **{name: row[name] for name in _COLUMNS},
        similarity=similarity,
        measure="cosine similarity",
        thumbnail=thumbnail_address(row["id"], release.version),
        positions={space: tuple(row[f"{PLACE}{space}"]) for space in release.atlas.info.spaces},
    )


def _found(release: OpenRelease, hits: Iterable[Hit]) -> list[Found]:
    return [
        Found(
            **{name: getattr(hit, name) for name in (*_COLUMNS, "measure")},
            similarity=hit.score,
            thumbnail=thumbnail_address(hit.id, release.version),
            positions=hit.xyz,
        )
        for hit in hits
    ]


def _near(release: OpenRelease, row_id: str) -> dict[str, list[NeighbourGroup]]:
    """What is near a row on every map, in groups of near-duplicates."""
    placer = release.placer
    names = list(placer.model.features)
    (row,) = release.table.search().where(f"id = '{row_id}'").select(names).limit(1).to_arrow().to_pylist()
    around = placer.neighborhoods.around({name: np.asarray(row[name]) for name in names}, without=row_id)
    return {space: groups(near.neighbours(_NEIGHBOURS), release.version) for space, near in around.items()}


def check_space(release: OpenRelease, space: str) -> None:
    """Raises QueryError for what is no embedding of the release."""
    if space not in release.atlas.info.dims:
        known = " or ".join(release.atlas.info.dims)
        raise QueryError(f"Neighbours are found in the space {known}, not in `{space[:80]}`.")
