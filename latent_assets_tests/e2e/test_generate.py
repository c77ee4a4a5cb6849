"""From a prompt to a row of the table, with the path: by the command line and by the library, on a built atlas."""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_assets import cli
from latent_assets.errors import ModelError, NotBuiltError, StorageError
from latent_assets.generated.diffusion.generate import (
    GenerationCancelledError,
    ImageGenerator,
    PathPoint,
    chosen_steps,
)
from latent_assets.generated.diffusion.request import GenerationRequest
from latent_assets.generated.metadata.reading import read_generation
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.generated.table import GeneratedTable
from latent_assets.images.decode.image import decode_as_stored
from latent_assets.profile import DiffusionModel, Profile
from latent_assets.storage import Storage
from latent_assets_tests.conftest import Built
from latent_assets_tests.e2e.small_atlas import write_profile
from latent_assets_tests.e2e.test_faults import small_disk
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline

Run = Callable[..., tuple[int, str, str]]
SPACES = {"clip", "vae", "joint"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), "sd")


@pytest.fixture
def profile(built: Built, spec: DiffusionModel, tmp_path: Path) -> Profile:
    """A copy of the built atlas, with a text-to-image pipeline."""
    shutil.copytree(built.profile.root, tmp_path / "root")
    models = built.profile.models.model_copy(update={"diffusion": spec})
    return built.profile.model_copy(update={"root": str(tmp_path / "root"), "models": models})


@pytest.fixture(scope="module")
def shared(built: Built, spec: DiffusionModel) -> ImageGenerator:
    """A generator on the built atlas itself: nothing is written."""
    models = built.profile.models.model_copy(update={"diffusion": spec})
    placer = ImagePlacer.open(Storage(built.profile.root))
    return ImageGenerator.open(built.profile.model_copy(update={"models": models}), placer)


