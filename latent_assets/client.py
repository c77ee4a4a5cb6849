"""What a downstream app imports: open a published atlas, search it by text, picture or row, read its rows.

    atlas = Atlas.open("s3://bucket/atlas/lance")
    for hit in atlas.search_text("a sad face", k=5):
        print(hit.caption, hit.score, hit.source_url)

Opening and reading need neither torch nor a model; a model loads at the first search by text (its text tower alone) or
by picture.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, wraps
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, SupportsIndex, TypeVar, cast

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.history import ReleaseSummary, releases
from latent_assets.atlas.labels.store import LEVELS, Label, read_labels
from latent_assets.atlas.predicates import checked_filter
from latent_assets.atlas.schema import CLUSTER, PLACE
from latent_assets.atlas.table import (
    LIVE,
    has_words,
    is_absent,
    matching,
    nearest,
    open_table,
    reading,
    row_filter,
)
from latent_assets.errors import NotBuiltError, QueryError, UnfitModelsWarning
from latent_assets.generated.placement.placed import Neighbour, Placed, Placement, PossibleCopy, Share, Verdict
from latent_assets.layout import ATLAS_TABLE, LANCE, table_folder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from lancedb.table import LanceTable
    from PIL import Image

    from latent_assets.generated.placement.placing import ImagePlacer
    from latent_assets.models.clip import ClipEncoder
    from latent_assets.models.encoder import Encoder
    from latent_assets.models.text_tower import TextEncoder

Measure = Literal["cosine similarity", "L2 distance", "BM25", "reciprocal rank"]
Mode = Literal["clip", "words", "hybrid"]
Point = tuple[float, float, float]

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
__all__ = [
    "Atlas",
    "Hit",
    "Label",
    "Measure",
    "Mode",
    "Neighbour",
    "Placed",
    "Placement",
    "Point",
    "PossibleCopy",
    "QueryError",
    "ReleaseSummary",
    "Row",
    "Share",
    "Verdict",
]


_LOOKS_EVERY = 0.5  # seconds between looks at a tag that is followed
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_RESULTS = 10_000
_LONGEST_TEXT = 10_000
_FUSED = 60  # reciprocal rank fusion: Cormack, Clarke, Buettcher, SIGIR 2009
_FUSED_DEEP = 200  # places of each ranking that are fused at least
# an embedding's metric -> what a score is
_MEASURES: dict[str, Measure] = {"cosine": "cosine similarity", "euclidean": "L2 distance"}


@dataclass(frozen=True)
class Row:
    """One image of the atlas; the columns are described in `atlas.schema`. `xyz`: place per space, map units.

    `clusters`: per space the id of the finest cluster that it is in, None for none; see `Atlas.labels`.
    """

    id: str
    url: str
    path: str | None
    source_url: str | None
    caption: str | None
    category: str | None
    aesthetic: float | None
    similarity: float | None
    punsafe: float | None
    pwatermark: float | None
    source_hash: int | None
    width: int
    height: int
    sha256: str
    shard: str
    thumbnail: bytes
    xyz: dict[str, Point]
    clusters: dict[str, str | None]


@dataclass(frozen=True)
class Hit:
    """One answer of a search. `measure` says what `score` is.

    "cosine similarity" (CLIP vectors): -1 to 1, larger is nearer. "L2 distance" (VAE features): 0 upwards,
    smaller is nearer. Which it is follows from the metric of the embedding. "BM25" (words of captions) and "reciprocal
    rank" (both): larger is better, and only the order means something. `xyz`: place per space, map units.
    """

    id: str
    score: float
    measure: Measure
    caption: str | None
    category: str | None
    url: str
    source_url: str | None
    xyz: dict[str, Point]


@dataclass(frozen=True)
class _View:
    """One release, opened, with the models that were asked for."""

    table: LanceTable
    info: ReleaseInfo
    encoders: dict[str, Encoder] = field(default_factory=dict)
    text: list[TextEncoder] = field(default_factory=list)  # one, once it was asked for
    placers: list[ImagePlacer] = field(default_factory=list)  # likewise
    loading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def version(self) -> int:
        return int(self.table.version)

    @cached_property
    def has_words(self) -> bool:
        """Whether captions are indexed by their words."""
        return has_words(self.table)

    def encoder(self, embedding: str) -> Encoder:
        with self.loading:
            if embedding not in self.encoders:
                self.encoders[embedding] = self.info.load_encoder(embedding)
            return self.encoders[embedding]

    def text_encoder(self) -> TextEncoder:
        with self.loading:
            if not self.text:
                self.text.append(self.info.load_text_encoder())
            return self.text[0]

    def placer(self, uri: str) -> ImagePlacer:
        from latent_assets.generated.placement.placing import ImagePlacer
        from latent_assets.storage import Storage

        root, _, folder = uri.rpartition("/")
        if folder != LANCE:
            raise NotBuiltError(
                f"{uri} is not below the root of an atlas: its maps are not beside it. Open the root to place images."
            )
        with self.loading:
            if not self.placers:
                self.placers.append(ImagePlacer(Storage(root), self.table))
            return self.placers[0]


def _in_one_release(
    method: Callable[Concatenate[Atlas, Parameters], Answer],
) -> Callable[Concatenate[Atlas, Parameters], Answer]:
    """All that a method reads is of the release that was current when it was called.

    A release that is taken away meanwhile, after a takedown, is asked for once more as the one that is there then.
    """

    @wraps(method)
    def call(self: Atlas, /, *arguments: Parameters.args, **named: Parameters.kwargs) -> Answer:
        here = self._here
        if getattr(here, "view", None) is not None:
            return method(self, *arguments, **named)
        here.view = view = self._now()
        try:
            return method(self, *arguments, **named)
        except (OSError, RuntimeError, ValueError, NotBuiltError) as error:
            if not (isinstance(error, NotBuiltError) or is_absent(error)) or not self._has_moved(view):
                raise
            here.view = self._view
            return method(self, *arguments, **named)
        finally:
            here.view = None

    return call


_ROW_COLUMNS = tuple(field.name for field in fields(Row) if field.name not in ("xyz", "clusters"))
_HIT_COLUMNS = ("id", "caption", "category", "url", "source_url")


class Atlas:
    """One release of an atlas, opened for reading. It stays that release when a newer one is published.

    Opened with `follow=True` it is whatever release `live` names when a method is called: each answer comes from one
    release, two answers may come from two. `current` gives a release that stays, for answers that belong together.
    Threads may share one. Searches in an atlas whose models do not know images like its own warn
    (`errors.UnfitModelsWarning`).
    """

    def __init__(self, table: LanceTable, uri: str, tag: str | int = LIVE, follow: bool = False) -> None:
        self.uri = uri
        self._tag, self._follow = tag, follow
        self._here = threading.local()
        self._opening = threading.Lock()
        self._view = _View(table, ReleaseInfo.of_schema(table.schema, uri))
        self._tags = open_table(uri, None).tags if follow else None
        self._looked = time.monotonic()

    @classmethod
    def open(cls, uri: str | Path, tag: str | int = LIVE, *, follow: bool = False) -> Atlas:
        """Open the release that `tag` (or a version number) names; with `follow`, also those it names later.

        `uri` is a LanceDB directory, an s3:// address of one, the table in it (`atlas.lance`), or the root of a
        profile. Credentials for S3 come from the usual AWS variables. A tag that moved is followed within half a
        second. Raises NotBuiltError when there is no such atlas or release, QueryError for a version to follow.
        """
        if not isinstance(tag, str) and _whole(tag) is None:
            raise QueryError(f"tag = {tag!r}: give the name of a tag, for example `live`, or the number of a version.")
        if follow and not isinstance(tag, str):
            raise QueryError(f"tag = {tag!r}: a version stays what it is; follow a tag, for example `live`.")
        text = str(uri).rstrip("/").removesuffix(f"/{table_folder(ATLAS_TABLE)}")
        if "://" not in text:
            folder = Path(text).expanduser().absolute()
            chosen = str(folder / LANCE if (folder / LANCE).is_dir() else folder)
            return cls(open_table(chosen, tag), chosen, tag, follow)
        try:
            return cls(open_table(text, tag), text, tag, follow)
        except NotBuiltError:
            return cls(open_table(f"{text}/{LANCE}", tag), f"{text}/{LANCE}", tag, follow)

    def current(self) -> Atlas:
        """The release that this is now, opened so that it stays that one."""
        view = self._now()
        return Atlas(view.table, self.uri, view.version)

    def releases(self) -> list[ReleaseSummary]:
        """The releases that can be opened, the newest first; `Atlas.open(uri, tag=release.tag)` opens one."""
        return releases(self.uri)

    @property
    def info(self) -> ReleaseInfo:
        """What the release says of itself."""
        return self._now().info

    @property
    def notice(self) -> str:
        """What whoever searches has to know of the release's models; "" for nothing."""
        return self.info.notice

    @_in_one_release
    def __len__(self) -> int:
        with self._reading():
            return int(self._table.count_rows())

    @_in_one_release
    def __repr__(self) -> str:
        return f"Atlas({self.uri!r}, version={self.version}, rows={len(self)})"

    @property
    def version(self) -> int:
        """Version of the table that this release is."""
        return self._now().version

    # -- searching -----------------------------------------------------------------------------------

    @_in_one_release
    def search_text(
        self,
        text: str,
        k: int = 10,
        *,
        mode: Mode = "clip",
        offset: int = 0,
        where: str | None = None,
        category: str | None = None,
        domain: str | None = None,
    ) -> list[Hit]:
        """The `k` images that fit a text best, after passing over the first `offset`.

        mode: "clip" (by meaning: nearest CLIP vectors), "words" (by the words of captions, BM25) or "hybrid" (both
        rankings, fused by their ranks). where: a filter over columns of the table, as in
        `aesthetic >= 7 AND contains(caption, 'fox')`; see `atlas.predicates`. category, domain: only rows of that
        category, only rows from that domain or below it.

        Raises QueryError for an empty text, for one of more than 10,000 characters (a model reads the first hundred
        words at most), and for what is no filter or domain; ModelError when the atlas's CLIP model is not on this
        machine; NotBuiltError when captions are asked and the release is older than their index.
        """
        checked, among = checked_text(text), self._filter(where, category, domain)
        k, offset = _checked_range(k, offset)
        if mode == "clip":
            return self._by_meaning(checked, k + offset, among)[offset:]
        if mode == "words":
            return self._by_words(checked, k + offset, among)[offset:]
        if mode != "hybrid":
            raise QueryError(f"mode = {mode!r}: say clip (meaning), words (of captions) or hybrid (both).")
        deep = max(_FUSED_DEEP, k + offset)
        return _fused([self._by_meaning(checked, deep, among), self._by_words(checked, deep, among)])[
            offset : offset + k
        ]

    @_in_one_release
    def search_image(
        self,
        image: str | Path | bytes | Image.Image,
        k: int = 10,
        space: str = "clip",
        *,
        offset: int = 0,
        where: str | None = None,
    ) -> list[Hit]:
        """The `k` images nearest to `image` (a path, a file's bytes or a PIL image) in `space`, best first.

        `space` is an embedding of the atlas (`clip`, `vae`, ...). The image is decoded and sized as those of the atlas
        were: a file that is in it finds itself, with a cosine of 1 or a distance of 0, to rounding. offset, where: as
        for `search_text`. Raises QueryError when it is not an image, ModelError as `search_text` does.
        """
        from latent_assets.embeddings.encoding import encode_images

        self._dims(space)
        k, offset = _checked_range(k, offset)
        among = self._filter(where)
        picture = self._picture(image)
        vector = encode_images(self._now().encoder(space), [picture])[self.info.features[space]][0]
        return self._nearest(space, vector, k + offset, among)[offset:]

    @_in_one_release
    def search_vector(
        self,
        vector: np.ndarray,
        k: int = 10,
        space: str = "clip",
        *,
        offset: int = 0,
        where: str | None = None,
        category: str | None = None,
        domain: str | None = None,
    ) -> list[Hit]:
        """The `k` images nearest to a vector of the space's own column (`clip`, `vae`, ...), best first.

        offset, where, category, domain: as for `search_text`.
        """
        import numpy as np

        dims = self._dims(space)
        try:
            given = np.asarray(vector)
            given = given.astype(np.float64) if given.dtype == object else given
        except (TypeError, ValueError):
            given = np.asarray("")
        if given.dtype.kind not in "fiu":
            raise QueryError(f"A {space} vector has {dims} numbers; this is none: {str(vector)[:80]!r}.")
        with np.errstate(over="ignore"):
            wide = given.astype(np.float32)
        if wide.shape != (dims,) or not np.isfinite(wide).all():
            raise QueryError(f"A {space} vector has {dims} finite values; this one has the shape {wide.shape}.")
        k, offset = _checked_range(k, offset)
        return self._nearest(space, wide, k + offset, self._filter(where, category, domain))[offset:]

    @_in_one_release
    def neighbors(
        self, id: str, k: int = 10, space: str = "clip", *, offset: int = 0, where: str | None = None
    ) -> list[Hit]:
        """The `k` other images nearest to the image `id` in `space` (an embedding of the atlas), best first.

        offset, where: as for `search_text`. Raises QueryError for a malformed id or another space, NotBuiltError for an
        id the atlas does not have.
        """
        import numpy as np

        self._dims(space)
        k, offset = _checked_range(k, offset)
        among = self._filter(where)
        vector = np.asarray(self._one(id, [space])[space], dtype=np.float32)
        found = self._nearest(space, vector, k + offset + 1, among)
        return [hit for hit in found if hit.id != id][offset : offset + k]

    @property
    def clip(self) -> ClipEncoder:
        """The CLIP model of the release, loaded at first use.

        Raises ModelError when it is not on this machine or its weights are not those the atlas was made with.
        """
        return cast("ClipEncoder", self._now().encoder("clip"))

    # -- placing -------------------------------------------------------------------------------------

    @_in_one_release
    def place(self, image: str | Path | bytes | Image.Image) -> Placed:
        """Where an image (a path, a file's bytes or a PIL image) falls on the maps of this release, and what is near.

            placed = atlas.place("fox.png")
            print(placed.sentence)
            for space, place in placed.placements.items():
                print(space, place.position, place.uncertainty, place.percentile, place.verdict)
                for item in place.neighbours:
                    print(item.similarity, item.caption, item.group_size)

        Nothing is kept of it. Raises QueryError when it is not an image, or has more bytes or pixels than the images of
        the atlas may have; NotBuiltError where the maps of the release do not lie beside its table (`uri` has to be the
        root of an atlas, or the LanceDB directory in it), or are empty; ModelError when a model of the release is not
        on this machine.
        """
        from latent_assets.images.decode.image import stored_like

        placer = self.placer
        with _reading(image) as data:
            stored = stored_like(data, self.info.how_stored)
        placed = placer.place_stored(stored)
        return placed if isinstance(data, bytes) else replace(placed, generated_id=None)

    @property
    def placer(self) -> ImagePlacer:
        """What places images on this release; its models load at the first image. Raises NotBuiltError as `place`."""
        return self._now().placer(self.uri)

    # -- reading -------------------------------------------------------------------------------------

    @_in_one_release
    def row(self, id: str) -> Row:
        """The row of an image. Raises QueryError for a malformed id, NotBuiltError for an unknown one."""
        present = set(self._table.schema.names)  # earlier releases have no `path`
        found: dict[str, Any] = dict.fromkeys(_ROW_COLUMNS)
        clusters = {space: name for space in self.info.spaces if (name := f"{CLUSTER}{space}") in present}
        wanted = [*(name for name in _ROW_COLUMNS if name in present), *self._places, *clusters.values()]
        found |= self._one(id, wanted)
        return Row(
            **{name: found[name] for name in _ROW_COLUMNS},
            xyz=self._xyz(found),
            clusters={space: found[name] for space, name in clusters.items()},
        )

    @_in_one_release
    def labels(self, space: str = "clip", level: int | None = None) -> list[Label]:
        """The labels of the map of `space`: its clusters with their names, coarse ones first, large ones before small.

            for label in atlas.labels("clip", level=1):
                print(label.name, label.rows, label.centre, label.representative)

        level: only those of a level, 1 (coarse) to 3 (fine); a map may have fewer. A row's cluster is in its column
        `cluster_SPACE` and in `Row.clusters`: the finest that it is in, whose `parent` is the coarser one. Raises
        QueryError for another space or level; NotBuiltError where the release has no labels, or they do not lie beside
        its table (`uri` has to be the root of an atlas, or the LanceDB directory in it).
        """
        from latent_assets.storage import Storage

        if space not in self.info.spaces:
            raise QueryError(f"There is no map `{space}`: the atlas has {', '.join(self.info.spaces)}.")
        if level is not None and level not in range(1, LEVELS + 1):
            raise QueryError(f"level = {level!r}: ask for 1 (coarse) to {LEVELS} (fine), or for none to have all.")
        if not self.info.labels:
            raise NotBuiltError(f"Version {self.version} of the atlas {self.info.profile} has no labels: it is older.")
        root, _, folder = self.uri.rpartition("/")
        if folder != LANCE:
            raise NotBuiltError(
                f"{self.uri} is not below the root of an atlas: its labels are not beside it. Open the root for them."
            )
        found = read_labels(Storage(root), self.info.labels)
        return [label for label in found[space].labels if level in (None, label.level)]

    @_in_one_release
    def to_polars(self, columns: Sequence[str] | None = None, limit: int | None = None) -> pl.DataFrame:
        """Rows as a polars frame: the named columns (all without), the first `limit` rows (all without)."""
        import polars as pl

        names = _checked_columns(columns, self._table.schema.names, "The atlas")
        rows = len(self)
        if limit is not None:
            if (asked := _whole(limit)) is None:
                raise QueryError(f"limit = {limit!r}: limit has to be a whole number of rows, or None for all.")
            rows = min(rows, asked)
        with self._reading():
            found = self._table.search().limit(max(1, rows)).select(names).to_arrow()  # Lance takes 0 for all
        frame = pl.from_arrow(found.slice(0, rows))
        assert isinstance(frame, pl.DataFrame)
        return frame

    @_in_one_release
    def generated(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The generated images that were placed on this release: the named columns (all without), a row for each.

        The columns are those of the table `generated` (`latent-assets schema generated`): prompt, parameters, places,
        neighbours, verdict. No rows, and no columns, where nothing was placed yet. Raises QueryError for a column that
        the table has not.
        """
        import polars as pl

        from latent_assets.generated.table import GeneratedTable

        with self._reading():
            table = GeneratedTable(self.uri).open()
            if table is None:
                return pl.DataFrame()
            names = _checked_columns(columns, table.schema.names, "The table of generated images")
            found = table.search().where(f"release = {self.version}").select(names).limit(None).to_arrow()
        frame = pl.from_arrow(found.select(names))
        assert isinstance(frame, pl.DataFrame)
        return frame

    # -- inside --------------------------------------------------------------------------------------

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.uri, self.version)

    @property
    def _table(self) -> LanceTable:
        return self._now().table

    def _now(self) -> _View:
        """The release that is asked: of a method that is under way the one it began with."""
        begun: _View | None = getattr(self._here, "view", None)
        if begun is not None:
            return begun
        if self._tags is not None and time.monotonic() - self._looked >= _LOOKS_EVERY:
            self._look()
        return self._view

    def _look(self) -> None:
        """See whether the tag has moved, and open what it names now."""
        assert self._tags is not None
        with self._opening:
            version = int(self._tags.get_version(str(self._tag)))
            if version != self._view.version:
                table = open_table(self.uri, version)
                info, before = ReleaseInfo.of_schema(table.schema, self.uri), self._view
                same = {n: e for n, e in before.encoders.items() if info.models.get(n) == before.info.models[n]}
                text = before.text if info.models.get("clip") == before.info.models.get("clip") else []
                self._view = _View(table, info, same, list(text))
            self._looked = time.monotonic()

    def _has_moved(self, view: _View) -> bool:
        if self._tags is not None:
            self._look()
        return self._view is not view

    @property
    def _places(self) -> list[str]:
        return [f"{PLACE}{space}" for space in self.info.spaces]

    def _picture(self, image: str | Path | bytes | Image.Image) -> Image.Image:
        """An image as the encoders were shown those of the atlas."""
        from latent_assets.images.decode.image import decode_as_stored

        with _reading(image) as data:
            return decode_as_stored(data, self.info.how_stored)

    def _dims(self, space: str) -> int:
        if not isinstance(space, str) or space not in self.info.dims:
            known = " or ".join(self.info.dims)
            raise QueryError(f"Neighbours are found in the space {known}, not in `{space}`.")
        return self.info.dims[space]

    def _one(self, row_id: str, columns: Iterable[str]) -> dict[str, Any]:
        search = self._table.search().where(f"id = '{checked_id(row_id)}'").select(list(columns)).limit(1)
        with self._reading():
            found = search.to_arrow().to_pylist()
        if not found:
            raise NotBuiltError(f"The atlas {self.info.profile} (version {self.version}) has no row {row_id}.")
        return dict(found[0])

    def _filter(self, where: str | None, category: str | None = None, domain: str | None = None) -> str | None:
        parts = [] if where is None else [checked_filter(where, self._table.schema)]
        if (rows := row_filter(category, domain)) is not None:
            parts.append(rows)
        return " AND ".join(f"({part})" for part in parts) or None

    def _by_meaning(self, text: str, most: int, among: str | None) -> list[Hit]:
        vector = self._now().text_encoder().encode_text([text])[0]
        return self._nearest("clip", vector, most, among)

    def _by_words(self, text: str, most: int, among: str | None) -> list[Hit]:
        if not self._now().has_words:
            if len(self) == 0:
                return []
            raise NotBuiltError(
                f"The captions of this release (version {self.version}) are not indexed: it was made before they were. "
                "Build the atlas again, or search by meaning."
            )
        search = matching(self._table, text, most)
        search = search.where(among, prefilter=True) if among else search
        with self._reading():
            found = search.select([*_HIT_COLUMNS, *self._places, "_score"]).to_arrow().to_pylist()
        found.sort(key=lambda row: (-row["_score"], row["id"]))
        return [self._hit(row, float(row["_score"]), "BM25") for row in found]

    def _nearest(self, space: str, vector: np.ndarray, most: int, among: str | None) -> list[Hit]:
        if said := self.notice:
            warnings.warn(said, UnfitModelsWarning, stacklevel=4)
        metric = self.info.metrics[space]
        search = nearest(self._table, space, metric, vector, most, self.info.probes(space))
        search = search.where(among, prefilter=True) if among else search
        with self._reading():
            found = search.select([*_HIT_COLUMNS, *self._places, "_distance"]).to_arrow()
        measure = _MEASURES[metric]
        return [self._hit(row, _score(float(row["_distance"]), measure), measure) for row in found.to_pylist()]

    def _hit(self, row: Mapping[str, Any], score: float, measure: Measure) -> Hit:
        return Hit(**{name: row[name] for name in _HIT_COLUMNS}, score=score, measure=measure, xyz=self._xyz(row))

    def _xyz(self, row: Mapping[str, Any]) -> dict[str, Point]:
        return {space: tuple(row[f"{PLACE}{space}"]) for space in self.info.spaces}


def _score(distance: float, measure: Measure) -> float:
    """Lance gives 1 - cosine for vectors compared by cosine, the square for L2."""
    return 1.0 - distance if measure == "cosine similarity" else max(0.0, distance) ** 0.5


def _fused(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """One ranking of several whose scores do not compare: reciprocal ranks, summed."""
    known = {hit.id: hit for ranking in rankings for hit in ranking}
    scores = dict.fromkeys(known, 0.0)
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.id] += 1.0 / (_FUSED + rank)
    best = sorted(scores, key=lambda row_id: (-scores[row_id], row_id))
    return [replace(known[row_id], score=scores[row_id], measure="reciprocal rank") for row_id in best]


def checked_text(text: str) -> str:
    """Words to search for, stripped. Raises QueryError for none, and for more than anybody means."""
    if isinstance(text, os.PathLike):
        raise QueryError(f"{text} is a path, and `search_text` looks for words: ask `search_image`.")
    if not isinstance(text, str) or not text.strip():
        raise QueryError("The text to search for is empty: write what the image should show.")
    if len(text) > _LONGEST_TEXT:
        raise QueryError(
            f"The text to search for has {len(text):,} characters, and at most {_LONGEST_TEXT:,} are taken: say it in "
            "a sentence."
        )
    return text.strip()


def checked_id(row_id: str) -> str:
    """The id of a row. Raises QueryError for what is none."""
    if not isinstance(row_id, str) or not _ID.fullmatch(row_id):
        raise QueryError(f"{str(row_id)[:80]!r} is not an id: ids are 32 hexadecimal digits (0-9, a-f).")
    return row_id


@contextmanager
def _reading(image: str | Path | bytes | Image.Image) -> Iterator[bytes | Image.Image]:
    """The bytes of a file; what the block finds wrong with an image becomes a QueryError that says what."""
    from PIL import Image

    from latent_assets.catalog.source import open_regular
    from latent_assets.images.outcome import FetchError

    where = str(image) if isinstance(image, str | os.PathLike) else "The picture"
    if not isinstance(image, str | os.PathLike | bytes | Image.Image):
        raise QueryError(
            f"{where} cannot be read as an image ({type(image).__name__}): give a path, the bytes of a file, or a PIL "
            "image."
        )
    if isinstance(image, str) and re.match(r"(?i)(https?|data):", image):
        raise QueryError(f"{image[:80]} is fetched by nobody here: give a path, the bytes of a file, or a PIL image.")
    try:
        if not isinstance(image, str | os.PathLike):
            yield image
            return
        with open_regular(str(Path(image).expanduser())) as file:
            yield file.read()
    except FetchError as error:
        raise QueryError(f"{where} cannot be read as an image ({error.evidence or error}).") from error
    except (OSError, ValueError, SyntaxError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise QueryError(f"{where} cannot be read as an image ({error}).") from error


def _checked_columns(columns: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    """Names of columns, all without. Raises QueryError for none, for one twice and for one that is not there."""
    names = list(known) if columns is None else list(columns) if isinstance(columns, Iterable) else []
    if isinstance(columns, str | bytes) or not names or not all(isinstance(name, str) for name in names):
        raise QueryError(f"columns = {columns!r}: give a list of at least one name.")
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise QueryError(f"The column {', '.join(twice)} is asked for twice: name each once.")
    if unknown := sorted(map(str, set(names) - set(known))):
        raise QueryError(f"{what} has no column {', '.join(unknown)}. It has: {', '.join(known)}.")
    return names


def _checked_range(k: int, offset: int) -> tuple[int, int]:
    if (count := _whole(k)) is None or not 1 <= count <= _MOST_RESULTS:
        raise QueryError(f"k = {k!r}: ask for 1 to {_MOST_RESULTS:,} results.")
    if (passed := _whole(offset)) is None or passed + count > _MOST_RESULTS:
        raise QueryError(f"offset = {offset!r}: the first {_MOST_RESULTS:,} results can be paged through.")
    return count, passed


def _whole(value: object) -> int | None:
    """A number that counts something, of Python's or NumPy's integers; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        number = index(value)
    except TypeError:  # arrays of more than one number
        return None
    return number if number >= 0 else None
