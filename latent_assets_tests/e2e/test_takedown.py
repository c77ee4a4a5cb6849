"""Takedown, proved: every file is decoded before, when all of them hold the image, and after, when none does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from latent_assets import cli
from latent_assets.atlas.fragments import table_files
from latent_assets.atlas.table import LIVE, table_uri, tags
from latent_assets.catalog.removals import removals_of
from latent_assets.client import Atlas
from latent_assets.defs.partitions import asset_key
from latent_assets.defs.takedown import resume, take_down
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.generated.table import GeneratedTable
from latent_assets.images.store.journal import Journal
from latent_assets.images.store.ledger import ledger_rows, read_ledger
from latent_assets.images.store.tar import read_images
from latent_assets.pipeline.lineage import Lineage
from latent_assets.pipeline.states import State
from latent_assets.pipeline.takedown import match, records, unfinished
from latent_assets.profile import Profile
from latent_assets_tests.conftest import Built, Gallery, drawing, profile_over, serving_gallery
from latent_assets_tests.e2e.decoded import Wanted, mentions, versions
from latent_assets_tests.e2e.small_atlas import SmallAtlas, small_atlas, write_profile

pytestmark = pytest.mark.slow

NAME = "017.png"


@dataclass(frozen=True)
class Origin:
    """A built atlas with a history, that tests copy: its profile, its gallery, its Dagster instance."""

    profile: Profile
    gallery: Gallery
    instance: Path


@pytest.fixture(scope="module")
def origin(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """60 drawings, published twice: without and with indexes of vectors; a generated image placed beside them."""
    folder = tmp_path_factory.mktemp("takedown")
    root = folder / "root"
    shutil.copytree(built.profile.root, root)
    (instance,) = (built.home / "dagster").iterdir()
    shutil.copytree(instance, folder / "instance")
    table = built.profile.table.model_copy(update={"index_above_rows": 10})
    profile = built.profile.model_copy(update={"root": str(root), "table": table})
    inbox = root / "generated" / "inbox" / "like it.png"
    inbox.parent.mkdir(parents=True)
    inbox.write_bytes(drawing(17, 80))
    os.utime(inbox, (time.time() - 60,) * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "instance"))
        with small_atlas(profile) as atlas:
            results = atlas.build()
        assert not any(result.failed for result in results.values()) and results["generated_projection"].done == 1
    yield Origin(profile, built.gallery, folder / "instance")


@pytest.fixture
def atlas(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallAtlas]:
    """A copy that the test may change, and its instance."""
    with copied(origin, tmp_path, monkeypatch) as found:
        yield found


def copied(origin: Origin, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    shutil.copytree(origin.profile.root, folder / "root")
    shutil.copytree(origin.instance, folder / "instance")
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "instance"))
    return small_atlas(origin.profile.model_copy(update={"root": str(folder / "root")}))


def row_of(atlas: SmallAtlas, name: str) -> Any:
    frame = Atlas.open(atlas.profile.root).to_polars()
    (row,) = frame.filter(pl.col("url").str.ends_with(f"/{name}")).to_dicts()
    return row


def wanted(atlas: SmallAtlas, name: str) -> Wanted:
    """All that is stored of an image, as bytes and as texts."""
    row, storage = row_of(atlas, name), atlas.lineage.storage
    (stored,) = [data for key, data in read_images(storage, row["shard"]) if key == row["id"]]
    ledger = read_ledger(storage, row["shard"]).filter(pl.col("id") == row["id"]).to_dicts()[0]
    latents = {}
    for file in storage.files("embeddings"):
        if file.name.endswith(f"{row['shard']}.latents.arrow"):
            table = pa.ipc.open_file(io.BytesIO(storage.read_bytes(file.name))).read_all()
            at = table["id"].to_pylist().index(row["id"])
            (column,) = [c for c in table.column_names if c != "id"]
            latents["latents"] = np.asarray(table[column][at].as_py(), np.float16).tobytes()
    vectors = {
        f"{n} {t.__name__}": np.asarray(row[n], t).tobytes() for n in ("clip", "vae") for t in (np.float16, np.float32)
    }
    places = {f"place {s}": np.asarray(row[f"xyz_{s}"], np.float32).tobytes() for s in ("clip", "vae", "joint")}
    return Wanted(
        texts={
            "id": row["id"],
            "url": row["url"],
            **({"caption": row["caption"]} if row["caption"] else {}),
            "sha256": ledger["sha256"],
            "stored sha256": ledger["stored_sha256"],
        },
        data={
            "id as bytes": bytes.fromhex(row["id"]),
            "image": stored,
            "thumbnail": row["thumbnail"],
            **latents,
            **vectors,
            **places,
        },
    )


def look(atlas: SmallAtlas, what: Wanted) -> dict[str, set[str]]:
    """Where it is found, below the root and in the instance."""
    root = mentions(Path(atlas.profile.root), what)
    instance = mentions(Path(os.environ["DAGSTER_HOME"]), what)
    found = {key: set(files) for key, files in root.items()}
    for key, files in instance.items():
        found.setdefault(key, set()).update(f"dagster:{file}" for file in files)
    return found


def rooms(found: dict[str, set[str]], key: str) -> set[str]:
    return {file.split("/")[0] for file in found.get(key, set())}


def take(atlas: SmallAtlas, **named: list[str]) -> Any:
    lineage = Lineage(atlas.profile)
    found = match(lineage, removals_of(**named))
    return take_down(lineage, atlas.instance, found, "asked by its author", {k: len(v) for k, v in named.items()})


def leave_traces(atlas: SmallAtlas, row: dict[str, Any]) -> None:
    """What is left of earlier work and of mishaps: a journal, another model's vectors, an old fit, notes, log lines."""
    storage, lineage = atlas.lineage.storage, Lineage(atlas.profile)
    entries = {r.id: r for r in ledger_rows(read_ledger(storage, row["shard"]))}
    images = dict(read_images(storage, row["shard"]))
    journal = Journal(storage, row["shard"])
    others = [key for key in images if key != row["id"]][:2]
    journal.add([(entries[key], images[key]) for key in (others[0], row["id"], others[1])])
    journal.close()
    for room in ("embeddings", "thumbnails"):
        name = storage.folders(room)[0]
        for file in list(storage.files(f"{room}/{name}")):
            storage.write_bytes(file.name.replace(name, "0" * 32), storage.read_bytes(file.name))
    fitted = lineage.manifest("umap_model").fingerprint
    for file in list(storage.files(f"projection/{fitted}")):
        storage.write_bytes(file.name.replace(fitted, "1" * 32), storage.read_bytes(file.name))
    lineage.manifests.note_failure("image_shards", row["shard"], ValueError(f"{row['url']} went wrong"))
    atlas.instance.report_runless_asset_event(
        dg.AssetObservation(asset_key(atlas.profile, "umap_model"), metadata={"found": f"row {row['id']}"})
    )


