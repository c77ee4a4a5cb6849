"""Images from prompts over server-sent events: told as they form, kept, ended by whoever goes away."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from latent_assets.generated.diffusion import pipeline
from latent_assets.generated.metadata.reading import read_generation
from latent_assets.layout import SERVICE_INBOX
from latent_assets.profile import DiffusionModel, Profile
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline
from latent_assets_tests.service.conftest import Running, running, until

LONG = 900  # steps: half a minute at least


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return write_pipeline(tmp_path_factory.mktemp("diffusion"), "sd")


@pytest.fixture
def drawing_profile(own_profile: Profile, diffusion: DiffusionModel) -> Profile:
    """An atlas of the test's own, whose profile makes images: two at a time may wait, one of a client."""
    limits = own_profile.service.model_copy(
        update={"generations": 2, "generations_per_client": 3, "steps": LONG, "prompt_length": 100}
    )
    models = own_profile.models.model_copy(update={"diffusion": diffusion})
    return own_profile.model_copy(update={"models": models, "service": limits})


@pytest.fixture
def drawing(drawing_profile: Profile) -> Iterator[Running]:
    with running(drawing_profile, generation=True) as found:
        until(lambda: found.service.generators._open is not None)
        yield found


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parse a stream of server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def generate(service: Running, **asked: Any) -> list[tuple[str, dict[str, Any]]]:
    with service.http.stream("POST", "/api/generate", json=asked) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.iter_lines()))


def test_an_image_is_told_as_it_forms_and_kept(drawing: Running, drawing_profile: Profile) -> None:
    assert drawing.http.get("/api/release").json()["generation"] is True
    loaded = pipeline._load.cache_info().misses
    told = generate(drawing, prompt="a red apple", negative="blurry", seed=7, steps=6, guidance=2.5)
    assert told[0] == ("queued", {"position": 0})
    steps = [data for name, data in told if name == "step"]
    assert [name for name, _ in told] == ["queued", *["step"] * len(steps), "result"] and len(steps) >= 2
    assert [data["step"] for data in steps] == sorted({data["step"] for data in steps})
    for data in steps:
        assert data["steps"] == 6 and set(data["positions"]) == {"clip", "vae", "joint"}
        kind, _, text = data["preview"].partition(",")
        assert kind == "data:image/webp;base64" and Image.open(io.BytesIO(base64.b64decode(text))).size == (32, 32)
    result = told[-1][1]
    assert (result["prompt"], result["negative"], result["seed"], result["steps"]) == ("a red apple", "blurry", 7, 6)
    # the path is what was shown, and ends where the image is
    for space, points in result["path"].items():
        assert points[:-1] == [data["positions"][space] for data in steps]
        assert points[-1] == result["placements"][space]["position"]
    # kept, with all of it
    png = drawing.http.get(result["image"]).content
    assert read_generation(png, None).prompt == "a red apple" and Image.open(io.BytesIO(png)).size == (32, 32)
    again = drawing.http.get(f"/api/generated/{result['generated_id']}").json()
    changing = dict.fromkeys(("created", "name"))
    assert {**again, **changing} == {**result, **changing}
    assert sorted(file.suffix for file in Path(drawing_profile.root, SERVICE_INBOX).iterdir()) == [".json", ".png"]
    (listed,) = drawing.http.get("/api/generated").json()["generated"]
    assert listed["prompt"] == "a red apple" and listed["pending"]
    # the same question has the same answer; the model is loaded once
    same = generate(drawing, prompt="a red apple", negative="blurry", seed=7, steps=6, guidance=2.5)[-1][1]
    assert same["generated_id"] == result["generated_id"] and same["path"] == result["path"]
    assert generate(drawing, prompt="a red apple")[-1][1]["steps"] == 4
    assert pipeline._load.cache_info().misses == loaded


def test_whoever_goes_away_ends_the_generation(drawing: Running, drawing_profile: Profile) -> None:
    queue = drawing.service.generating
    with drawing.http.stream("POST", "/api/generate", json={"prompt": "x", "steps": LONG}) as answer:
        seen = events(answer.iter_lines())
        assert next(seen)[0] == "queued" and next(seen)[0] == "step"
        assert queue.taken == 1
    gone = time.monotonic()
    until(lambda: queue.taken == 0)
    # the next one begins at once: the thread is free again
    assert generate(drawing, prompt="y", steps=2)[-1][0] == "result"
    assert time.monotonic() - gone < 10
    assert len(list(Path(drawing_profile.root, SERVICE_INBOX).glob("*.png"))) == 1


