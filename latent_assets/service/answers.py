"""The answers of the API as types: what OpenAPI says, and what is sent.

Coordinates are map units. Ids of images of the atlas are 32 hexadecimal digits, of generated images 64 (SHA-256).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from latent_assets.layout import TILES

ROW_ID, GENERATED_ID = r"^[0-9a-f]{32}$", r"^[0-9a-f]{64}$"
_ROW = "3cb8283bfa5f5e44b4898def25f80857"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_EXAMPLE_HIT: dict[str, JsonValue] = {
    "id": _ROW,
    "similarity": 0.65,
    "measure": "cosine similarity",
    "caption": "hot beverage",
    "category": "Food & Drink",
    "url": "http://127.0.0.1:8765/2615.png",
    "source_url": "https://openmoji.org/library/emoji-2615/",
    "thumbnail": f"/api/images/{_ROW}/thumbnail?release=12",
    "positions": {"clip": [1.5, -0.25, 3.0]},
}

Position = Annotated[tuple[float, float, float], Field(description="x, y, z, map units", examples=[[1.5, -0.25, 3.0]])]
Positions = Annotated[dict[str, Position], Field(description="place on the map of each space")]
Mode = Literal["meaning", "words", "both"]
Measure = Literal["cosine similarity", "L2 distance", "BM25", "reciprocal rank"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Health(_Answer):
    """Whether the service answers. instance: changes with every start."""

    service: Literal["latent_assets"] = "latent_assets"
    status: Literal["loading", "waiting for a release", "ready"]
    instance: str
    release: int | None
    problem: str | None = Field(description="why the newest release is not served")


class Release(_Answer):
    """The release that is answered from. tiles: where its static files lie, when they were made."""

    release: int = Field(description="version of the table", examples=[12])
    rows: int
    published: str = Field(description="ISO 8601, UTC", examples=["2026-11-28T16:58:03+00:00"])
    spaces: list[str] = Field(examples=[["clip", "vae", "joint"]])
    generation: bool = Field(description="whether images are made here")
    writes: bool = Field(description="whether images are kept here")
    profile: str
    title: str
    attribution: str
    models: dict[str, str] = Field(description="name of the model of each embedding")
    contact: str | None
    examples: list[str] = Field(description="queries to begin with")
    tiles: str | None = Field(examples=[f"{TILES}/12/"])


class ReleaseEntry(_Answer):
    """A release that can be opened."""

    release: int
    published: str
    rows: int


class Releases(_Answer):
    """The releases that are kept, newest first. live: the one that is answered from."""

    live: int
    releases: list[ReleaseEntry]


class Found(_Answer):
    """An image that a search found. measure: what `similarity` is; an L2 distance is smaller for what is nearer."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"example": _EXAMPLE_HIT})

    id: str = Field(pattern=ROW_ID)
    similarity: float
    measure: Measure
    caption: str | None
    category: str | None
    url: str
    source_url: str | None
    thumbnail: str
    positions: Positions


class SearchAnswer(_Answer):
    """Images that resemble a question, best first."""

    query: str | None = Field(description="the words; null for a picture or an image of the atlas")
    mode: Mode | Literal["image"]
    release: int
    results: list[Found]


class NeighbourGroup(_Answer):
    """A group of near-duplicates near an image, by its nearest member.

    similarity: 1 for the same; the cosine, or 0 for what is as far away as two images of the atlas are on average (L2).
    distance: in the space's metric. group_size: members among the neighbours that were looked at.
    """

    id: str = Field(pattern=ROW_ID)
    similarity: float
    distance: float
    caption: str | None
    category: str | None
    group_size: int
    url: str
    source_url: str | None
    aesthetic: float | None
    licence: str | None
    attribution: str | None
    thumbnail: str


class ImageAnswer(_Answer):
    """An image of the atlas, where it came from, and what is near it in each space."""

    id: str = Field(pattern=ROW_ID)
    release: int
    caption: str | None
    url: str
    source_url: str | None
    licence: str | None
    attribution: str | None
    width: int
    height: int
    category: str | None
    shard: str
    scores: dict[str, float] = Field(description="what the source says of it", examples=[{"aesthetic": 6.6}])
    positions: Positions
    thumbnail: str
    neighbours: dict[str, list[NeighbourGroup]]


class PossibleCopyAnswer(_Answer):
    """The image of the atlas whose pixels correlate best with those asked about, -1 to 1, and how it was altered."""

    id: str = Field(pattern=ROW_ID)
    correlation: float
    chance: float | None = Field(description="conformal p-value that a real image correlates as well with another one")
    mirrored: bool
    turn: float = Field(description="degrees")
    scale: float
    thumbnail: str


class Behind(_Answer):
    """A value among the neighbours: `count` of `of` groups have it. lift: its share there over that in the atlas; low,
    high: its 95 % interval; unusual: whether that leaves out 1."""

    field: str = Field(examples=["category"])
    value: str
    count: int
    of: int
    lift: float
    low: float
    high: float
    unusual: bool


class _Judged(_Answer):
    """What is said of an image: the verdict, in words with its numbers, and what stands behind its neighbours.

    p_value: conformal p-value that a real image is this far from all others, or has so little or so much detail; null
    where the release was not calibrated.
    """

    p_value: float | None
    verdict: str = Field(examples=["usual"])
    sentence: str
    # `copy` is a method of pydantic's models
    copied: PossibleCopyAnswer | None = Field(alias="copy")
    behind: list[Behind]

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True, frozen=True)


class PlacementAnswer(_Judged):
    """Where an image falls on the map of a space. Nearness is similarity, not authorship.

    uncertainty: standard deviation of the neighbours' places around it, map units. jitter: standard error of the
    position, from leaving out halves of the neighbours, map units. trust: whether what is drawn around it is near in
    the space as well, 0 (no nearer than any two images) to 1 (as its true neighbours). distance: to the nearest fitted
    image, in the space's metric. percentile: per cent of held-out real images that are nearer to theirs;
    group_percentile: per cent of the atlas's images whose nearest image of another group is nearer than that.
    """

    position: Position
    uncertainty: float
    jitter: float
    trust: float
    distance: float
    percentile: float | None
    group_percentile: float | None
    neighbours: list[NeighbourGroup]


class PlaceAnswer(_Judged):
    """Where an image falls on every map of a release. kept: whether it goes through the inbox.

    agreement: share of the near groups that all embeddings name, 0 to 1; null with one embedding.
    """

    generated_id: str = Field(pattern=GENERATED_ID, examples=[_SHA256])
    release: int
    width: int
    height: int
    kept: bool
    placements: dict[str, PlacementAnswer]
    agreement: float | None


class GeneratedEntry(_Answer):
    """A generated image. pending: it was accepted, and is not in the table yet."""

    generated_id: str = Field(pattern=GENERATED_ID, examples=[_SHA256])
    prompt: str | None
    created: str = Field(description="ISO 8601, UTC", examples=["2026-11-28T16:58:03.120000+00:00"])
    positions: Positions
    image: str
    pending: bool


class GeneratedList(_Answer):
    """Generated images on the release that is live, newest first."""

    release: int
    generated: list[GeneratedEntry]


class GeneratedAnswer(PlaceAnswer):
    """A generated image with all that is known of it. path: its way through generation, by space."""

    created: str = Field(description="ISO 8601, UTC", examples=["2026-11-28T16:58:03.120000+00:00"])
    image: str
    pending: bool
    name: str
    prompt: str | None
    negative: str | None
    seed: int | None
    steps: int | None
    guidance: float | None
    sampler: str | None
    model: str | None
    tool: str | None
    path: dict[str, list[Position]]