def not_current(atlas: SmallAtlas) -> set[str]:
    """Stages that are not current, and why that is."""
    found = [s for stage in atlas.lineage.status().values() for s in stage if s.state is not State.CURRENT]
    assert len({s.stage for s in found}) <= 1, "\n".join(f"{s.stage} {s.key} {s.state} {s.why}" for s in found)
    return {s.stage for s in found}


def test_an_image_is_taken_out_of_everything(atlas: SmallAtlas, origin: Origin) -> None:
    row, what = row_of(atlas, NAME), wanted(atlas, NAME)
    leave_traces(atlas, row)
    before = look(atlas, what)
    # the control: it is found by every reader, in every room
    assert {"catalog", "images", "embeddings", "thumbnails", "projection", "lance"} <= rooms(before, "id")
    assert {"catalog", "images", "lance", "manifests"} <= rooms(before, "url")
    assert {"catalog", "images", "lance"} <= rooms(before, "caption")
    assert rooms(before, "image") == {"images"} and any(".partial/" in file for file in before["image"])
    assert {"thumbnails", "lance", "tiles"} <= rooms(before, "thumbnail") and "tiles" in rooms(before, "id as bytes")
    assert {"embeddings", "projection"} <= rooms(before, "clip float16") and "lance" in rooms(before, "clip float32")
    assert rooms(before, "latents") == {"embeddings"}
    assert {"projection", "lance"} <= rooms(before, "place joint")
    assert any("generated.lance" in file for file in before["id"]), "a generated image has it among its neighbours"
    assert any("_indices" in file for file in before["id"])
    assert any(file.startswith("dagster:") for file in before["id"])
    assert set(before) == {*what.texts, *what.data}
    old = set(tags(atlas.lineage.storage.lance_uri)) - {LIVE}
    requests = len(origin.gallery.requests)

    done = take(atlas, urls=[row["url"]])

    after = look(atlas, what)
    assert after == {}
    record = done.outcome.record
    assert record.rows == 1 and record.versions == sorted(old) and done.runs
    uri = atlas.lineage.storage.lance_uri
    assert versions(table_uri(uri)) == [record.release]
    assert tags(uri) == {LIVE: record.release, f"release-{record.release:05d}": record.release}
    found = Atlas.open(atlas.profile.root)
    assert len(found) == 59 and found.info.rows == 59
    files = {file.name for file in table_files(atlas.lineage.storage)}
    assert {file.name for file in Path(table_uri(uri), "data").iterdir()} == files
    generated = GeneratedTable(uri).open()
    assert generated is not None and generated.count_rows() == 1
    assert [r.reason for r in records(atlas.lineage.storage)] == ["asked by its author"]
    assert unfinished(atlas.lineage.storage) == []

    # all is current, sound, known to the instance, and nothing was asked for again
    atlas.lineage = Lineage(atlas.profile)
    # of 60 fitted rows one is more than a hundredth: how far images are from each other is measured anew
    assert record.rebuilt == ["placement_calibration"] and not_current(atlas) == {"placement_calibration"}
    problems = [f for _, findings in atlas.lineage.verify(deep=True) for f in findings if not f.passed]
    assert all(f.check in ("calibration_possible", "map_keeps_neighbours") for f in problems), problems
    results = atlas.build()
    assert not any(r.failed for r in results.values())
    assert {n: r.done for n, r in results.items() if r.done} == {"placement_calibration": 1, "generated_projection": 1}
    assert len(origin.gallery.requests) == requests
    assert look(atlas, what) == {}
    assert atlas.materializations("image_shards") >= 3


