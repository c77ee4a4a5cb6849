"""The routes: what is asked, and by whom it is answered. Nothing is computed here."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from latent_assets.atlas.card import ReleaseInfo
from latent_assets.atlas.labels.store import LEVELS
from latent_assets.atlas.table import LIVE, open_table, tags
from latent_assets.images.decode.formats import sniff
from latent_assets.layout import TILES, tile_name
from latent_assets.profile import Fetch, Profile
from latent_assets.service import generating, looking, placements, static, synthesizing, uploads
from latent_assets.service.access import HEALTH, Access, Guard, client_of
from latent_assets.service.answers import (
    GENERATED_ID,
    ROW_ID,
    GeneratedAnswer,
    GeneratedList,
    Health,
    ImageAnswer,
    Labels,
    Mode,
    PlaceAnswer,
    Release,
    ReleaseEntry,
    Releases,
    SearchAnswer,
    SynthesisAnswer,
)
from latent_assets.service.compression import Compressed
from latent_assets.service.generating import GenerateRequest, Generation, Generators
from latent_assets.service.keeping import Keeper
from latent_assets.service.problems import GONE, Problem, ProblemError, install, responses
from latent_assets.service.queues import WorkQueue
from latent_assets.service.releases import LiveRelease, OpenRelease
from latent_assets.service.remote import LONGEST_QUERY
from latent_assets.service.streams import EventStream, described
from latent_assets.service.synthesizing import SynthesisRequest, Synthesizers, Walk, WalkRequest
from latent_assets.storage import Storage

T = TypeVar("T")

LABELS = "/api/labels"
_MOST_RESULTS = 1_000
_MOST_OFFSET = 9_000
_TEXT = r"\S"  # something else than white space
RowId = Annotated[str, Path(pattern=ROW_ID, examples=["3cb8283bfa5f5e44b4898def25f80857"])]
GeneratedId = Annotated[str, Path(pattern=GENERATED_ID)]
Count = Annotated[int, Query(ge=1, le=_MOST_RESULTS, description="how many results", examples=[10])]
Space = Annotated[str, Query(min_length=1, max_length=64, description="an embedding of the release", examples=["clip"])]


OfRelease = Annotated[int | None, Query(ge=1, le=2**31, description="a release that is kept; else the live one")]
_KINDS = ("png", "jpeg", "webp", "avif")
_PICTURE: dict[str, Any] = {
    "description": "the file",
    "content": {f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in _KINDS},
}
_BYTES: dict[str, Any] = {
    "description": "one byte for each image",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@dataclass
class Service:
    """A profile's service: what is open, who works, who waits."""

    profile: Profile
    writes: bool
    generation: bool
    instance: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        limits = self.profile.service
        self.storage = Storage(self.profile.root)
        self.live = LiveRelease(self.storage)
        self.keeper = Keeper(self.profile, self.storage)
        self.reading = WorkQueue("reading", 4, max(64, 4 * limits.queue), limits.per_client, 0.01)
        self.placing = WorkQueue("placing", 2, limits.queue, limits.per_client, 0.15)
        self.generating = WorkQueue("generating", 1, limits.generations, limits.generations_per_client, 3.0)
        self.generators = Generators(self.profile, self.generation)
        self.synthesizers = Synthesizers(self.profile, self.storage, self.generation)
        self.stopping = threading.Event()

    @cached_property
    def limits(self) -> Fetch:
        """How large an uploaded image may be (`max_bytes`, `max_pixels`)."""
        fetch, own = self.profile.fetch, self.profile.service
        least = {
            "max_bytes": min(own.image_bytes, fetch.max_bytes),
            "max_pixels": min(own.image_pixels, fetch.max_pixels),
        }
        return fetch.model_copy(update=least)

    @property
    def current(self) -> OpenRelease:
        """The release that is answered from. Raises ProblemError while there is none."""
        found = self.live.current
        if found is None:
            waits = "There is no release yet: run `latent-assets build`." if self.live.waits else "The models load."
            raise ProblemError(503, waits, {"Retry-After": "5"})
        return found

    def close(self) -> None:
        """Begin nothing any more."""
        self.stopping.set()
        self.live.stop()
        for queue in (self.reading, self.placing, self.generating):
            queue.close()


