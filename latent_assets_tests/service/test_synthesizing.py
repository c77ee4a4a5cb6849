"""Walks and places over HTTP, how similar every row is, releases that are kept, and answers made smaller."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from latent_assets.client import Atlas
from latent_assets.profile import DiffusionModel
from latent_assets_tests.conftest import Built
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline
from latent_assets_tests.service.conftest import Running, running, until
from latent_assets_tests.service.test_generating import events


@pytest.fixture(scope="module")
def walking(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that decodes and draws, and keeps nothing that a test here asks for."""
    diffusion: DiffusionModel = write_pipeline(tmp_path_factory.mktemp("walking"), "sd")
    models = built.profile.models.model_copy(update={"diffusion": diffusion})
    limits = built.profile.service.model_copy(update={"frames": 6, "prompt_length": 100})
    with running(built.profile.model_copy(update={"models": models, "service": limits}), generation=True) as found:
        until(lambda: found.service.generators._open is not None)
        yield found


@pytest.fixture(scope="module")
def ids(built: Built) -> list[str]:
    return list(Atlas.open(built.profile.root).to_polars(["id"])["id"])


def walk(service: Running, start: dict[str, Any], end: dict[str, Any], **more: Any) -> list[tuple[str, dict[str, Any]]]:
    with service.http.stream("POST", "/api/walk", json={"start": start, "end": end, **more}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.iter_lines()))


def test_a_walk_between_images_is_told_frame_by_frame(walking: Running, ids: list[str]) -> None:
    told = walk(walking, {"image": ids[0]}, {"image": ids[9]}, frames=4)
    assert [name for name, _ in told] == ["queued", *["frame"] * 4, "result"]
    result = told[-1][1]
    assert result["frames"] == [data for name, data in told if name == "frame"]
    assert [round(frame["share"], 3) for frame in result["frames"]] == [0, 0.333, 0.667, 1]
    assert "linearly" in result["how"]
    for frame in result["frames"]:
        kind, _, data = frame["preview"].partition(",")
        assert kind == "data:image/webp;base64" and Image.open(io.BytesIO(base64.b64decode(data))).width > 16
        assert set(frame["positions"]) == set(frame["near"]) == {"clip", "vae", "joint"}
        assert all(1 <= len(near) <= 4 for near in frame["near"].values())


def test_a_walk_between_prompts_and_from_a_prompt_to_an_image(walking: Running, ids: list[str]) -> None:
    apple, face = {"prompt": "a red apple", "seed": 3}, {"prompt": "a sad face"}
    told = walk(walking, apple, face, frames=2)[-1][1]
    assert "spherically" in told["how"] and len(told["frames"]) == 2
    mixed = walk(walking, apple, {"image": ids[0]}, frames=2)[-1][1]
    assert "linearly" in mixed["how"]
    assert len(walk(walking, apple, face)[-1][1]["frames"]) == 6, "the profile's limit, when none is said"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"start": {"image": "0" * 32}},
        {"start": {}, "end": {"prompt": "x"}},
        {"start": {"image": None}, "end": {"prompt": "x"}},
        {"start": {"prompt": "x", "image": "0" * 32}, "end": {"prompt": "x"}},
        {"start": {"prompt": " "}, "end": {"prompt": "x"}},
        {"start": {"prompt": "x" * 101}, "end": {"prompt": "x"}},
        {"start": {"prompt": "x", "seed": -1}, "end": {"prompt": "x"}},
        {"start": {"image": "../x"}, "end": {"prompt": "x"}},
        {"start": {"prompt": "x"}, "end": {"prompt": "x"}, "frames": 7},
        {"start": {"prompt": "x"}, "end": {"prompt": "x"}, "frames": 1},
    ],
)
def test_a_wrong_walk_is_refused(walking: Running, asked: dict[str, Any]) -> None:
    answer = walking.http.post("/api/walk", json=asked)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"


def test_an_end_that_is_not_there_is_said(walking: Running, ids: list[str]) -> None:
    for end in ({"image": "0" * 32}, {"generated": "0" * 64}):
        told = walk(walking, {"image": ids[0]}, end, frames=2)
        assert told[-1][0] == "problem" and told[-1][1]["status"] == 404