def test_who_waits_is_told_how_many_are_before_and_the_rest_is_refused(drawing: Running) -> None:
    queue = drawing.service.generating
    first = httpx.Client(base_url=drawing.url, timeout=60, trust_env=False)
    with first.stream("POST", "/api/generate", json={"prompt": "x", "steps": LONG}) as answer:
        seen = events(answer.iter_lines())
        assert next(seen) == ("queued", {"position": 0}) and next(seen)[0] == "step"
        waiting: list[list[tuple[str, dict[str, Any]]]] = []
        threads = []
        for number in (1, 2):
            threads.append(threading.Thread(target=lambda: waiting.append(generate(drawing, prompt="y", steps=2))))
            threads[-1].start()
            until(lambda number=number: queue.taken == 1 + number)
        refused = drawing.http.post("/api/generate", json={"prompt": "z"})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.headers["content-type"] == "application/problem+json"
        time.sleep(0.2)  # the first is at work all the time
        assert queue.taken == 3
    for thread in threads:
        thread.join(60)
    first.close()
    positions = sorted(next(data["position"] for name, data in told if name == "queued") for told in waiting)
    assert positions == [1, 2] and all(told[-1][0] == "result" for told in waiting)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  \n"}, "prompt"),
        ({"prompt": "x" * 101}, "prompt"),
        ({"prompt": "x\x1b[2J"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "negative": "y" * 101}, "negative"),
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"prompt": "x", "steps": LONG + 1}, "steps"),
        ({"prompt": "x", "steps": "20"}, "steps"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 2**53}, "seed"),
        ({"prompt": "x", "guidance": 101}, "guidance"),
        ({"prompt": "x", "sampler": "Euler"}, "sampler"),
    ],
)
def test_a_wrong_request_says_which_value(served_drawing: Running, asked: dict[str, Any], named: str) -> None:
    answer = served_drawing.http.post("/api/generate", json=asked)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert [item["where"] for item in answer.json()["errors"]] == [f"body.{named}"]


@pytest.fixture(scope="module")
def served_drawing(
    built: Any, diffusion: DiffusionModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service that nobody makes images with: what it is asked is refused."""
    limits = built.profile.service.model_copy(update={"steps": LONG, "prompt_length": 100})
    models = built.profile.models.model_copy(update={"diffusion": diffusion})
    with running(built.profile.model_copy(update={"models": models, "service": limits}), generation=True) as found:
        yield found


def test_a_body_that_is_no_json_is_refused(served_drawing: Running) -> None:
    post = served_drawing.http.post
    for body in (b"", b"{", b"[]", b"null", b'{"prompt": "\xff"}', b"[" * 100_000):
        answer = post("/api/generate", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), body[:20]
        assert answer.headers["content-type"] == "application/problem+json"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert post("/api/generate", content=b"prompt=x", headers=form).status_code in (415, 422)


def test_a_public_service_makes_no_images(served: Running) -> None:
    answer = served.http.post("/api/generate", json={"prompt": "x"})
    assert answer.status_code == 403 and "makes no images" in answer.json()["detail"]


def test_a_model_that_cannot_be_loaded_leaves_the_rest_working(own_profile: Profile, tmp_path: Path) -> None:
    models = own_profile.models.model_copy(update={"diffusion": DiffusionModel(model=str(tmp_path / "absent"))})
    with running(own_profile.model_copy(update={"models": models}), generation=True) as service:
        until(lambda: service.http.get("/api/release").json()["generation"] is False)
        assert service.http.get("/api/search", params={"q": "x"}).status_code == 200


def test_what_is_being_made_ends_with_the_service(drawing_profile: Profile) -> None:
    with running(drawing_profile, generation=True) as service:
        until(lambda: service.service.generators._open is not None)
        with service.http.stream("POST", "/api/generate", json={"prompt": "x", "steps": LONG}) as answer:
            seen = events(answer.iter_lines())
            assert next(seen)[0] == "queued" and next(seen)[0] == "step"
            service.service.stopping.set()
            rest = list(seen)
    assert rest[-1][0] == "problem" and rest[-1][1]["status"] == 503
