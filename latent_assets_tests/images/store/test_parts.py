"""A shard with more rows than a tar should have: a group of tars that behaves like one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import webdataset
from PIL import Image

from latent_assets import progress
from latent_assets.catalog.shards import read_shard
from latent_assets.images.store.journal import Journal
from latent_assets.images.store.ledger import read_ledger
from latent_assets.images.store.parts import part_names, split, stored_parts
from latent_assets.images.store.tar import read_images
from latent_assets.layout import tar_name
from latent_assets.storage import Storage
from latent_assets_tests.images.conftest import JPEG, World, links_to
from latent_assets_tests.images.site import Site

GROUP = ["00000/00000-of-00003", "00000/00001-of-00003", "00000/00002-of-00003"]


@pytest.fixture
def group(world: World) -> World:
    """A World whose catalog is one shard, with at most 20 rows in a tar."""
    world.shards = {"rows": 20, "max_partitions": 1}
    return world


def tars(world: World) -> dict[str, bytes]:
    return {part: world.storage.read_bytes(tar_name(part)) for part in stored_parts(world.storage, "00000")}


def test_names() -> None:
    assert part_names("00012", 0, 10) == part_names("00012", 10, 10) == ["00012"]
    assert part_names("00012", 11, 10) == ["00012/00000-of-00002", "00012/00001-of-00002"]


def test_rows_are_spread_evenly_and_none_is_lost() -> None:
    ids = pl.Series("id", [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(3000)])
    parts = part_names("00000", 3000, 1000)
    shares = dict(split(pl.DataFrame({"id": ids.sort()}), parts))
    assert list(shares) == parts
    assert all(900 < share.height < 1100 and share["id"].is_sorted() for share in shares.values())
    assert pl.concat(shares.values())["id"].sort().equals(ids.sort())


def test_a_group_reads_like_one_shard(group: World, site: Site) -> None:
    seen: list[progress.Progress] = []
    group.catalog([*links_to(site, 45), site.url("/gone")])
    with progress.listening(seen.append):
        report = group.run()
    assert (report.rows, report.ok, report.reasons) == (46, 45, {"ok": 45, "http_not_found": 1})
    assert stored_parts(group.storage, "00000") == GROUP
    assert report.bytes == sum(map(len, tars(group).values()))
    catalog = read_shard(group.storage, "00000")
    ledger = read_ledger(group.storage, "00000")
    assert ledger["id"].sort().equals(catalog["id"])
    images = dict(read_images(group.storage, "00000"))
    assert set(images) == set(ledger.filter(pl.col("outcome") == "ok")["id"])
    assert all(Image.open(io.BytesIO(data)).size == (80, 60) for data in images.values())
    urls = [group.storage.uri(tar_name(part)) for part in GROUP]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert {sample["__key__"].rsplit("/", 1)[-1] for sample in samples} == set(images)
    done = [report.done for report in seen if report.stage == "image_shards"]
    assert done == sorted(done) and done[-1] == 46 and {report.total for report in seen} == {46}


def test_a_part_without_rows_is_there_too(world: World, site: Site) -> None:
    """So few rows that some tar stays empty, whatever the ids."""
    world.shards = {"rows": 1, "max_partitions": 1}
    world.catalog(links_to(site, 12))
    report = world.run()
    sizes = [len(world.storage.read_parquet(f"images/{part}.parquet")) for part in stored_parts(world.storage, "00000")]
    assert (len(sizes), sum(sizes), report.ok) == (12, 12, 12)
    assert 0 in sizes, "twelve rows in twelve tars by chance: one in 18,000"
    assert not world.run().written


def test_nothing_is_fetched_or_written_twice(group: World, site: Site) -> None:
    group.catalog([*links_to(site, 45), site.add("/flaky", status=500)])
    group.settings |= {"attempts": 1}
    first = group.run()
    before, asked = tars(group), len(site.requests)
    second = group.run()
    assert (second.fetched, second.written, second.version) == (0, False, first.version)
    assert (tars(group), len(site.requests)) == (before, asked)
    site.add("/flaky", JPEG)
    third = group.run(retry=["http_server_error"])
    assert (third.fetched, third.ok, len(site.requests)) == (1, 46, asked + 1)
    assert sum(before[part] != data for part, data in tars(group).items()) == 1, "one tar is written, the others stay"


def test_a_row_that_leaves_touches_one_tar(group: World, site: Site) -> None:
    links = links_to(site, 46)
    group.catalog(links)
    group.run()
    before, asked = tars(group), len(site.requests)
    group.catalog(links[:-1], [f"caption of {number}" for number in range(45)])
    report = group.run()
    assert (report.rows, report.ok, report.fetched, len(site.requests)) == (45, 45, 0, asked)
    assert sum(before[part] != data for part, data in tars(group).items()) == 1


@pytest.mark.parametrize(("rows", "layout"), [(20, ["00000"]), (23, part_names("00000", 23, 20)), (46, GROUP)])
def test_another_number_of_tars_is_no_reason_to_fetch(
    group: World, site: Site, rows: int, layout: list[str], tmp_path: Path
) -> None:
    """Rows that stay move to their new tars; then the old ones go."""
    links = links_to(site, 46)
    texts: list[str | None] = [f"caption of {number}" for number in range(46)]
    group.catalog(links, texts)
    group.run()
    asked = len(site.requests)
    group.catalog(links[:rows], texts[:rows])
    report = group.run()
    assert (report.rows, report.ok, report.fetched, len(site.requests)) == (rows, rows, 0, asked)
    assert stored_parts(group.storage, "00000") == layout
    found = sorted(
        path.relative_to(tmp_path / "root" / "images") for path in (tmp_path / "root" / "images").rglob("*.*")
    )
    assert found == sorted(Path(f"{part}.{suffix}") for part in layout for suffix in ("tar", "parquet"))
    # and back: a tar is a group again when a profile wants smaller ones
    group.shards = {"rows": 5, "max_partitions": 1}
    smaller = group.run()
    assert (smaller.fetched, smaller.ok, smaller.written, len(site.requests)) == (0, rows, True, asked)
    assert len(stored_parts(group.storage, "00000")) == -(-rows // 5)
    assert smaller.version == report.version


def test_killed_between_two_layouts(group: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    links = links_to(site, 46)
    group.catalog(links)
    first = group.run()
    asked = len(site.requests)
    group.shards = {"rows": 10, "max_partitions": 1}
    write, left = Storage.write_parquet, [2]

    def die_later(storage: Storage, name: str, *rest: Any, **options: Any) -> None:
        assert storage.exists(name.replace(".parquet", ".tar")), "it is about the ledger that is missing yet"
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(storage, name, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_parquet", die_later)
        with pytest.raises(KeyboardInterrupt):
            group.run()
    report = group.run()
    assert (report.ok, report.fetched, report.version, len(site.requests)) == (46, 0, first.version, asked)
    assert stored_parts(group.storage, "00000") == part_names("00000", 46, 10)


def test_unfinished_part_of_another_layout_is_not_lost(
    group: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after all rows of a part were fetched and before its tar was there; then the parts are others."""
    from latent_assets.images import shard

    group.catalog(links_to(site, 46))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard, "_write", die)
        with pytest.raises(KeyboardInterrupt):
            group.run()
    asked = len(site.requests)
    _, first = next(split(read_shard(group.storage, "00000"), GROUP))
    assert asked == first.height and stored_parts(group.storage, "00000") == []
    group.shards = {"rows": 100, "max_partitions": 1}
    report = group.run()
    assert (report.ok, report.fetched, len(site.requests)) == (46, 46 - asked, 46)
    assert group.storage.folders("images") in ([], ["00000"])
    assert group.storage.folders("images/00000") == []


def test_killed_run_continues_within_the_group(group: World, site: Site) -> None:
    group.settings |= {"per_host": 2, "timeout": 60.0}
    group.catalog(links_to(site, 60))
    site.held_after = 45
    group.killed_run(lambda: group.done >= 35)
    site.held_after = None
    finished = stored_parts(group.storage, "00000")
    assert finished in (GROUP[:1], GROUP[:2])
    pending = sum(len(Journal(group.storage, part).entries()) for part in GROUP)
    known = pending + sum(group.storage.read_parquet(f"images/{part}.parquet").height for part in finished)
    asked = len(site.requests)
    report = group.run()
    assert (report.rows, report.ok, report.fetched) == (60, 60, 60 - known)
    assert len(site.requests) - asked == report.fetched
    assert 35 <= known <= 45
