"""Generated images from the inbox to the table, through the sensor and real runs: each once, none lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent_assets.atlas.table import LIVE, open_table
from latent_assets.cli.app import app
from latent_assets.client import Atlas
from latent_assets.definitions import build_defs
from latent_assets.defs import generated as defs_generated
from latent_assets.defs import tags
from latent_assets.defs.partitions import asset_key
from latent_assets.errors import DataError, NotBuiltError, StorageError
from latent_assets.generated import checks, inbox, intake, projecting
from latent_assets.generated.placement.calibration import (
    Calibration,
    Distances,
    calibration_version,
    write_calibration,
)
from latent_assets.generated.placement.placing import ImagePlacer, calibration_key
from latent_assets.generated.table import GeneratedTable, generated_schema, generated_schema_markdown
from latent_assets.images.decode.image import decode_as_stored
from latent_assets.layout import ORIGINALS
from latent_assets.pipeline.lineage import Lineage
from latent_assets.processes import host_name
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.conftest import Built
from latent_assets_tests.e2e.small_atlas import SmallAtlas, small_atlas, write_profile
from latent_assets_tests.generated.tagged import png

A1111 = "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Model: sd15"


@pytest.fixture
def atlas(built: Built, tmp_path: Path) -> Iterator[SmallAtlas]:
    """A copy of the built atlas that the test may change."""
    shutil.copytree(built.profile.root, tmp_path / "root")
    profile = built.profile.model_copy(update={"root": str(tmp_path / "root")})
    with small_atlas(profile) as found:
        yield found


def drop(atlas: SmallAtlas, name: str, data: bytes, age: float = 60.0) -> Path:
    """A file that was put into the inbox a minute ago."""
    file = Path(atlas.profile.root) / "generated" / "inbox" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    os.utime(file, (time.time() - age,) * 2)
    return file


def left(atlas: SmallAtlas) -> set[str]:
    return {file.name.removeprefix("generated/inbox/") for file in atlas.lineage.storage.files("generated/inbox")}


def rows(atlas: SmallAtlas) -> list[dict[str, Any]]:
    table = GeneratedTable(atlas.lineage.storage.lance_uri).open()
    return [] if table is None else table.search().limit(None).to_arrow().to_pylist()


def picture(seed: int, size: int = 48, kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()


def tick(atlas: SmallAtlas, profile: Profile | None = None) -> dg.SensorResult | dg.SkipReason:
    """One look of the sensor."""
    definitions = build_defs(profile or atlas.profile)
    sensor = definitions.resolve_sensor_def("small__inbox")
    context = dg.build_sensor_context(instance=atlas.instance, definitions=definitions)
    found = sensor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def run(atlas: SmallAtlas, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """The run that a sensor asked for, as the daemon starts it."""
    job = build_defs(atlas.profile).resolve_job_def("small__place_generated")
    return job.execute_in_process(
        run_config=request.run_config, tags=request.tags, instance=atlas.instance, raise_on_error=False
    )


def look_and_run(atlas: SmallAtlas) -> dg.ExecuteInProcessResult:
    found = tick(atlas)
    assert isinstance(found, dg.SensorResult), found
    (request,) = found.run_requests or []
    return run(atlas, request)


def skipped(atlas: SmallAtlas) -> str:
    found = tick(atlas)
    assert isinstance(found, dg.SkipReason), found
    return found.skip_message or ""


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred bytes."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_what_is_dropped_is_taken_and_placed_once(atlas: SmallAtlas) -> None:
    tagged = png({"parameters": A1111}, size=(40, 40))
    drop(atlas, "fox.png", tagged)
    drop(atlas, "folder/\N{FOX FACE}\nnew line <b>.jpg", picture(1, kind="JPEG"))
    drop(atlas, "folder/\N{FOX FACE}\nnew line <b>.txt", b"a photograph of a lamp")
    drop(atlas, "once.webp", picture(2, kind="WEBP"))
    drop(atlas, "twice.webp", picture(2, kind="WEBP"))
    drop(atlas, "fresh.png", picture(3), age=0.0)
    drop(atlas, "unfinished.png.part", picture(4))
    result = look_and_run(atlas)
    assert result.success
    found = {row["name"]: row for row in rows(atlas)}
    jpeg = next(name for name in found if name.startswith("folder/"))
    assert len(found) == 3 and left(atlas) == {"fresh.png", "unfinished.png.part"}
    fox = found["fox.png"]
    assert (fox["prompt"], fox["negative_prompt"], fox["seed"], fox["steps"]) == ("a red fox", "blurry", 42, 20)
    assert fox["id"] == hashlib.sha256(tagged).hexdigest() and fox["width"] == 40
    assert atlas.lineage.storage.read_bytes(fox["file"]) == tagged
    assert found[jpeg]["prompt"] == "a photograph of a lamp" and "\n" not in jpeg
    # the asset holds what a placer gives, bit for bit
    placer = ImagePlacer.open(atlas.lineage.storage)
    placed = placer.place(decode_as_stored(tagged, placer.info.how_stored))
    for space, place in placed.placements.items():
        assert tuple(fox[f"xyz_{space}"]) == place.position
    assert np.array_equal(np.array(fox["clip"], np.float16), placed.vectors["clip"])
    assert fox["release"] == placer.version and fox["verdict"] == placed.verdict == "not calibrated"
    # the same again does nothing twice
    (Path(atlas.profile.root) / "generated/inbox/fresh.png").unlink()
    drop(atlas, "again.png", tagged)
    assert look_and_run(atlas).success
    assert len(rows(atlas)) == 3 and "again.png" not in left(atlas)
    event = atlas.instance.fetch_materializations(asset_key(atlas.profile, "generated_images"), limit=1).records[0]
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["taken again"].value == 1


def test_an_atlas_too_small_to_be_calibrated_says_so(built: Built) -> None:
    placed = Atlas.open(built.profile.root).place(picture(1))
    assert placed.verdict == "not calibrated" and "says nothing of what is usual" in placed.sentence
    place = placed.placements["clip"]
    assert (place.percentile, place.p_value, placed.p_value) == (None, None, None) and len(place.neighbours) == 12


def test_hostile_files_are_put_aside_with_a_reason_and_can_be_put_back(atlas: SmallAtlas) -> None:
    bad = {
        "zero.png": (b"", "empty_body"),
        "cut.png": (picture(5)[:80], "corrupt_image"),
        "bomb.png": (bomb(), "too_many_pixels"),
        "page.png": (b"<html><script>", "not_an_image"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector_image"),
        "film.gif": (picture(6, kind="GIF"), "unsupported_format"),
    }
    for name, (data, _) in bad.items():
        drop(atlas, name, data)
    (Path(atlas.profile.root) / "generated/inbox/x.png").mkdir()
    huge = png({"parameters": "x" * (8 << 20)}, compress_level=0)
    drop(atlas, "long text.png", huge)
    result = look_and_run(atlas)
    assert result.success
    aside = {item.name: item for item in inbox.quarantined(atlas.lineage.storage)}
    assert {name: item.reason for name, item in aside.items()} == {name: reason for name, (_, reason) in bad.items()}
    assert [row["name"] for row in rows(atlas)] == ["long text.png"] and left(atlas) == set()
    assert len(rows(atlas)[0]["parameters"]) <= 65_536
    checks = {item.check_name: item.passed for item in result.get_asset_check_evaluations()}
    assert checks == {"originals_kept": True, "nothing_put_aside": False, "placed_once": True}
    assert "Nothing waits" in skipped(atlas)
    back = inbox.restore(atlas.lineage.storage, [aside["cut.png"].key[:12]])
    assert [item.name for item in back] == ["cut.png"] and len(left(atlas)) == 1
    file = Path(atlas.profile.root) / "generated/inbox" / next(iter(left(atlas)))
    assert file.read_bytes() == bad["cut.png"][0]
    with pytest.raises(NotBuiltError, match="has the key abc"):
        inbox.restore(atlas.lineage.storage, ["abc"])


def test_a_file_beyond_the_limit_is_kept_whole(atlas: SmallAtlas) -> None:
    limited = atlas.profile.model_copy(update={"fetch": atlas.profile.fetch.model_copy(update={"max_bytes": 2048})})
    large = picture(7, size=256)
    drop(atlas, "large.png", large)
    drop(atlas, "large.json", b"{}")
    storage = atlas.lineage.storage
    intake.take_in(limited, storage, inbox.ready(storage))
    (item,) = inbox.quarantined(storage)
    assert item.reason == "too_many_bytes" and left(atlas) == set()
    inbox.restore(storage)
    base = item.key.partition(".")[0]
    assert left(atlas) == {f"{base}.png", f"{base}.json"} and not inbox.quarantined(storage)
    assert storage.read_bytes(f"generated/inbox/{base}.png") == large


@pytest.mark.parametrize("place", ["noted", "removed", "added"])
def test_a_run_that_dies_at_any_place_loses_and_doubles_nothing(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Between keeping, noting, leaving the inbox, the rows and the end of the note."""
    names = {f"{seed}.png" for seed in range(5)}
    for seed in range(5):
        drop(atlas, f"{seed}.png", picture(seed))
    with monkeypatch.context() as patch:

        def die(*arguments: Any, **options: Any) -> None:
            raise RuntimeError("the end")

        room, step = {"noted": (inbox, "remove"), "removed": (projecting, "_place"), "added": (projecting, "expire")}[
            place
        ]
        patch.setattr(room, step, die)
        assert not look_and_run(atlas).success
    drop(atlas, "late.png", picture(9))
    assert look_and_run(atlas).success
    found_rows = rows(atlas)
    assert {row["name"] for row in found_rows} == names | {"late.png"} and len(found_rows) == 6
    assert left(atlas) == set() and not inbox.accepted_names(atlas.lineage.storage)
    assert "Nothing waits" in skipped(atlas)


