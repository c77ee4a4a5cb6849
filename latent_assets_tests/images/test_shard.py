"""A shard: every row has one outcome, nothing is fetched twice, and what changes is all that is done."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import time
from pathlib import Path

import polars as pl
import pytest
import webdataset
from PIL import Image

from latent_assets import progress
from latent_assets.catalog.shards import read_shard
from latent_assets.images.outcome import OUTCOME_OF, Outcome, Reason
from latent_assets.images.store.journal import Entry, Journal
from latent_assets.images.store.ledger import LEDGER_SCHEMA, read_ledger
from latent_assets.images.store.tar import read_images
from latent_assets.layout import journal_folder, tar_name
from latent_assets.storage import Storage
from latent_assets_tests.images.conftest import JPEG, World, links_to, photo
from latent_assets_tests.images.site import Request, Site, head


def tar_bytes(world: World) -> bytes:
    return world.storage.read_bytes(tar_name("00000"))


def members(world: World) -> dict[str, bytes]:
    """The tar's files, read by Python's own tarfile."""
    with tarfile.open(fileobj=io.BytesIO(tar_bytes(world))) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_every_row_has_one_outcome(world: World, site: Site) -> None:
    links = links_to(site, 6)
    missing = [site.url(f"/missing/{number}") for number in range(3)]
    world.catalog([*links, *missing, "file:///etc/hosts"])
    report = world.run()
    frame = read_ledger(world.storage, "00000")
    assert dict(frame.schema) == LEDGER_SCHEMA
    assert frame["id"].to_list() == read_shard(world.storage, "00000")["id"].to_list()
    assert report.reasons == {"ok": 6, "http_not_found": 3, "scheme_not_allowed": 1}
    assert (report.rows, report.ok, report.fetched, report.written) == (10, 6, 10, True)
    ok = frame.filter(pl.col("outcome") == "ok")
    assert ok["width"].unique().to_list() == [80] and ok["stored_height"].unique().to_list() == [60]
    assert ok["http_status"].unique().to_list() == [200] and ok["attempts"].unique().to_list() == [1]
    assert (time.time() - ok["fetched_at"].dt.epoch("s").max()) < 60  # type: ignore[operator]
    for row in ok.iter_rows(named=True):
        body = photo(int(row["url"].split("/")[-1][:-4]))
        assert (row["bytes"], row["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_third_of_the_rows_is_gone(world: World, site: Site) -> None:
    links = [site.add(f"/{n}.jpg", photo(n), 404 if n % 3 == 0 else 200) for n in range(30)]
    world.catalog(links)
    report = world.run()
    assert report.reasons == {"ok": 20, "http_not_found": 10}
    assert {url for url, row in world.ledger().items() if row["outcome"] == "failed"} == set(links[::3])
    assert len(members(world)) == 60 and len(site.requests) == 30


def test_reasons_and_outcomes_are_a_fixed_vocabulary() -> None:
    assert set(OUTCOME_OF) == set(Reason)
    assert OUTCOME_OF[Reason.OK] is Outcome.OK
    assert [reason for reason, outcome in OUTCOME_OF.items() if outcome is Outcome.OK] == [Reason.OK]


def test_tar_is_a_webdataset(world: World, site: Site) -> None:
    links = links_to(site, 5)
    captions: list[str | None] = ["one", "ünïcode 写真 עברית", None, "x" * 10_000, "with\nnewline"]
    world.catalog(links, captions)
    world.run()
    path = world.storage.uri(tar_name("00000"))
    samples = list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False).decode("pil"))
    rows = read_shard(world.storage, "00000")
    assert [sample["__key__"] for sample in samples] == rows["id"].to_list()
    by_url = dict(zip(links, captions, strict=True))
    for sample in samples:
        assert sample["jpg"].size == (80, 60)
        assert sample["txt"] == (by_url[sample["json"]["url"]] or "")
        assert sample["json"]["caption"] == by_url[sample["json"]["url"]]
        assert sample["json"]["status"] == "success" and sample["json"]["original_width"] == 80
    assert [key for key, _ in read_images(world.storage, "00000")] == rows["id"].to_list()
    assert all(Image.open(io.BytesIO(data)).size == (80, 60) for _, data in read_images(world.storage, "00000"))


def test_second_run_does_nothing(world: World, site: Site) -> None:
    world.catalog([*links_to(site, 5), site.url("/gone")])
    first = world.run()
    before = (len(site.requests), Path(world.storage.uri(tar_name("00000"))).stat().st_mtime_ns)
    second = world.run()
    assert (second.fetched, second.written) == (0, False)
    assert (len(site.requests), Path(world.storage.uri(tar_name("00000"))).stat().st_mtime_ns) == before
    assert (second.version, second.reasons, second.ok) == (first.version, first.reasons, first.ok)
    assert world.run().version == first.version


def test_same_rows_give_the_same_bytes_whatever_the_order_of_answers(world: World, site: Site, tmp_path: Path) -> None:
    links = links_to(site, 12)
    world.fetch(*links)
    other = World(tmp_path / "other", dict(world.settings))
    other.folder.mkdir()
    other.settings |= {"per_host": 1}
    other.fetch(*reversed(links))
    captions = {row["url"]: row["caption"] for row in read_shard(world.storage, "00000").iter_rows(named=True)}
    other.catalog(links, [captions[link] for link in links])
    other.run()
    assert tar_bytes(other) == tar_bytes(world)


@pytest.mark.parametrize("gathered", [1, 700, 5000])
def test_tar_is_the_same_however_much_is_written_at_once(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gathered: int
) -> None:
    links = links_to(site, 5)
    world.catalog(links)
    world.run()
    other = World(tmp_path / "other", world.settings)
    (tmp_path / "other").mkdir()
    other.catalog(links)
    monkeypatch.setattr("latent_assets.images.store.tar._GATHER", gathered)
    monkeypatch.setattr("latent_assets.images.store.tar._SYNC_EVERY", 2000)
    other.run()
    assert tar_bytes(other) == tar_bytes(world)
    assert len(members(other)) == 15


def test_retry_takes_the_named_reasons_only(world: World, site: Site) -> None:
    flaky, gone, good = site.add("/flaky", status=500), site.url("/gone"), site.add("/good", JPEG)
    world.settings |= {"attempts": 1}
    world.fetch(flaky, gone, good)
    site.add("/flaky", JPEG)
    site.add("/gone", JPEG)
    asked = len(site.requests)
    report = world.run(retry=["http_server_error"])
    assert (report.fetched, report.ok) == (1, 2)
    assert [request.path for request in site.requests[asked:]] == ["/flaky"]
    assert world.ledger()[flaky]["attempts"] == 2
    assert world.ledger()[gone]["reason"] == "http_not_found"
    with pytest.raises(ValueError, match="no_such_reason"):
        world.run(retry=["no_such_reason"])


def test_rows_that_come_and_go(world: World, site: Site) -> None:
    links = links_to(site, 6)
    world.catalog(links)
    first = world.run()
    kept = tar_bytes(world)
    gone = read_shard(world.storage, "00000").filter(pl.col("url") == links[2])["id"].item()
    asked = len(site.requests)
    world.catalog([link for link in links if link != links[2]], [f"caption of {n}" for n in range(6) if n != 2])
    report = world.run()
    assert (report.rows, report.ok, report.fetched) == (5, 5, 0)
    assert len(site.requests) == asked
    assert not any(name.startswith(gone) for name in members(world))
    assert report.version != first.version
    assert len(tar_bytes(world)) < len(kept)


def test_changed_caption_gives_new_sidecars_without_a_fetch(world: World, site: Site) -> None:
    links = links_to(site, 3)
    world.catalog(links, ["a", "b", "c"])
    first = world.run()
    asked = len(site.requests)
    world.catalog(links, ["a", "changed", "c"])
    report = world.run()
    assert (report.fetched, report.written) == (0, True)
    assert len(site.requests) == asked
    texts = {content.decode() for name, content in members(world).items() if name.endswith(".txt")}
    assert texts == {"a", "changed", "c"}
    sidecars = [json.loads(content) for name, content in members(world).items() if name.endswith(".json")]
    assert {sidecar["caption"] for sidecar in sidecars} == {"a", "changed", "c"}
    assert report.version == first.version  # the images are the same


def test_another_size_is_another_image(world: World, site: Site) -> None:
    links = links_to(site, 3)
    world.settings |= {"resize": "longest", "size": 40}
    world.fetch(*links, site.url("/gone"))
    asked = len(site.requests)
    world.settings |= {"quality": 50, "concurrency": 3}
    assert world.run().fetched == 3
    world.settings |= {"size": 20}
    report = world.run()
    assert (report.fetched, report.ok) == (3, 3)
    assert len(site.requests) == asked + 6
    assert {row["stored_width"] for row in world.ledger().values() if row["outcome"] == "ok"} == {20}
    world.settings |= {"timeout": 9.0, "per_host": 2}
    assert world.run().fetched == 0


def test_ledger_without_its_tar_is_fetched_again(world: World, site: Site) -> None:
    world.fetch(*links_to(site, 4))
    world.storage.delete(tar_name("00000"))
    report = world.run()
    assert (report.fetched, report.ok) == (4, 4)
    assert len(members(world)) == 12


def test_tar_that_is_cut_short_is_fetched_again_where_it_is(world: World, site: Site) -> None:
    links = links_to(site, 4)
    world.catalog(links, ["a", "b", "c", "d"])
    world.run()
    path = Path(world.storage.uri(tar_name("00000")))
    path.write_bytes(path.read_bytes()[:-4000])
    world.catalog(links, ["other", "b", "c", "d"])
    asked = len(site.requests)
    report = world.run()
    assert (report.ok, report.fetched, len(site.requests)) == (4, 1, asked + 1)
    assert len(members(world)) == 12


def test_progress_is_reported_as_rows_finish(world: World, site: Site) -> None:
    """No image comes before the one before it was reported: if that waited for others, it would wait for ever."""
    seen: list[progress.Progress] = []

    async def one_by_one(request: Request, writer: asyncio.StreamWriter) -> None:
        while len(seen) < len(site.requests):
            await asyncio.sleep(0.001)
        writer.write(head(content_length=str(len(JPEG))) + JPEG)

    world.settings |= {"per_host": 1, "timeout": 60.0}
    site.pages |= {f"/{number}": one_by_one for number in range(50)}
    world.catalog([site.url(f"/{number}") for number in range(50)])
    with progress.listening(seen.append):
        world.run()
    assert [report.done for report in seen if report.stage == "image_shards"] == list(range(51))
    assert {report.total for report in seen} == {50}


class _StopError(BaseException):
    """Like an interrupt of Dagster's: no Exception."""