def test_no_build_and_no_retry_brings_it_back(atlas: SmallAtlas, origin: Origin) -> None:
    row, what = row_of(atlas, NAME), wanted(atlas, NAME)
    take(atlas, urls=[row["url"].replace("http:", "https:")])
    gallery = origin.gallery
    listed = gallery.metadata.with_suffix(".before")
    shutil.copy2(gallery.metadata, listed)
    try:
        # the list changes; the same bytes come under another link
        gallery.files["copy.png"] = gallery.files[NAME]
        gallery.write([*sorted(gallery.files)])
        asked = len(gallery.requests)
        results = atlas.build(retry=["taken_down", "http_not_found"])
        assert not any(r.failed for r in results.values()), {k: r.failed for k, r in results.items()}
        assert NAME not in gallery.requests[asked:] and "copy.png" in gallery.requests[asked:]
    finally:
        del gallery.files["copy.png"]
        listed.replace(gallery.metadata)  # as it was, with its time: the other tests' atlases are made from it
    details = atlas.lineage.details(atlas.lineage.manifest("laion_metadata"))
    assert dict(map(tuple, details.funnel))["taken_down"] == 1
    found = Atlas.open(atlas.profile.root).to_polars(["url"])["url"].to_list()
    assert len(found) == 59 and not any(url.endswith((NAME, "copy.png")) for url in found)
    ledgers = pl.concat(read_ledger(atlas.lineage.storage, shard) for shard in atlas.lineage.shards())
    (refused,) = ledgers.filter(pl.col("reason") == "taken_down").to_dicts()
    assert refused["url"].endswith("copy.png") and refused["outcome"] == "opted_out" and refused["sha256"] is None
    hashes = {"sha256", "stored sha256", "id", "url", "image", "thumbnail", "clip float16", "latents"}
    assert not hashes & set(look(atlas, what))
    # the tombstone of its bytes is no secret's: only a hash of their hash is kept
    assert hashlib.sha256(gallery.files[NAME]).hexdigest() == what.texts["sha256"]