@pytest.fixture
def run(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """`latent-assets generate ...` in this process; returns exit code, standard output and standard error."""

    def call(*arguments: str, given: Profile = profile) -> tuple[int, str, str]:
        file = write_profile(given, tmp_path / "profile.toml")
        monkeypatch.setattr(sys, "argv", ["latent-assets", "generate", "-p", str(file), *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield call
    monkeypatch.delenv("LATENT_ASSETS_PROFILE", raising=False)


def rows(profile: Profile) -> dict[str, dict[str, Any]]:
    table = GeneratedTable(Storage(profile.root).lance_uri).open()
    found = [] if table is None else table.search().limit(None).to_arrow().to_pylist()
    return {row["id"]: row for row in found}


def waiting(profile: Profile) -> set[str]:
    return {file.name.rpartition("/")[2] for file in Storage(profile.root).files("generated/inbox")}


def test_a_prompt_becomes_rows_with_path_and_place(run: Run, profile: Profile, tmp_path: Path) -> None:
    prompt = 'a <b>red</b> apple, "ripe": 50 % & \N{RED APPLE}'
    arguments = (prompt, "--seed", "7", "--n", "2", "--negative", "pears", "--guidance", "2.5", "--steps", "5")
    code, text, error = run(*arguments, "--out", str(tmp_path / "out"), "--json")
    assert code == 0, error
    first, second = json.loads(text)
    assert (first["seed"], second["seed"]) == (7, 8) and first["id"] != second["id"]
    found = rows(profile)
    assert set(found) == {first["id"], second["id"]} and not waiting(profile)
    row = found[first["id"]]
    assert (row["prompt"], row["negative_prompt"], row["seed"], row["steps"], row["guidance"]) == (
        *(prompt, "pears", 7, 5, 2.5),
    )
    assert (row["tool"], row["sampler"], row["width"]) == ("latent-assets", "PLMS", 32)
    # the path ends where the image is placed, bit for bit
    by_space = {space: [step for step in row["path"] if step["space"] == space] for space in SPACES}
    for space, steps in by_space.items():
        assert len(steps) >= 3 and [step["step"] for step in steps] == sorted({step["step"] for step in steps})
        assert steps[-1]["step"] == 5 and steps[-1]["xyz"] == row[f"xyz_{space}"]
        assert steps[0]["step"] == 1 and steps[0]["xyz"] != steps[-1]["xyz"]
        assert first["placed"]["placements"][space]["position"] == row[f"xyz_{space}"]
    # the files that were asked for are those that were taken
    (png,) = (tmp_path / "out").glob(f"*-{first['id'][:12]}.png")
    assert png.read_bytes() == Storage(profile.root).read_bytes(row["file"]) == Path(first["file"]).read_bytes()
    told = Image.open(png).text["parameters"]  # type: ignore[attr-defined]
    assert told.startswith(prompt) and "Negative prompt: pears" in told and "Seed: 7" in told
    assert "Sampler: PLMS" in told and "CFG scale: 2.5" in told
    sidecar = json.loads(png.with_suffix(".json").read_text("utf-8"))
    assert sidecar["prompt"] == prompt and sidecar["release"] == row["release"]
    assert sidecar["path"][-1]["places"] == {space: row[f"xyz_{space}"] for space in SPACES}
    assert "another space than the release's VAE" in sidecar["path_latents"]
    # the same again is the same image, and one row
    code, text, error = run(*arguments, "--json")
    assert code == 0 and [each["id"] for each in json.loads(text)] == [first["id"], second["id"]]
    assert len(rows(profile)) == 2 and not waiting(profile)


def test_where_it_landed_is_said(run: Run, profile: Profile) -> None:
    code, text, error = run("a red apple\nin two lines", "--seed", "1", "--steps", "2")
    assert code == 0, error
    (row,) = rows(profile).values()
    assert text.startswith("a red apple in two lines  seed 1, 2 steps, guidance 3, PLMS")
    assert str(Path(profile.root) / row["file"]) in text and row["explanation"] in text
    x, y, z = row["xyz_joint"]
    assert f"on joint      ({x:.2f}, {y:.2f}, {z:.2f}) ±" in text
    assert all(f"near on {space}" in text for space in SPACES) and "a picture of" in text
    assert "In the table `generated`" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x" * 100_000], "The prompt has 100,000 characters, and at most 4,000 are taken"),
        (["a\x1b]0;owned\x07"], "The prompt has a control character (U+001B) at position 1"),
        (["a\udcff"], "The prompt has a control character (U+DCFF)"),
        (["   "], "The prompt is empty"),
        (["x", "--seed", str(2**64)], "seed = 18446744073709551616: a whole number from 0 to"),
        (["x", "--seed=-1"], "seed = -1"),
        (["x", "--steps", "0"], "steps = 0: a whole number from 1 to 1000"),
        (["x", "--guidance", "nan"], "guidance = nan"),
        (["x", "--n", "1000000"], "n = 1000000: a whole number from 1 to 64"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence_before_anything_loads(
    run: Run, profile: Profile, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr("latent_assets.generated.diffusion.generate.load_text_to_image", None)
    code, text, error = run(*arguments)
    assert code == 2 and not text and said in error and len(error) < 400
    assert "\x1b]" not in error and not waiting(profile)


def test_html_in_a_prompt_is_text(shared: ImageGenerator) -> None:
    prompt = "</script><img src=x onerror=alert(1)>"
    made = shared.generate(GenerationRequest.of(shared.drawing.spec, prompt, seed=1, steps=1))
    assert read_generation(made.written.png).prompt == prompt == json.loads(made.written.sidecar)["prompt"]
    assert made.written.name.startswith("script-img-src-x-onerror-alert-1-")


def test_a_model_that_is_not_there_is_named(run: Run, profile: Profile, tmp_path: Path) -> None:
    gone = profile.models.model_copy(update={"diffusion": DiffusionModel(model=str(tmp_path / "nowhere"))})
    code, text, error = run("x", given=profile.model_copy(update={"models": gone}))
    assert code == ModelError.exit_code and not text
    assert f"models.diffusion.model: {tmp_path / 'nowhere'} is not a directory" in " ".join(error.split())
    none = profile.models.model_copy(update={"diffusion": None})
    code, text, error = run("x", given=profile.model_copy(update={"models": none}))
    assert code == ModelError.exit_code and "has no [models.diffusion]: add that table" in error


def test_a_folder_that_cannot_be_written_is_said_before_anything_loads(
    run: Run, profile: Profile, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = run("x", "--out", str(tmp_path / "file"))
    assert code == StorageError.exit_code and "nothing can be written there" in error and not waiting(profile)


def test_a_disk_that_is_full_loses_nothing_that_was_there(shared: ImageGenerator, tmp_path: Path) -> None:
    made = shared.generate(GenerationRequest.of(shared.drawing.spec, "x", seed=1, steps=1))
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        storage = Storage(str(disk / "root"))
        (disk / "filler").write_bytes(bytes(52 * 1024))
        with pytest.raises(StorageError, match=r"is full: generated/inbox/.* could not be written. Free space"):
            for _ in range(20):
                made.written.drop(storage)
                (disk / "filler").open("ab").write(bytes(4096))
        left = [file.name for file in storage.files("generated/inbox")]
        assert all(storage.read_bytes(name) in (made.written.png, made.written.sidecar) for name in left)


def test_without_a_release_images_wait_in_the_inbox(run: Run, profile: Profile, tmp_path: Path) -> None:
    empty = profile.model_copy(update={"root": str(tmp_path / "empty")})
    code, text, error = run("a red apple", "--seed", "1", "--steps", "1", given=empty)
    assert code == 0, error
    assert "wait in the inbox until there is a release" in error and "a red apple  seed 1" in text
    names = waiting(empty)
    assert {Path(name).suffix for name in names} == {".png", ".json"} and len(names) == 2
    assert "In the table" not in text


def test_points_come_while_the_image_is_drawn(shared: ImageGenerator) -> None:
    request = GenerationRequest.of(shared.drawing.spec, "a red apple", seed=2, steps=20)
    calls = 0
    seen: list[tuple[int, PathPoint]] = []
    forward = shared.drawing.pipeline.unet.forward

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(*args, **options)

    shared.drawing.pipeline.unet.forward = counted
    try:
        made = shared.generate(request, lambda point: seen.append((calls, point)))
    finally:
        del shared.drawing.pipeline.unet.forward
    assert calls == 21, "PNDM makes one more than it is asked for"
    assert [point for _, point in seen] == list(made.path[:-1])
    assert seen[0][0] == 1 and seen[0][1].step == 1, "the first at once"
    assert [at for at, _ in seen] == sorted(at for at, _ in seen) and seen[-3][0] < calls
    assert len(made.path) == len(chosen_steps(21)) + 1 == 6
    steps = [point.step for point in made.path]
    assert steps == sorted(set(steps)) and steps[-1] == 20 == made.path[0].steps
    for point in made.path:
        assert point.preview.size == (32, 32) and set(point.places) == SPACES
    # a point is where its preview is placed, but for the rounding of a batch
    placer = shared.placer
    assert placer is not None and made.placed is not None
    for point in made.path[:-1]:
        placed = placer.place(decode_as_stored(point.preview, placer.info.how_stored))
        for space, place in placed.placements.items():
            assert np.allclose(place.position, point.places[space], atol=0.05)
    image = Image.open(io.BytesIO(made.written.png)).convert("RGB")
    final = placer.place(decode_as_stored(made.written.png, placer.info.how_stored))
    assert image.tobytes() == made.image.tobytes()
    assert {space: place.position for space, place in final.placements.items()} == made.path[-1].places


def test_the_path_does_not_change_the_image(shared: ImageGenerator) -> None:
    request = GenerationRequest.of(shared.drawing.spec, "a red apple", seed=3, steps=6)
    with_path, without = shared.generate(request), shared.generate(request, with_path=False)
    assert with_path.written.id == without.written.id and len(without.path) == 1
    assert without.path[-1].places == with_path.path[-1].places


def test_a_generation_ends_when_nobody_wants_it(shared: ImageGenerator) -> None:
    request = GenerationRequest.of(shared.drawing.spec, "a red apple", seed=4, steps=20)
    whole = shared.generate(request)
    seen: list[PathPoint] = []
    with pytest.raises(GenerationCancelledError, match=r"Stopped after step 1\d of 21"):
        shared.generate(request, seen.append, lambda: len(seen) > 1)
    assert len(seen) >= 2
    with pytest.raises(GenerationCancelledError, match="not wanted any more"):
        shared.generate(request, cancelled=lambda: True)
    assert shared.generate(request).written.id == whole.written.id


def test_requests_at_the_same_time_do_not_mix(shared: ImageGenerator) -> None:
    requests = [GenerationRequest.of(shared.drawing.spec, "a red apple", seed=seed, steps=4) for seed in range(4)]
    alone = [shared.generate(request) for request in requests]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda request=request: found.update({request.seed: shared.generate(request)}))
        for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len({one.written.id for one in alone}) == 4
    for one in alone:
        # torch splits sums by the threads that the calling thread may use: to rounding only
        other = found[one.request.seed]
        assert other.generation == one.generation
        difference = np.asarray(other.image, np.int16) - np.asarray(one.image, np.int16)
        assert np.abs(difference).max() <= 1
        for left, right in zip(other.path, one.path, strict=True):
            assert all(np.allclose(left.places[space], right.places[space], atol=0.02) for space in SPACES)


def test_steps_of_an_unknown_scheduler_are_left_out_and_that_is_said(shared: ImageGenerator) -> None:
    import diffusers

    pipeline = shared.drawing.pipeline
    known = pipeline.scheduler
    pipeline.scheduler = diffusers.KDPM2DiscreteScheduler.from_config(known.config)
    try:
        made = ImageGenerator(shared.drawing, shared.placer).generate(
            GenerationRequest.of(shared.drawing.spec, "x", seed=1, steps=3)
        )
    finally:
        pipeline.scheduler = known
    assert len(made.path) == 1 and "KDPM2DiscreteScheduler" in made.notes[0]
    assert "only the finished image is placed" in json.loads(made.written.sidecar)["path_latents"]


def test_a_prompt_that_is_cut_is_noted(shared: ImageGenerator) -> None:
    made = shared.generate(GenerationRequest.of(shared.drawing.spec, "a red apple " * 100, seed=1, steps=1))
    assert made.notes == ("The prompt is longer than the model reads: its end was left out.",)
    assert (read_generation(made.written.png).prompt or "").endswith("apple")


@pytest.mark.parametrize(("calls", "chosen"), [(1, 0), (2, 1), (4, 2), (20, 5), (21, 5), (39, 10), (1_000, 12)])
def test_chosen_steps_are_the_first_and_even_and_not_the_last(calls: int, chosen: int) -> None:
    found = sorted(chosen_steps(calls))
    assert len(found) == chosen and calls - 1 not in found
    assert not found or found[0] == 0
    gaps = np.diff(found)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_a_release_that_is_not_there_is_no_place(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(NotBuiltError):
        ImagePlacer.open(Storage(str(tmp_path / "none")))
    made = ImageGenerator.open(profile, None).generate(
        GenerationRequest.of(profile.models.diffusion, "x", seed=1, steps=2)  # type: ignore[arg-type]
    )
    assert made.placed is None and made.path == () and json.loads(made.written.sidecar)["release"] is None