@pytest.mark.timeout(30)
@pytest.mark.parametrize("concurrency", [1, 256])
def test_error_of_a_listener_ends_the_run_and_loses_no_outcome(world: World, site: Site, concurrency: int) -> None:
    world.settings |= {"concurrency": concurrency}
    world.catalog(links_to(site, 20))

    def stop(report: progress.Progress) -> None:
        if report.done:
            raise _StopError

    with progress.listening(stop), pytest.raises(_StopError):
        world.run()
    kept = len(Journal(world.storage, "00000").entries())
    assert kept > 0
    assert world.run().fetched == 20 - kept


# -- killed processes ----------------------------------------------------------------------------------


def test_killed_run_continues_with_the_rows_without_an_outcome(world: World, site: Site) -> None:
    links = links_to(site, 60)
    world.settings |= {"per_host": 2, "timeout": 60.0}
    world.catalog([*links, site.url("/gone")])

    def known() -> dict[str, Entry]:
        return Journal(world.storage, "00000").entries()

    for rows in (15, 30):
        site.held_after = len(site.requests) + 20
        world.killed_run(lambda rows=rows: len(known()) >= rows)
        assert not world.storage.exists(tar_name("00000"))
        assert world.storage.list("images") == []
    site.held_after = None
    kept = len(known())
    assert 30 <= kept <= 40
    asked = len(site.requests)
    report = world.run()
    assert report.fetched == 61 - kept
    assert len(site.requests) - asked == report.fetched
    assert (report.rows, report.ok) == (61, 60)
    # what was asked twice was in flight when the process was killed: two requests, and what waited to be decoded.
    # Without the journal it would be 15 rows after the first kill and 30 after the second
    assert len(site.requests) - 61 <= 15
    assert not world.storage.exists(journal_folder("00000"))
    rows = read_shard(world.storage, "00000")
    assert [name for name in members(world) if name.endswith(".jpg")] == [
        f"{key}.jpg" for key, url in rows.select("id", "url").iter_rows() if not url.endswith("/gone")
    ]
    world.run()
    assert len(site.requests) == asked + report.fetched


