"""What a downstream app imports: open a published atlas, search it by text, picture or row, read its rows.

    atlas = Atlas.open("s3://bucket/atlas/lance")
    for hit in atlas.search_text("a sad face", k=5):
        print(hit.caption, hit.score, hit.source_url)

Opening and reading need neither torch nor a model; the CLIP model loads at the first search by text or picture.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, SupportsIndex, TypeVar, cast

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.history import ReleaseSummary, releases
from latent_assets.atlas.schema import PLACE
from latent_assets.atlas.table import LIVE, is_absent, nearest, open_table, reading, row_filter
from latent_assets.errors import NotBuiltError, QueryError
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

Measure = Literal["cosine similarity", "L2 distance"]
Point = tuple[float, float, float]

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
__all__ = [
    "Atlas",
    "Hit",
    "Measure",
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
# an embedding's metric -> what a score is
_MEASURES: dict[str, Measure] = {"cosine": "cosine similarity", "euclidean": "L2 distance"}


@dataclass(frozen=True)
class Row:
    """One image of the atlas; the columns are described in `atlas.schema`. `xyz`: place per space, map units."""

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


@dataclass(frozen=True)
class Hit:
    """One answer of a search. `measure` says what `score` is.

    "cosine similarity" (CLIP vectors): -1 to 1, larger is nearer. "L2 distance" (VAE features): 0 upwards,
    smaller is nearer. Which it is follows from the metric of the embedding. `xyz`: place per space, map units.
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
    placers: list[ImagePlacer] = field(default_factory=list)  # one, once it was asked for
    loading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def version(self) -> int:
        return int(self.table.version)

    def encoder(self, embedding: str) -> Encoder:
        with self.loading:
            if embedding not in self.encoders:
                self.encoders[embedding] = self.info.load_encoder(embedding)
            return self.encoders[embedding]

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


_ROW_COLUMNS = tuple(field.name for field in fields(Row) if field.name != "xyz")
_HIT_COLUMNS = ("id", "caption", "category", "url", "source_url")


class Atlas:
    """One release of an atlas, opened for reading. It stays that release when a newer one is published.

    Opened with `follow=True` it is whatever release `live` names when a method is called: each answer comes from one
    release, two answers may come from two. `current` gives a release that stays, for answers that belong together.
    Threads may share one.
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
        self, text: str, k: int = 10, *, category: str | None = None, domain: str | None = None
    ) -> list[Hit]:
        """The `k` images whose CLIP vectors are nearest to that of `text`, best first.

        category, domain: only rows of that category, only rows from that domain or below it. Raises QueryError for an
        empty text, for one of more than 10,000 characters (a model reads the first hundred words at most) and for what
        is no domain, ModelError when the atlas's CLIP model is not on this machine.
        """
        checked = checked_text(text)
        vector = self.clip.encode_text([checked])[0]
        return self._nearest("clip", vector, k, where=row_filter(category, domain))

    @_in_one_release
    def search_image(self, image: str | Path | bytes | Image.Image, k: int = 10, space: str = "clip") -> list[Hit]:
        """The `k` images nearest to `image` (a path, a file's bytes or a PIL image) in `space`, best first.

        `space` is an embedding of the atlas (`clip`, `vae`, ...). The image is decoded and sized as those of the atlas
        were: a file that is in it finds itself, with a cosine of 1 or a distance of 0, to rounding. Raises QueryError
        when it is not an image, ModelError as `search_text` does.
        """
        from latent_assets.embeddings.encoding import encode_images

        self._dims(space)
        picture = self._picture(image)
        return self._nearest(
            space, encode_images(self._now().encoder(space), [picture])[self.info.features[space]][0], k
        )

    @_in_one_release
    def search_vector(self, vector: np.ndarray, k: int = 10, space: str = "clip") -> list[Hit]:
        """The `k` images nearest to a vector of the space's own column (`clip`, `vae`, ...), best first."""
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
        return self._nearest(space, wide, k)

    @_in_one_release
    def neighbors(self, id: str, k: int = 10, space: str = "clip") -> list[Hit]:
        """The `k` other images nearest to the image `id` in `space` (an embedding of the atlas), best first.

        Raises QueryError for a malformed id or another space, NotBuiltError for an id the atlas does not have.
        """
        import numpy as np

        self._dims(space)
        k = _checked_k(k)
        vector = np.asarray(self._one(id, [space])[space], dtype=np.float32)
        return [hit for hit in self._nearest(space, vector, k, besides=1) if hit.id != id][:k]

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
        found |= self._one(id, [*(name for name in _ROW_COLUMNS if name in present), *self._places])
        return Row(**{name: found[name] for name in _ROW_COLUMNS}, xyz=self._xyz(found))

    @_in_one_release
    def to_polars(self, columns: Sequence[str] | None = None, limit: int | None = None) -> pl.DataFrame:
        """Rows as a polars frame: the named columns (all without), the first `limit` rows (all without)."""
        import polars as pl

        schema = self._table.schema.names
        names = schema if columns is None else list(columns) if isinstance(columns, Iterable) else []
        if isinstance(columns, str | bytes) or not names or not all(isinstance(name, str) for name in names):
            raise QueryError(f"columns = {columns!r}: give a list of at least one name.")
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise QueryError(f"The column {', '.join(twice)} is asked for twice: name each once.")
        if unknown := sorted(map(str, set(names) - set(schema))):
            raise QueryError(f"The atlas has no column {', '.join(unknown)}. It has: {', '.join(schema)}.")
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
                self._view = _View(table, info, same)
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

    def _nearest(self, space: str, vector: np.ndarray, k: int, besides: int = 0, where: str | None = None) -> list[Hit]:
        metric = self.info.metrics[space]
        search = nearest(self._table, space, metric, vector, _checked_k(k) + besides)
        search = search.where(where, prefilter=True) if where else search
        with self._reading():
            found = search.select([*_HIT_COLUMNS, *self._places, "_distance"]).to_arrow()
        return [self._hit(row, _MEASURES[metric]) for row in found.to_pylist()]

    def _hit(self, row: Mapping[str, Any], measure: Measure) -> Hit:
        # Lance gives 1 - cosine for vectors compared by cosine, the square for L2
        distance = float(row["_distance"])
        score = 1.0 - distance if measure == "cosine similarity" else max(0.0, distance) ** 0.5
        return Hit(**{name: row[name] for name in _HIT_COLUMNS}, score=score, measure=measure, xyz=self._xyz(row))

    def _xyz(self, row: Mapping[str, Any]) -> dict[str, Point]:
        return {space: tuple(row[f"{PLACE}{space}"]) for space in self.info.spaces}


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


def _checked_k(k: int) -> int:
    if (count := _whole(k)) is None or not 1 <= count <= _MOST_RESULTS:
        raise QueryError(f"k = {k!r}: ask for 1 to {_MOST_RESULTS:,} results.")
    return count


def _whole(value: object) -> int | None:
    """A number that counts something, of Python's or NumPy's integers; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        number = index(value)
    except TypeError:  # arrays of more than one number
        return None
    return number if number >= 0 else None