def create_app(service: Service, access: Access) -> FastAPI:
    """The ASGI application of a service; it follows `live` while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.live.start(service.generators.load if service.generators.works else None)
        yield
        service.close()

    app = FastAPI(
        title="latent_assets",
        version="1",
        summary="A versioned 3D atlas of latent space: searched, looked at, and new images placed on it.",
        description="Nearness is similarity, not authorship: nothing here says what an image was made from.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    install(app)
    _about(app, service)
    _atlas(app, service)
    _generated(app, service)
    _synthesized(app, service)
    _files(app, service)
    profile = service.profile
    app.openapi = lambda: _schema(  # type: ignore[method-assign]
        app, access, [row.name for row in profile.embeddings], profile.projection.spaces
    )
    app.add_middleware(Compressed)
    app.add_middleware(Guard, access=access)
    return app


def _schema(app: FastAPI, access: Access, embeddings: Sequence[str], maps: Sequence[str]) -> dict[str, Any]:
    """OpenAPI, with problem details, the profile's embeddings and maps and, where there is one, the token."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        found["components"]["schemas"]["Problem"] = Problem.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        found["components"]["schemas"]["InvalidValue"] = found["components"]["schemas"]["Problem"].pop("$defs")[
            "InvalidValue"
        ]
        for path, methods in found["paths"].items():
            for parameter in (each for route in methods.values() for each in route.get("parameters", ())):
                if parameter["name"] == "space":
                    parameter["schema"]["enum"] = list(maps if path == LABELS else embeddings)
        if access.token is not None:
            found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                for route in methods.values():
                    if path != HEALTH:
                        route["security"] = [{"token": []}]
                        route["responses"] |= {str(key): value for key, value in responses(401).items()}
        app.openapi_schema = found
    return app.openapi_schema


# -- about the service ---------------------------------------------------------------------------------


def _about(app: FastAPI, service: Service) -> None:
    @app.get(HEALTH, tags=["about"], responses=responses(429))
    async def health() -> Health:
        """Whether the service answers, and from which release. Asks for no token."""
        release, waits = service.live.current, service.live.waits
        waiting = waits and not service.live.problem
        return Health(
            status="ready" if release else "waiting for a release" if waiting else "loading",
            instance=service.instance,
            release=release.version if release else None,
            problem="the release that is live cannot be loaded; see the log" if service.live.problem else None,
        )

    @app.get("/api/release", tags=["about"], responses=responses(429, 503))
    async def release() -> Release:
        """The release that is answered from, and what this service does."""
        found = service.current
        info = found.atlas.info
        return Release(
            release=found.version,
            rows=info.rows,
            published=info.created,
            spaces=list(info.spaces),
            generation=service.generators.works,
            synthesis=service.synthesizers.works,
            writes=service.writes,
            profile=info.profile,
            title=info.title,
            attribution=info.attribution,
            models={name: model.name for name, model in info.models.items()},
            contact=service.profile.fetch.contact,
            examples=list(service.profile.examples),
            tiles=await service.reading.run(lambda: _tiles(service.storage, found.version)),
        )

    @app.get("/api/releases", tags=["about"], responses=responses(429, 503))
    async def releases(request: Request) -> Releases:
        """The releases that are kept, newest first."""
        found = service.current
        return await _answer(request, service.reading, lambda: _releases(service.storage, found))


def _tiles(storage: Storage, release: int) -> str | None:
    """Where the tiles of a release are, once they are all written: their description comes last."""
    return f"{TILES}/{release}/" if storage.exists(tile_name(str(release), "tiles.json")) else None


def _releases(storage: Storage, current: OpenRelease) -> Releases:
    named = tags(storage.lance_uri)
    versions = sorted({version for tag, version in named.items() if tag != LIVE}, reverse=True)
    entries = []
    for version in versions:
        info = ReleaseInfo.of_schema(open_table(storage.lance_uri, version).schema, storage.lance_uri)
        entries.append(
            ReleaseEntry(release=version, published=info.created, rows=info.rows, tiles=_tiles(storage, version))
        )
    return Releases(live=current.version, releases=entries)


# -- the atlas -----------------------------------------------------------------------------------------