def test_whoever_leaves_ends_a_walk(walking: Running, ids: list[str]) -> None:
    asked = {"start": {"image": ids[0]}, "end": {"image": ids[1]}, "frames": 6}
    with walking.http.stream("POST", "/api/walk", json=asked) as answer:
        assert next(events(answer.iter_lines()))[0] == "queued"
    until(lambda: walking.service.generating.taken == 0, 20)


def test_a_place_says_that_it_is_a_synthesis(walking: Running, built: Built) -> None:
    row = Atlas.open(built.profile.root).to_polars(["id", "xyz_vae"], limit=1)
    place = [float(value) for value in row["xyz_vae"][0]]
    answer = walking.http.post("/api/synthesis", json={"space": "vae", "position": place})
    assert answer.status_code == 200
    found = answer.json()
    assert found["mean_of"][0] == {"id": row["id"][0], "distance": pytest.approx(0, abs=1e-5)}
    assert len(found["mean_of"]) == 8 and "synthesis" in found["said"] and found["frame"]["preview"]
    for asked in (
        {"space": "", "position": place},
        {"space": "vae", "position": place[:2]},
        {"space": "vae", "position": [0, 0, 1e9]},
        {"space": "vae", "position": [0, 0, "x"]},
        {"space": "vae", "position": place, "more": 1},
    ):
        assert walking.http.post("/api/synthesis", json=asked).status_code == 422, asked
    nowhere = walking.http.post("/api/synthesis", json={"space": "nothing", "position": place})
    assert nowhere.status_code == 404 and "no map" in nowhere.json()["detail"]


def test_a_public_service_decodes_nothing(served: Running, ids: list[str]) -> None:
    assert served.http.get("/api/release").json()["synthesis"] is False
    ends = {"start": {"image": ids[0]}, "end": {"image": ids[1]}}
    for path, asked in (("walk", ends), ("synthesis", {"space": "clip", "position": [0, 0, 0]})):
        answer = served.http.post(f"/api/{path}", json=asked)
        assert answer.status_code == 403, path


def test_every_row_is_compared_with_words(served: Running, built: Built) -> None:
    answer = served.http.get("/api/similarities", params={"q": "a picture"})
    atlas = Atlas.open(built.profile.root)
    ids = list(atlas.to_polars(["id"])["id"])
    scores = {hit.id: hit.score for hit in atlas.search_text("a picture", k=len(ids))}
    low, high = float(answer.headers["x-low"]), float(answer.headers["x-high"])
    assert (low, high) == pytest.approx((min(scores.values()), max(scores.values())), abs=1e-4)
    found = low + (np.frombuffer(answer.content, np.uint8).astype(float) - 1) / 254 * (high - low)
    assert found == pytest.approx([scores[row_id] for row_id in ids], abs=(high - low) / 254 + 1e-4)
    assert served.http.get("/api/similarities", params={"q": " "}).status_code == 422


def test_an_image_of_a_release_that_is_gone(served: Running, ids: list[str]) -> None:
    live = served.http.get("/api/release").json()["release"]
    entries = served.http.get("/api/releases").json()["releases"]
    assert [entry["tiles"] for entry in entries if entry["release"] == live] == [f"tiles/{live}/"]
    same = served.http.get(f"/api/images/{ids[0]}", params={"release": live})
    assert same.json() == served.http.get(f"/api/images/{ids[0]}").json()
    for path in ("", "/thumbnail"):
        gone = served.http.get(f"/api/images/{ids[0]}{path}", params={"release": live + 70})
        assert gone.status_code == 404 and str(live + 70) in gone.json()["detail"]


def test_texts_are_compressed_and_ranges_are_not(served: Running) -> None:
    def asked(path: str, **headers: str) -> tuple[httpx.Response, bytes]:
        with served.http.stream("GET", path, headers={"Accept-Encoding": "gzip", **headers}) as answer:
            return answer, b"".join(answer.iter_raw())

    answer, data = asked("/api/openapi.json")
    assert answer.headers["content-encoding"] == "gzip" and len(gzip.decompress(data)) > 3 * len(data)
    assert "accept-encoding" in answer.headers["vary"].lower()
    tiles = served.http.get("/api/release").json()["tiles"]
    answer, data = asked(f"/{tiles}tiles.json", Range="bytes=0-1499")
    assert answer.status_code == 206 and len(data) == 1500 and "content-encoding" not in answer.headers
    answer, _ = asked(f"/{tiles}clip/points.bin")
    assert "content-encoding" not in answer.headers