def test_a_file_that_is_written_anew_while_it_is_taken_stays(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, second = atlas.lineage.storage, picture(11)
    file = drop(atlas, "same name.png", picture(10))
    accept = inbox.accept

    def overwritten(*arguments: Any) -> str:
        file.write_bytes(second)
        return accept(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(inbox, "accept", overwritten)
        intake.take_in(atlas.profile, storage, inbox.ready(storage))
    assert file.read_bytes() == second
    os.utime(file, (time.time() - 60,) * 2)
    assert look_and_run(atlas).success
    ids = {row["id"] for row in rows(atlas)}
    assert ids == {hashlib.sha256(data).hexdigest() for data in (picture(10), second)}


def test_a_new_release_places_all_anew_and_keeps_the_old(atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(atlas, "a.png", picture(1))
    drop(atlas, "b.png", picture(2))
    assert look_and_run(atlas).success
    first = int(open_table(atlas.lineage.storage.lance_uri, LIVE).version)
    projection = atlas.profile.projection.model_copy(update={"seed": 43})
    atlas.profile = atlas.profile.model_copy(update={"projection": projection})
    encoded: list[int] = []
    encode = ImagePlacer.encode
    monkeypatch.setattr(ImagePlacer, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    results = atlas.build()
    assert results["generated_projection"].done == 2 and not results["generated_projection"].failed
    second = int(open_table(atlas.lineage.storage.lance_uri, LIVE).version)
    found = {(row["name"], row["release"]): row for row in rows(atlas)}
    assert second > first and set(found) == {(n, r) for n in ("a.png", "b.png") for r in (first, second)}
    assert sum(encoded) == 0  # the models did not change: vectors are taken over
    assert found["a.png", first]["clip"] == found["a.png", second]["clip"]
    assert found["a.png", first]["xyz_clip"] != found["a.png", second]["xyz_clip"]
    assert found["a.png", first]["received"] == found["a.png", second]["received"]
    assert "generated_projection" not in atlas.build()


def test_another_calibration_of_the_release_places_all_anew(atlas: SmallAtlas) -> None:
    drop(atlas, "a.png", picture(1))
    drop(atlas, "b.png", picture(2))
    assert look_and_run(atlas).success
    storage, before = atlas.lineage.storage, rows(atlas)
    key = calibration_key(ImagePlacer.open(storage).info)
    wide = np.linspace(1.0, 2.0, 200)
    spaces = dict.fromkeys(("clip", "vae", "joint"), Distances(wide, wide, wide))
    write_calibration(storage, key, Calibration({}, 1.0, spaces, wide * 20, np.zeros(200)))
    assert len(checks.placed_once(storage)) == 2 and "older calibration" in checks.placed_once(storage)[0]
    assert look_and_run(atlas).success
    after = rows(atlas)
    assert {(row["id"], row["release"]) for row in after} == {(row["id"], row["release"]) for row in before}
    assert len(after) == 2 and checks.placed_once(storage) == []
    assert {row["verdict"] for row in before} == {"not calibrated"}
    assert all(row["verdict"] != "not calibrated" and row["percentile_clip"] is not None for row in after)
    assert {row["calibration"] for row in after} == {calibration_version(storage, key)}
    assert {row["received"] for row in after} == {row["received"] for row in before}
    assert "Nothing waits" in skipped(atlas)


def test_an_original_that_is_lost_is_named_and_not_tried_for_ever(atlas: SmallAtlas) -> None:
    drop(atlas, "a.png", picture(1))
    drop(atlas, "b.png", picture(2))
    storage = atlas.lineage.storage
    intake.take_in(atlas.profile, storage, inbox.ready(storage))
    lost = hashlib.sha256(picture(1)).hexdigest()
    storage.delete(f"generated/images/{lost}.png")
    assert look_and_run(atlas).success
    assert [row["name"] for row in rows(atlas)] == ["b.png"]
    assert [(item.name, item.reason) for item in inbox.quarantined(storage)] == [("a.png", "file_missing")]
    assert "Nothing waits" in skipped(atlas)
    # nothing can be put back; the same file once more mends it
    assert inbox.restore(storage) == [] and len(inbox.quarantined(storage)) == 1
    drop(atlas, "a once more.png", picture(1))
    assert look_and_run(atlas).success
    assert {row["name"] for row in rows(atlas)} == {"b.png", "a once more.png"} and not inbox.quarantined(storage)
    kept = rows(atlas)[0]
    storage.write_bytes(kept["file"], b"other bytes")
    job = build_defs(atlas.profile).resolve_job_def("small__place_generated")
    checks = job.execute_in_process(instance=atlas.instance).get_asset_check_evaluations()
    assert {item.check_name for item in checks if not item.passed} == {"originals_kept"}
    drop(atlas, "mended.png", picture(2 if kept["name"] == "b.png" else 1))
    assert look_and_run(atlas).success
    assert hashlib.sha256(storage.read_bytes(kept["file"])).hexdigest() == kept["id"]


def test_one_image_that_cannot_be_encoded_or_read_does_not_stop_the_others(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(atlas, "good.png", picture(1, size=40))
    drop(atlas, "no vector.png", picture(2, size=56))
    drop(atlas, "secret.png", picture(3))
    encode, read = ImagePlacer.encode, Storage.read_bytes

    def encoded(self: ImagePlacer, images: Any) -> Any:
        if any(image.size == (56, 56) for image in images):
            raise DataError("values that are not finite")
        return encode(self, images)

    def refused(self: Storage, name: str) -> bytes:
        if name == "generated/inbox/secret.png":
            raise StorageError("cannot be accessed") from PermissionError()
        return read(self, name)

    monkeypatch.setattr(ImagePlacer, "encode", encoded)
    monkeypatch.setattr(Storage, "read_bytes", refused)
    assert look_and_run(atlas).success
    assert [row["name"] for row in rows(atlas)] == ["good.png"] and left(atlas) == set()
    aside = {item.name: item.reason for item in inbox.quarantined(atlas.lineage.storage)}
    assert aside == {"no vector.png": "no_vector", "secret.png": "file_unreadable"}
    assert "Nothing waits" in skipped(atlas)


@pytest.mark.parametrize(
    ("path", "release", "kept"),
    [
        ([{"step": 3, "places": {"clip": [1, 2.5, 3]}}], LIVE, [{"step": 3, "space": "clip", "xyz": [1, 2.5, 3]}]),
        ([{"step": 3, "places": {"clip": [1, 2, 3]}}], 77, []),  # of another release: other maps
        ([{"step": 3, "places": {"clip": [1, 2, 3]}}], None, []),
        ([{"step": 99_999_999_999, "places": {}}], LIVE, []),
        ([{"step": 1, "places": {"\ud83d": [1, 2, 3]}}], LIVE, []),
        ([{"step": 1, "places": {"clip": [float("nan"), 2, 3]}}], LIVE, []),
        ([{"step": True, "places": {"clip": [1, 2, 3]}}], LIVE, []),
        ("abc", LIVE, []),
    ],
)
def test_a_path_is_taken_over_where_it_is_one_of_this_release(
    atlas: SmallAtlas, path: Any, release: Any, kept: Any
) -> None:
    release = Atlas.open(atlas.profile.root).version if release == LIVE else release
    drop(atlas, "a.png", picture(1))
    drop(atlas, "a.json", json.dumps({"prompt": "a fox", "path": path, "release": release}).encode())
    intake.take_in(atlas.profile, atlas.lineage.storage, inbox.ready(atlas.lineage.storage))
    projecting.project(atlas.profile, atlas.lineage.storage)
    (row,) = rows(atlas)
    assert row["path"] == kept and row["prompt"] == "a fox"


def test_images_wait_for_a_release(built: Built, tmp_path: Path) -> None:
    profile = built.profile.model_copy(update={"root": str(tmp_path / "empty")})
    with small_atlas(profile) as atlas:
        drop(atlas, "a.png", picture(1))
        assert "1 images wait for a release" in skipped(atlas)
        file = write_profile(profile, tmp_path / "empty.toml")
        result = CliRunner().invoke(app, ["inbox", "take", "-p", str(file)])
        assert isinstance(result.exception, NotBuiltError) and left(atlas) == {"a.png"}


def test_one_run_at_a_time_and_failed_work_is_tried_again_later(
    atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(atlas, "a.png", picture(1))
    first = tick(atlas)
    assert isinstance(first, dg.SensorResult)
    (request,) = first.run_requests or []
    assert request.run_key is not None and request.run_key.endswith("-0")
    # nothing remembered: the same look gives the same key, which Dagster starts once
    same = tick(atlas)
    assert isinstance(same, dg.SensorResult) and [r.run_key for r in same.run_requests or []] == [request.run_key]
    job = build_defs(atlas.profile).resolve_job_def("small__place_generated")
    going = atlas.instance.create_run_for_job(job, tags={**request.tags, tags.PROFILE: "small"})
    assert "has not ended" in skipped(atlas)
    atlas.instance.add_run_tags(going.run_id, {tags.PROCESS: f"{host_name()}:999999999"})
    # its process is gone: it is closed, and counts as an attempt
    assert "next begins in" in skipped(atlas)
    closed = atlas.instance.get_run_by_id(going.run_id)
    assert closed is not None and closed.status is dg.DagsterRunStatus.FAILURE
    monkeypatch.setattr(defs_generated, "_FIRST_PAUSE", 0.0)
    third = tick(atlas)
    assert isinstance(third, dg.SensorResult)
    (request,) = third.run_requests or []
    assert request.run_key is not None and request.run_key.endswith("-1")
    assert run(atlas, request).success and len(rows(atlas)) == 1


def test_ten_thousand_files_are_one_small_request(atlas: SmallAtlas) -> None:
    data = picture(1)
    for number in range(10_000):
        drop(atlas, f"{number:05}.png", data)
    started = time.monotonic()
    found = tick(atlas)
    assert time.monotonic() - started < 30
    assert isinstance(found, dg.SensorResult)
    (request,) = found.run_requests or []
    assert len(str(request.run_config)) < 500
    batch = request.run_config["ops"]["small__generated_images"]["config"]["batch"]
    assert len(inbox.read_batch(atlas.lineage.storage, batch)) == atlas.profile.generated.batch == 1_000


def test_retention_by_age_and_count(atlas: SmallAtlas) -> None:
    for seed in range(4):
        drop(atlas, f"{seed}.png", picture(seed))
        intake.take_in(atlas.profile, atlas.lineage.storage, inbox.ready(atlas.lineage.storage))
    projecting.project(atlas.profile, atlas.lineage.storage)
    storage = atlas.lineage.storage

    def keeping(**settings: Any) -> Profile:
        return atlas.profile.model_copy(update={"generated": atlas.profile.generated.model_copy(update=settings)})

    assert projecting.expire(keeping(max_images=3), storage) == 1
    assert {row["name"] for row in rows(atlas)} == {"1.png", "2.png", "3.png"}
    assert len(list(storage.files(ORIGINALS))) == 3
    later = datetime.now(UTC) + timedelta(days=2)
    assert projecting.expire(keeping(max_age_days=3), storage, later) == 0
    assert projecting.expire(keeping(max_age_days=1), storage, later) == 3
    assert rows(atlas) == [] and list(storage.files(ORIGINALS)) == []
    assert projecting.pending(atlas.profile, storage).digest and not projecting.pending(atlas.profile, storage)


def test_the_command_takes_and_tells(atlas: SmallAtlas, tmp_path: Path) -> None:
    drop(atlas, "a.png", picture(1))
    drop(atlas, "bad \x1b[31m.png", b"no image")
    file = str(write_profile(atlas.profile, tmp_path / "copy.toml"))
    before = CliRunner().invoke(app, ["inbox", "-p", file])
    assert "0 placed, 2 waiting on release 2" in before.output
    taken = CliRunner().invoke(app, ["inbox", "take", "-p", file])
    assert taken.exit_code == 0, taken.output
    after = CliRunner().invoke(app, ["inbox", "-p", file])
    assert "1 placed, 0 waiting" in after.output and "not_an_image" in after.output and "\x1b" not in after.output
    assert CliRunner().invoke(app, ["inbox", "restore", "-p", file]).exit_code == 0
    assert len(left(atlas)) == 1


def test_columns_of_another_embedding_are_added_beside(tmp_path: Path) -> None:
    table = GeneratedTable(str(tmp_path))
    now = datetime.now(UTC)

    def row(release: int, **more: Any) -> dict[str, Any]:
        facts = {name: "" for name in ("name", "file", "encoder", "calibration", "verdict", "explanation")}
        sizes = {name: 1 for name in ("bytes", "width", "height")}
        return {"id": "a", "release": release, "received": now, "placed": now, "thumbnail": b"", "behind": [],
                "path": [], **facts, **sizes, **more}  # fmt: skip

    assert table.add([row(1, clip=[1.0, 2.0])], generated_schema(["clip"], ["clip"])) == 1
    assert table.add([row(1, clip=[3.0, 4.0])], generated_schema(["clip"], ["clip"])) == 0
    assert table.add([row(2, vae=[5.0])], generated_schema(["vae"], ["vae"])) == 1
    newest = table.rows(["a"])["a"]
    assert newest["release"] == 2 and newest["vae"] == [5.0] and newest["clip"] is None
    assert table.placements() == {"a": {1: "", 2: ""}}


def test_a_table_that_was_begun_with_vectors_of_16_bits_goes_on(tmp_path: Path) -> None:
    table, wide = GeneratedTable(str(tmp_path)), generated_schema(["clip"], ["clip"])
    narrow = wide.set(wide.get_field_index("clip"), wide.field("clip").with_type(pa.list_(pa.float16())))
    facts = {name: "" for name in ("name", "file", "encoder", "calibration", "verdict", "explanation")}
    sizes = {name: 1 for name in ("bytes", "width", "height")}
    now = datetime.now(UTC)
    row = {"release": 1, "received": now, "placed": now, "thumbnail": b"", "behind": [], "path": [], **facts, **sizes}
    assert table.add([{"id": "a", "clip": [1.0, 2.0], **row}], narrow) == 1
    assert table.add([{"id": "b", "clip": np.array([3.0, 0.1], np.float16), **row}], wide) == 1
    assert table.rows(["b"])["b"]["clip"] == [3.0, float(np.float16(0.1))]
    assert set(table.placements()) == {"a", "b"}


def test_the_documented_schema_is_the_table_s(atlas: SmallAtlas) -> None:
    drop(atlas, "a.png", picture(1))
    assert look_and_run(atlas).success
    table = GeneratedTable(Storage(atlas.profile.root).lance_uri).open()
    assert table is not None
    spaces = tuple(space.name for space in atlas.profile.spaces)
    known = {field.name for field in generated_schema()}
    assert set(table.schema.names) <= known and {name for name in known if name.endswith(spaces)} <= set(
        table.schema.names
    )
    assert all(f"| `{name}` |" in generated_schema_markdown() for name in table.schema.names)
    assert Lineage(atlas.profile).storage.exists("pictures/generated_projection/last/batch-on-the-map.png")