def _atlas(app: FastAPI, service: Service) -> None:
    @app.get("/api/search", tags=["atlas"], responses=responses(422, 429, 503))
    async def search(
        request: Request,
        q: Annotated[str, Query(max_length=LONGEST_QUERY, pattern=_TEXT, description="words", examples=["hot drink"])],
        mode: Annotated[Mode, Query(description="by meaning (CLIP), by the words of captions (BM25), or both")] = (
            "meaning"
        ),
        k: Count = 10,
        offset: Annotated[int, Query(ge=0, le=_MOST_OFFSET, description="results to pass over")] = 0,
        min_score: Annotated[float | None, Query(allow_inf_nan=False, description="least similarity")] = None,
        category: Annotated[
            str | None, Query(min_length=1, max_length=200, description="of this category only")
        ] = None,
        domain: Annotated[
            str | None,
            Query(
                max_length=253,
                pattern=r"^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$",
                description="from this domain, or below it, only",
                examples=["openmoji.org"],
            ),
        ] = None,
        where: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=LONGEST_QUERY,
                json_schema_extra={"format": "filter"},
                description="only rows for which this holds: comparisons of columns, joined by AND, OR and NOT",
                examples=["aesthetic >= 7 AND contains(caption, 'fox')"],
            ),
        ] = None,
    ) -> SearchAnswer:
        """Images whose meaning or caption fits words, best first."""
        release = service.current
        question = looking.Question(q, mode, k, offset, min_score, category, domain, where)
        return await _answer(request, service.reading, lambda: looking.search(release, question))

    @app.get(
        "/api/similarities",
        tags=["atlas"],
        response_class=Response,
        responses={200: _BYTES, **responses(422, 429, 503)},
    )
    async def similarities(
        request: Request,
        q: Annotated[str, Query(max_length=LONGEST_QUERY, pattern=_TEXT, description="words", examples=["hot drink"])],
    ) -> Response:
        """How similar every image of the atlas is to words, in the order of the table: one byte each, 1 for the least,
        255 for the most. The headers X-Low and X-High say which cosines those are."""
        release = service.current
        data, low, high = await _answer(request, service.placing, lambda: looking.similarities(release, q))
        headers = {"X-Low": f"{low:.6f}", "X-High": f"{high:.6f}"}
        return Response(data, headers=headers, media_type="application/octet-stream")

    @app.post(
        "/api/search",
        tags=["atlas"],
        responses=responses(400, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": uploads.REQUEST_BODY},
    )
    async def search_image(request: Request, k: Count = 10, space: Space = "clip") -> SearchAnswer:
        """Images that resemble an uploaded one, best first."""
        release = service.current
        looking.check_space(release, space)
        return await _uploaded(service, request, lambda data: looking.search_image(release, data, k, space))

    @app.get(LABELS, tags=["atlas"], responses=responses(404, 422, 429, 503))
    async def labels(
        request: Request,
        space: Annotated[str, Query(min_length=1, max_length=64, description="a map of the release")] = "clip",
        level: Annotated[int | None, Query(ge=1, le=LEVELS, description="1 is coarse, 3 is fine; all without")] = None,
    ) -> Labels:
        """Clusters of a map: their names, sizes and places, which one each is part of, an image that stands for it."""
        release = service.current
        return await _answer(request, service.reading, lambda: looking.labels(release, space, level))

    @app.get("/api/images/{id}", tags=["atlas"], responses=responses(404, 422, 429, 503))
    async def image(request: Request, id: RowId, release: OfRelease = None) -> ImageAnswer:
        """An image of the atlas: where it came from, where it is, what is near it (of the release that is live)."""
        found = service.current
        if release is None or release == found.version:
            return await _answer(request, service.reading, lambda: looking.image(found, id))
        return await _answer(request, service.reading, lambda: looking.image_before(service.live.kept(release), id))

    @app.get("/api/images/{id}/neighbours", tags=["atlas"], responses=responses(404, 422, 429, 503))
    async def neighbours(request: Request, id: RowId, k: Count = 10, space: Space = "clip") -> SearchAnswer:
        """Other images of the atlas that resemble one, best first."""
        release = service.current
        return await _answer(request, service.reading, lambda: looking.neighbours(release, id, k, space))

    @app.get(
        "/api/images/{id}/thumbnail",
        tags=["atlas"],
        response_class=Response,
        responses={200: _PICTURE, **responses(404, 422, 429, 503)},
    )
    async def thumbnail(
        request: Request,
        id: RowId,
        release: OfRelease = None,
    ) -> Response:
        """The thumbnail of an image of the atlas."""
        version = service.current.version if release is None else release
        tag = f'"{id}-{version}"'
        lasts = "public, max-age=300" if release is None else static.IMMUTABLE
        headers = {"ETag": tag, "Cache-Control": lasts}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        data = await _answer(request, service.reading, lambda: looking.thumbnail(service.live.kept(version), id))
        return Response(data, headers=headers, media_type=f"image/{sniff(data)}")


# -- generated images ----------------------------------------------------------------------------------


def _generated(app: FastAPI, service: Service) -> None:
    @app.post(
        "/api/place",
        tags=["generated"],
        responses=responses(400, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": uploads.REQUEST_BODY},
    )
    async def place(
        request: Request,
        keep: Annotated[bool, Query(description="keep the image: it goes through the inbox into the lineage")] = False,
    ) -> PlaceAnswer:
        """Where an uploaded image falls on every map, what is near it, and how unusual that is."""
        release = service.current
        if keep and not service.writes:
            raise ProblemError(403, "This service keeps no images: ask without `keep`.")

        def work(data: bytes) -> PlaceAnswer:
            placed = release.placer.place_file(data, service.limits)
            if keep:
                service.keeper.keep(release, data, placed)
            assert placed.generated_id is not None
            return placements.answer(placed, placed.generated_id, keep)

        return await _uploaded(service, request, work)

    async def generate(asked: GenerateRequest) -> Response:
        """Make an image from a prompt, told as it forms: the events `queued`, `step`, then `result`, or `problem`."""
        if not service.generators.works:
            raise ProblemError(403, "This service makes no images.")
        wanted = Generation(
            service.profile, service.current, asked, service.generators, service.keeper, service.stopping.is_set
        )
        return EventStream(service.generating, wanted)

    # what is asked is limited as the profile says
    generate.__annotations__["asked"] = generating.limited(service.profile.service)
    app.post(
        "/api/generate",
        tags=["generated"],
        response_class=Response,
        responses={200: described("step"), **responses(400, 403, 408, 413, 415, 422, 429, 503)},
    )(generate)

    @app.get("/api/generated", tags=["generated"], responses=responses(422, 429, 503))
    async def generated(
        request: Request,
        after: Annotated[str | None, Query(pattern=GENERATED_ID, description="only what came after this image")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> GeneratedList:
        """Generated images, newest first; also those that were accepted and are not placed by the asset yet."""
        release = service.current
        return await _answer(
            request,
            service.reading,
            lambda: GeneratedList(release=release.version, generated=service.keeper.listed(release, after, limit)),
        )

    @app.get("/api/generated/{id}", tags=["generated"], responses=responses(404, 422, 429, 503))
    async def generated_image(request: Request, id: GeneratedId) -> GeneratedAnswer:
        """All that is known of a generated image."""
        release = service.current
        return await _answer(request, service.reading, lambda: service.keeper.told(release, id))

    @app.get(
        "/api/generated/{id}/image",
        tags=["generated"],
        response_class=Response,
        responses={200: _PICTURE, **responses(404, 422, 429, 503)},
    )
    async def original(request: Request, id: GeneratedId) -> Response:
        """The file of a generated image, as it came."""
        if f'"{id}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"ETag": f'"{id}"'})
        data = await _answer(request, service.reading, lambda: service.keeper.original(id))
        headers = {"ETag": f'"{id}"', "Cache-Control": static.IMMUTABLE}
        return Response(data, headers=headers, media_type=f"image/{sniff(data)}")


# -- pictures that nobody made -------------------------------------------------------------------------


def _synthesized(app: FastAPI, service: Service) -> None:
    def check() -> None:
        if not service.synthesizers.works:
            raise ProblemError(403, "This service decodes no latents.")

    async def walk(asked: WalkRequest) -> Response:
        """Walk from one image or prompt to another through latent space: the events `queued`, `frame`, then `result`,
        or `problem`."""
        check()
        wanted = Walk(
            service.profile, service.current, asked, service.synthesizers, service.generators, service.keeper,
            service.stopping.is_set,
        )  # fmt: skip
        return EventStream(service.generating, wanted)

    walk.__annotations__["asked"] = synthesizing.limited(service.profile.service)
    app.post(
        "/api/walk",
        tags=["synthesis"],
        response_class=Response,
        responses={200: described("frame"), **responses(400, 403, 408, 413, 415, 422, 429, 503)},
    )(walk)

    @app.post("/api/synthesis", tags=["synthesis"], responses=responses(400, 403, 404, 408, 413, 415, 422, 429, 503))
    async def synthesis(request: Request, asked: SynthesisRequest) -> SynthesisAnswer:
        """What a place of a map stands for: the mean of the latents around it, decoded. A synthesis, and says so."""
        check()
        release = service.current
        return await _answer(
            request, service.placing, lambda: synthesizing.what_is_here(service.synthesizers, release, asked)
        )


# -- files ---------------------------------------------------------------------------------------------


def _files(app: FastAPI, service: Service) -> None:
    folder = static.viewer_folder()

    @app.api_route("/tiles/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def tiles(request: Request, path: str) -> Response:
        headers = request.headers
        return await service.reading.run(
            lambda: static.tile(service.storage, path, headers.get("range"), headers.get("if-none-match"))
        )

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def viewer(path: str) -> Response:
        if path.startswith("api/"):
            raise ProblemError(404, "There is nothing at this address: /api/openapi.json says what there is.")
        return static.viewer_file(folder, path)


# -- how a request is worked on ------------------------------------------------------------------------


async def _answer(request: Request, queue: WorkQueue, work: Callable[[], T]) -> T:
    """The result of `work`, when the queue comes to it, unless the client goes away before."""
    async with queue.place_for(client_of(request.scope)):
        return await _unless_gone(request, queue.run(work))


async def _uploaded(service: Service, request: Request, work: Callable[[bytes], T]) -> T:
    """`work` on the image in a request. Its place in the queue is taken before its body is read."""
    async with service.placing.place_for(client_of(request.scope)):
        data = await uploads.read_image(request, service.limits.max_bytes)
        return await _unless_gone(request, service.placing.run(lambda: work(data)))


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is not begun any more when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ProblemError(GONE, "The client has gone.")
    finally:
        for task in (doing, watching):
            task.cancel()