def test_by_bytes_all_copies_go_and_by_domain_all_rows(
    origin: Origin, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    gallery_files = {"00a.png": drawing(1), "00b.png": drawing(1), **{f"{n:03}.png": drawing(n) for n in range(11, 49)}}
    with serving_gallery(tmp_path / "own") as gallery:
        gallery.files = gallery_files
        gallery.write(sorted(gallery.files))
        profile = profile_over(gallery, small_models, tmp_path)
        with small_atlas(profile) as atlas:
            assert not any(r.failed for r in atlas.build().values())
            row, what = row_of(atlas, "00a.png"), wanted(atlas, "00a.png")
            found = match(Lineage(profile), removals_of(urls=[row["url"]]))
            assert (found.rows, found.copies) == (2, 1)
            take(atlas, images=[row["sha256"]])
            assert len(Atlas.open(profile.root)) == 38
            assert not {"image", "sha256", "thumbnail", "clip float16"} & set(look(atlas, what))
            take(atlas, domains=["127.0.0.1"])
            assert len(Atlas.open(profile.root)) == 0
            left = look(atlas, wanted_host(gallery))
            assert left == {}, left
            atlas.build()
            assert Atlas.open(profile.root).info.rows == 0


def wanted_host(gallery: Gallery) -> Wanted:
    return Wanted({"host": f"{gallery.origin}/", "caption": "a picture of 0"}, {})


def test_a_takedown_that_is_killed_is_ended(atlas: SmallAtlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stops, the plan is there, a build is refused, and `--resume` ends it."""
    row, what = row_of(atlas, NAME), wanted(atlas, NAME)
    from latent_assets.pipeline import restamping, takedown

    stops = [
        (takedown, "_drop_from_catalog"),
        (takedown, "drop_images"),
        (takedown, "_drop_vectors"),
        (restamping.Restamping, "_vectors"),
        (restamping.Restamping, "_publish"),
        (restamping.Restamping, "_calibration"),
    ]
    lineage = Lineage(atlas.profile)
    found = match(lineage, removals_of(urls=[row["url"]]))

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    monkeypatch.setattr(restamping, "_KEPT_CALIBRATION", 0.9)
    for number, (where, name) in enumerate(stops):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, die)
            if where is restamping.Restamping:
                handlers = {k: die if f.__name__ == name else f for k, f in where._handlers.items()}
                patch.setattr(where, "_handlers", handlers)
            with pytest.raises(Killed):
                if number == 0:
                    take_down(lineage, atlas.instance, found, "asked", {"url": 1})
                else:
                    resume(Lineage(atlas.profile), atlas.instance)
        assert len(unfinished(lineage.storage)) == 1, name
        with pytest.raises(NotBuiltError, match="takedown --resume"):
            atlas.build()
    (ended,) = resume(Lineage(atlas.profile), atlas.instance)
    assert ended.outcome.record.rows == 1
    assert look(atlas, what) == {}
    assert len(Atlas.open(atlas.profile.root)) == 59
    atlas.lineage = Lineage(atlas.profile)
    assert not_current(atlas) == set()


def test_it_waits_until_nothing_is_made_and_refuses_while_runs_go_on(atlas: SmallAtlas) -> None:
    row = row_of(atlas, NAME)
    run = atlas.instance.create_run_for_job(_job())
    atlas.instance.handle_new_event(_started(run))
    with pytest.raises(DataError, match="1 runs go on"):
        take(atlas, urls=[row["url"]])
    assert len(Atlas.open(atlas.profile.root)) == 60 and unfinished(atlas.lineage.storage) == []
    lineage = Lineage(atlas.profile)
    lineage.claims._wait = 0.5
    with atlas.lineage.claims.holding("image_shards/00001"), pytest.raises(Exception, match="image_shards/00001"):
        take_down(lineage, atlas.instance, match(lineage, removals_of(urls=[row["url"]])), "asked", {})


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def waits() -> None:
        nothing()

    return waits


def _started(run: dg.DagsterRun) -> Any:
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    return dg.EventLogEntry(
        error_info=None, level=20, user_message="", run_id=run.run_id, timestamp=time.time(), dagster_event=event
    )


# -- the command -----------------------------------------------------------------------------------------


def test_the_command(
    atlas: SmallAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = row_of(atlas, NAME)
    profile = write_profile(atlas.profile, tmp_path / "copy.toml")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latent-assets", "takedown", *arguments, "-p", str(profile)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, " ".join(printed.err.split())

    for arguments, sentence in {
        (): "Say what to take down",
        ("--url", row["url"]): "Say why",
        ("--sha256", "abc", "--dry-run"): "is no SHA-256",
        ("--id", "xyz", "--dry-run"): "is no row id",
        ("--file", str(tmp_path / "nosuch.txt"), "--dry-run"): "nosuch.txt is not there",
        ("--resume", "--id", row["id"]): "name nothing with it",
    }.items():
        code, text, said = run(*arguments)
        assert code in (2, 3) and sentence in said and not text, (arguments, said)

    before = {p: p.read_bytes() for p in Path(atlas.profile.root).rglob("*") if p.is_file()}
    code, text, _ = run("--url", row["url"], "--dry-run")
    assert code == 0 and "1 rows would be taken down" in text and f"shards: {row['shard']}" in text
    code, text, _ = run("--url", row["url"], "--dry-run", "--json")
    would = json.loads(text)
    assert (would["rows"], would["copies"], would["shards"]) == (1, 0, [row["shard"]]) and len(would["releases"]) == 2
    assert would["found"]["catalog"] == 1 and would["bucket_versions"] is False
    assert before == {p: p.read_bytes() for p in Path(atlas.profile.root).rglob("*") if p.is_file()}

    listed = tmp_path / "list.txt"
    listed.write_text(f"# asked for\n{row['sha256']}\nhttp://elsewhere.example/never-seen.png\n")
    code, text, said = run("--file", str(listed), "--reason", "asked", "--json")
    assert code == 0, said
    record = json.loads(text)
    assert record["rows"] == 1 and record["named"] == {"url": 1, "domain": 0, "hash": 0, "id": 0, "sha256": 1}
    assert record["removed"]["catalog"] == record["removed"]["table"] == record["removed"]["images"] == 1
    assert row["id"] not in text and row["url"] not in text
    code, text, _ = run("--resume")
    assert code == 0 and "No takedown was interrupted" in text
    # nothing of it is there: it is kept out for ever all the same
    code, text, _ = run("--url", row["url"], "--reason", "again")
    assert code == 0 and "0 rows are taken down" in text
    assert len(Atlas.open(atlas.profile.root)) == 59


def test_a_folder_keeps_its_own_files_and_no_build_takes_them_in_again(
    small_models: dict[str, dict[str, Any]], tmp_path: Path, gallery: Gallery
) -> None:
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    for n in range(40):
        (folder / ("cats" if n % 2 else "") / f"{n:02}.png").write_bytes(drawing(n))
    profile = profile_over(
        gallery,
        small_models,
        tmp_path,
        source={"path": str(folder), "kind": "folder"},
        filters={"require_caption": False},
    )
    with small_atlas(profile) as atlas:
        assert not any(r.failed for r in atlas.build().values())
        lineage = Lineage(profile)
        found = match(lineage, removals_of(urls=["cats/07.png"]))
        assert found.rows == 1 and found.own == (f"{folder}: cats/07.png",)
        what = wanted(atlas, "07.png")
        take_down(lineage, atlas.instance, found, "asked", {"url": 1})
        assert (folder / "cats/07.png").is_file(), "the source's own copy is the user's"
        assert not {"id", "image", "sha256", "thumbnail"} & set(look(atlas, what))
        (folder / "again.png").write_bytes(drawing(7))
        assert not any(r.failed for r in atlas.build().values())
        urls = Atlas.open(profile.root).to_polars(["url"])["url"].to_list()
        assert len(urls) == 39 and "cats/07.png" not in urls and "again.png" not in urls


def test_a_ledger_of_an_earlier_version_still_reads(atlas: SmallAtlas) -> None:
    """Before there were takedowns the column of reasons had one less."""
    storage = atlas.lineage.storage
    frame = read_ledger(storage, "00000")
    kind = frame.schema["reason"]
    assert isinstance(kind, pl.Enum)
    old = pl.Enum([value for value in kind.categories if value != "taken_down"])
    storage.write_parquet("images/00000.parquet", frame.cast({"reason": old}))
    assert read_ledger(storage, "00000").equals(frame)
    storage.write_parquet("images/00000.parquet", frame.with_columns(reason=pl.lit("ok")))
    with pytest.raises(DataError, match="columns of a ledger"):
        read_ledger(storage, "00000")
