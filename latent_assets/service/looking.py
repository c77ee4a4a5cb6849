"""Searches, rows and thumbnails of a release, as the API answers them. Everything here runs on a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import row_filter
from latent_assets.client import Hit, checked_text
from latent_assets.errors import NotBuiltError, QueryError
from latent_assets.service.answers import Found, ImageAnswer, Measure, Mode, NeighbourGroup, SearchAnswer
from latent_assets.service.placements import groups, thumbnail_address
from latent_assets.service.releases import OpenRelease

_SCORES = ("aesthetic", "similarity", "punsafe", "pwatermark")
_NEIGHBOURS = 8
_FUSED = 60  # reciprocal rank fusion: Cormack, Clarke, Buettcher, SIGIR 2009
_DEEP = 200  # places of each ranking that are fused at least
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


def search(release: OpenRelease, question: Question) -> SearchAnswer:
    """Images whose meaning or caption fits a text. Raises QueryError for what cannot be asked."""
    most = question.offset + question.k
    if question.mode == "meaning":
        found = _meaning(release, question, most)
    elif question.mode == "words":
        found = _words(release, question, most)
    else:
        found = _both(release, question, most)
    kept = [hit for hit in found if question.min_score is None or hit.similarity >= question.min_score]
    return SearchAnswer(
        query=question.text, mode=question.mode, release=release.version, results=kept[question.offset : most]
    )


def search_image(release: OpenRelease, data: bytes, k: int, space: str) -> SearchAnswer:
    """Images that resemble a picture. Raises QueryError as `Atlas.search_image` does."""
    hits = release.atlas.search_image(data, k, space)
    return SearchAnswer(query=None, mode="image", release=release.version, results=_found(release, hits))


def neighbours(release: OpenRelease, row_id: str, k: int, space: str) -> SearchAnswer:
    """Images that resemble one of the atlas. Raises QueryError or NotBuiltError as `Atlas.neighbors` does."""
    hits = release.atlas.neighbors(row_id, k, space)
    return SearchAnswer(query=None, mode="image", release=release.version, results=_found(release, hits))


def image(release: OpenRelease, row_id: str) -> ImageAnswer:
    """A row and what is near it on every map. Raises NotBuiltError for an unknown id."""
    row = release.atlas.row(row_id)
    return ImageAnswer(
        **{name: getattr(row, name) for name in (*_COLUMNS, "width", "height", "shard")},
        release=release.version,
        licence=getattr(row, "licence", None),
        attribution=getattr(row, "attribution", None) or release.atlas.info.attribution or None,
        scores={name: value for name in _SCORES if (value := getattr(row, name)) is not None},
        positions=row.xyz,
        thumbnail=thumbnail_address(row_id, release.version),
        neighbours=_near(release, row_id),
    )


def thumbnail(release: OpenRelease, row_id: str) -> bytes:
    """The bytes of a row's thumbnail, WebP or JPEG. Raises NotBuiltError for an unknown id."""
    held = release.placer.resident
    if held is not None and (at := held.position(row_id)) is not None:
        return held.thumbnail(at)
    found = release.table.search().where(f"id = '{row_id}'").select(["thumbnail"]).limit(1).to_arrow()
    if not len(found):
        raise NotBuiltError(f"The atlas {release.atlas.info.profile} (version {release.version}) has no row {row_id}.")
    data: bytes = found["thumbnail"][0].as_py()
    return data


# -- searching -----------------------------------------------------------------------------------------


def _meaning(release: OpenRelease, question: Question, most: int) -> list[Found]:
    row_filter(question.category, question.domain)  # refuses what is no domain
    vector = release.texts.vector(checked_text(question.text))
    held = release.placer.resident
    if held is None or "clip" not in held.vectors:
        hits = release.atlas.search_vector(vector, most, category=question.category, domain=question.domain)
        return _found(release, hits)
    among = release.words.among(question.category, question.domain)
    rows, distances = held.nearest("clip", vector, most, among)
    return [
        _of_row(release, held.row(at), 1.0 - distance, "cosine similarity")
        for at, distance in zip(rows.tolist(), distances.tolist(), strict=True)
    ]


def _words(release: OpenRelease, question: Question, most: int) -> list[Found]:
    row_filter(question.category, question.domain)  # refuses what is no domain
    among = release.words.among(question.category, question.domain)
    rows, scores = release.words.search(question.text, most, among)
    return [
        _of_row(release, row, float(score), "BM25") for row, score in zip(_take(release, rows), scores, strict=True)
    ]


def _both(release: OpenRelease, question: Question, most: int) -> list[Found]:
    """Both rankings, fused by their ranks: the scores of the two do not compare."""
    deep = max(_DEEP, most)
    rankings = [_meaning(release, question, deep), _words(release, question, deep)]
    known = {hit.id: hit for ranking in rankings for hit in ranking}
    scores = dict.fromkeys(known, 0.0)
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.id] += 1.0 / (_FUSED + rank)
    best = sorted(scores, key=lambda row_id: -scores[row_id])[:most]
    return [
        known[row_id].model_copy(update={"similarity": scores[row_id], "measure": "reciprocal rank"}) for row_id in best
    ]


def _take(release: OpenRelease, rows: np.ndarray) -> Sequence[Mapping[str, Any]]:
    """Rows by their positions, in that order."""
    places = [f"{PLACE}{space}" for space in release.atlas.info.spaces]
    held = release.placer.resident
    if held is not None:
        return [held.row(at) for at in rows.tolist()]
    if not len(rows):
        return []
    # what is taken comes in the order of the table
    taken = release.table.take_offsets(sorted(rows.tolist())).select([*_COLUMNS, *places]).to_arrow().to_pylist()
    of_row = dict(zip(sorted(rows.tolist()), taken, strict=True))
    return [of_row[row] for row in rows.tolist()]


def _of_row(release: OpenRelease, row: Mapping[str, Any], score: float, measure: Measure) -> Found:
    return Found(
        **{name: row[name] for name in _COLUMNS},
        similarity=score,
        measure=measure,
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