def test_killed_between_tar_and_ledger(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry whose process dies after the tar and before the ledger keeps what it fetched."""
    links = [site.add("/flaky", status=500), *links_to(site, 3)]
    world.settings |= {"attempts": 1}
    world.fetch(*links)
    site.add("/flaky", JPEG)

    def die(storage: Storage, name: str, *_: object, **options: object) -> None:
        assert (name, len(members(world))) == ("images/00000.parquet", 12), "the new tar is there, the ledger is not"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_parquet", die)
        with pytest.raises(KeyboardInterrupt):
            world.run(retry=["http_server_error"])
    asked = len(site.requests)
    report = world.run()
    assert (report.ok, report.fetched) == (4, 0)
    assert len(site.requests) == asked
    assert len(members(world)) == 12


# -- health --------------------------------------------------------------------------------------------


def test_network_fault_is_told_from_dead_links(world: World, site: Site, tmp_path: Path) -> None:
    world.settings |= {"attempts": 1, "min_success": 0.3}
    world.catalog([site.url(f"/gone/{number}") for number in range(30)])
    dead = world.run()
    assert dead.health.level == "fail" and dead.health.leading == "http_not_found"
    assert "fault" not in dead.health.message and "fetch.min_success" in dead.health.message
    other = World(tmp_path / "cut off", {**world.settings, "allow_origins": ("http://127.0.0.1:9",)})
    other.folder.mkdir()
    other.catalog([f"http://127.0.0.1:9/{number}" for number in range(30)])
    cut_off = other.run()
    assert cut_off.health.level == "fail"
    assert "fault of the network" in cut_off.health.message and "retry=" in cut_off.health.message


def test_opted_out_rows_do_not_count_as_failures(world: World, site: Site) -> None:
    links = links_to(site, 2)
    world.catalog([*links, *(site.add(f"/no/{number}", JPEG, x_robots_tag="noai") for number in range(8))])
    world.settings |= {"min_success": 0.9}
    report = world.run()
    assert (report.health.level, report.health.success) == ("ok", 1.0)
    assert "8 more opted out" in report.health.message


def test_success_levels(world: World, site: Site) -> None:
    links = links_to(site, 4)
    world.catalog([*links, *(site.url(f"/gone/{number}") for number in range(4))])
    world.settings |= {"min_success": 0.3, "warn_success": 0.6}
    report = world.run()
    assert (report.health.level, report.health.success) == ("warn", 0.5)
    world.settings |= {"warn_success": 0.5}
    assert world.run().health.level == "ok"
