"""What is stored is read, found damaged, and mended: of each kind of damage exactly what is lost is fetched again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from latent_assets.catalog.schema import empty_catalog
from latent_assets.catalog.shards import read_shard
from latent_assets.errors import DataError
from latent_assets.images.contact_sheet import contact_sheet
from latent_assets.images.download.health import health_of
from latent_assets.images.shard import FetchReport, shard_files
from latent_assets.images.store.ledger import read_ledger
from latent_assets.images.store.tar import read_images
from latent_assets.images.verify import ImageAudit, verify_images
from latent_assets.layout import catalog_name, journal_folder, ledger_name, tar_name
from latent_assets_tests.images.conftest import World, encoded, links_to, picture
from latent_assets_tests.images.damage import HIDDEN_DAMAGE, OF_LEDGERS, PLAIN_DAMAGE, Damage, garbage, ledger_deleted
from latent_assets_tests.images.site import Site

SHARD = "00000"


@pytest.fixture
def stored(world: World, site: Site) -> FetchReport:
    """A shard of eight images and two dead links, finished."""
    world.settings |= {"attempts": 1}
    world.catalog([*links_to(site, 8), site.url("/gone"), site.url("/away")])
    return world.run()


def audit(world: World, deep: bool = False) -> ImageAudit:
    return verify_images(world.storage, SHARD, deep)


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_wrong(world: World, stored: FetchReport, deep: bool) -> None:
    found = audit(world, deep)
    assert found == ImageAudit(
        shard=SHARD,
        rows=10,
        ok=8,
        reasons={"ok": 8, "http_not_found": 2},
        bytes=stored.bytes,
        version=stored.version,
        undecodable=(),
        problems={},
    )
    assert health_of(world.profile.fetch, found.reasons) == stored.health


def test_shard_that_was_never_fetched(world: World) -> None:
    found = audit(world)
    assert (found.rows, found.ok, found.bytes) == (0, 0, 0)
    assert "00000.parquet is not there" in found.problems["every_row_accounted_for"]
    assert "00000.tar is not there" in found.problems["tars_readable"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("damage", [*PLAIN_DAMAGE, *HIDDEN_DAMAGE], ids=lambda damage: damage.__name__)
def test_damage_is_found_and_named(world: World, stored: FetchReport, damage: Damage, deep: bool) -> None:
    lost = damage(world.storage, SHARD)
    found = audit(world, deep)
    if damage in OF_LEDGERS:
        assert set(found.problems) == {"every_row_accounted_for"}
        assert "images/00000.parquet" in found.problems["every_row_accounted_for"]
    else:
        assert set(found.problems) == {"tars_readable"}
        assert "images/00000.tar" in found.problems["tars_readable"]
        assert (found.rows, found.ok, found.reasons) == (10, 8, stored.reasons)
        assert (found.version == stored.version) == (lost == set())


def test_rows_without_an_outcome_and_rows_too_many(world: World, stored: FetchReport) -> None:
    kept = read_shard(world.storage, SHARD)
    new = kept.head(1).with_columns(id=pl.lit("f" * 32))
    world.storage.write_parquet(catalog_name(SHARD), pl.concat([kept, new]))
    assert "1 of 11 rows of the catalog have no outcome" in audit(world).problems["every_row_accounted_for"]
    world.storage.write_parquet(catalog_name(SHARD), kept.head(9))
    assert "1 rows that are not in the catalog" in audit(world).problems["every_row_accounted_for"]
    ledger = read_ledger(world.storage, SHARD)
    world.storage.write_parquet(catalog_name(SHARD), kept)
    world.storage.write_parquet(ledger_name(SHARD), pl.concat([ledger, ledger.head(2)]))
    assert "2 rows twice" in audit(world).problems["every_row_accounted_for"]
    world.storage.write_bytes(catalog_name(SHARD), garbage(500))
    world.storage.write_parquet(ledger_name(SHARD), ledger)
    assert "catalog/00000.parquet cannot be read" in audit(world).problems["every_row_accounted_for"]


def test_image_that_came_undecodable_is_listed_and_no_damage(world: World, site: Site) -> None:
    world.settings |= {"format": "raw"}
    whole = encoded(picture())
    tables = [at for at, marker in enumerate(pairwise(whole)) if marker == (0xFF, 0xDB)]
    without = bytearray(whole)
    for at in tables:
        without[at + 1] = 0xEC  # quantization tables that call themselves metadata
    world.catalog([site.add("/whole.jpg", whole), site.add("/odd.jpg", bytes(without))])
    assert world.run().ok == 2
    odd = world.ledger()[site.url("/odd.jpg")]["id"]
    assert (audit(world, deep=True).undecodable, audit(world, deep=True).problems) == ((odd,), {})
    assert audit(world).undecodable == ()


# -- mending -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "mend"),
    [*((damage, False) for damage in PLAIN_DAMAGE), *((damage, True) for damage in (*PLAIN_DAMAGE, *HIDDEN_DAMAGE))],
    ids=lambda value: getattr(value, "__name__", f"mend {value}"),
)
def test_what_is_lost_is_fetched_again_and_nothing_else(
    world: World, site: Site, stored: FetchReport, damage: Damage, mend: bool
) -> None:
    rows = world.ledger()
    images = dict(read_images(world.storage, SHARD))
    lost = damage(world.storage, SHARD)
    if lost is None:
        lost = set(images)
    due = {url for url, row in rows.items() if row["id"] in lost or (damage in OF_LEDGERS and row["outcome"] != "ok")}
    asked = len(site.requests)
    report = world.run(mend=mend)
    assert sorted(site.url(request.path) for request in site.requests[asked:]) == sorted(due)
    assert (report.fetched, report.written, report.version) == (len(due), True, stored.version)
    assert audit(world, deep=True).problems == {}
    assert dict(read_images(world.storage, SHARD)) == images
    again = world.ledger()
    for url, row in rows.items():
        if url not in due:
            known = {"fetched_at", "attempts"} if damage in OF_LEDGERS else set()
            assert {key: again[url][key] for key in row.keys() - known} == {key: row[key] for key in row.keys() - known}
    assert (world.run(mend=mend).written, len(site.requests)) == (False, asked + len(due))


def test_hidden_damage_is_left_alone_without_a_mend(world: World, site: Site, stored: FetchReport) -> None:
    """A look at headers does not find it: that is what `mend` and `verify_images` are for."""
    HIDDEN_DAMAGE[0](world.storage, SHARD)
    assert not world.run().written
    assert audit(world).problems


def test_lost_image_whose_link_has_died_since_is_a_failure(world: World, site: Site, stored: FetchReport) -> None:
    world.storage.delete(tar_name(SHARD))
    site.pages.pop("/3.jpg")
    report = world.run()
    assert (report.ok, report.reasons) == (7, {"ok": 7, "http_not_found": 3})
    assert audit(world, deep=True).problems == {}


def test_tar_and_ledger_are_both_damaged(world: World, site: Site, stored: FetchReport) -> None:
    """Without a ledger an image's sidecar says what its bytes must be."""
    HIDDEN_DAMAGE[0](world.storage, SHARD)
    ledger_deleted(world.storage, SHARD)
    asked = len(site.requests)
    report = world.run()
    assert (report.ok, report.version, len(site.requests)) == (8, stored.version, asked + 3)
    assert audit(world).problems == {}


def test_images_kept_in_spite_of_an_opt_out_are_known_as_such_without_the_ledger(world: World, site: Site) -> None:
    link = site.add("/a.jpg", encoded(picture()), x_robots_tag="noai")
    world.settings |= {"respect_opt_out": False}
    world.fetch(link)
    ledger_deleted(world.storage, SHARD)
    assert world.run().fetched == 0
    assert world.ledger()[link]["evidence"] == "X-Robots-Tag: noai"
    ledger_deleted(world.storage, SHARD)
    world.settings |= {"respect_opt_out": True}
    assert world.run().ok == 0
    assert world.ledger()[link]["outcome"] == "opted_out"


def test_tar_of_an_earlier_version_has_no_say_without_its_ledger(
    world: World, site: Site, stored: FetchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_assets.images.store.sidecar._LEDGER", ())
    (Path(world.storage.uri(tar_name(SHARD)))).unlink()
    world.run()
    monkeypatch.undo()
    assert audit(world, deep=True).problems == {}, "it is in order, though"
    assert not world.run(mend=True).written
    ledger_deleted(world.storage, SHARD)
    report = world.run()
    assert (report.fetched, report.ok, audit(world).problems) == (10, 8, {})


def test_readers_of_a_damaged_shard_say_so(world: World, stored: FetchReport) -> None:
    path = Path(world.storage.uri(tar_name(SHARD)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1024])
    with pytest.raises(DataError, match="has no end"):
        list(read_images(world.storage, SHARD))
    path.write_bytes(garbage(len(whole)))
    with pytest.raises(DataError, match="damaged"):
        list(read_images(world.storage, SHARD))
    Path(world.storage.uri(ledger_name(SHARD))).write_bytes(garbage(1000))
    with pytest.raises(DataError, match=r"images/00000\.parquet cannot be read"):
        read_ledger(world.storage, SHARD)


# -- groups of tars ------------------------------------------------------------------------------------


@pytest.fixture
def group(world: World, site: Site) -> World:
    """A shard of three tars, finished."""
    world.shards = {"rows": 20, "max_partitions": 1}
    world.settings |= {"attempts": 1}
    world.catalog([*links_to(site, 45), site.url("/gone")])
    world.run()
    return world


PARTS = [f"00000/{number:05d}-of-00003" for number in range(3)]


@pytest.mark.parametrize("damage", [*PLAIN_DAMAGE, *HIDDEN_DAMAGE], ids=lambda damage: damage.__name__)
def test_damage_of_one_tar_of_a_group(group: World, site: Site, damage: Damage) -> None:
    before = audit(group, deep=True)
    assert before.problems == {} and before.rows == 46
    other = [group.storage.read_bytes(tar_name(part)) for part in (PARTS[0], PARTS[2])]
    ledger = group.storage.read_parquet(ledger_name(PARTS[1]))
    lost = damage(group.storage, PARTS[1])
    (problem,) = audit(group).problems.values()
    assert "00000/00001-of-00003" in problem and "00002-of" not in problem
    images = ledger.filter(pl.col("outcome") == "ok").height
    due = images if lost is None else len(lost)
    if damage in OF_LEDGERS:
        due += ledger.height - images
    asked = len(site.requests)
    assert (group.run(mend=True).fetched, len(site.requests)) == (due, asked + due)
    assert audit(group, deep=True) == before
    assert [group.storage.read_bytes(tar_name(part)) for part in (PARTS[0], PARTS[2])] == other


def test_part_of_which_nothing_is_left(group: World) -> None:
    for name in (tar_name(PARTS[2]), ledger_name(PARTS[2])):
        group.storage.delete(name)
    found = audit(group)
    assert "00002-of-00003.parquet is not there" in found.problems["every_row_accounted_for"]
    assert "00002-of-00003.tar is not there" in found.problems["tars_readable"]
    assert tar_name(PARTS[2]) in shard_files(group.storage, SHARD)
    assert group.run().ok == 45 and audit(group).problems == {}


def test_damage_and_another_layout_together(group: World, site: Site) -> None:
    """What an old part without a ledger holds moves to the new tars, and the old ones go."""
    ledger_deleted(group.storage, PARTS[0])
    ledger_deleted(group.storage, PARTS[1])
    asked = len(site.requests)
    group.shards = {"rows": 100, "max_partitions": 1}
    report = group.run()
    assert (report.rows, report.ok) == (46, 45) and len(site.requests) <= asked + 1
    assert audit(group, deep=True).problems == {}
    assert shard_files(group.storage, SHARD) == (tar_name(SHARD), ledger_name(SHARD))
    assert group.storage.list("images/00000") == []


# -- what a shard consists of --------------------------------------------------------------------------


def test_files_of_a_shard(world: World, group: World) -> None:
    names = shard_files(group.storage, SHARD)
    assert names == tuple(f"images/{part}{suffix}" for part in PARTS for suffix in (".tar", ".parquet"))
    found = {str(path.relative_to(world.storage.root)) for path in Path(world.storage.uri("images")).rglob("*.*")}
    assert found == set(names)


def test_files_of_a_shard_are_no_journals_and_are_named_when_they_are_gone(world: World, stored: FetchReport) -> None:
    world.storage.write_bytes(f"{journal_folder(SHARD)}/000000-a.data", b"")
    expected = ("images/00000.tar", "images/00000.parquet")
    assert shard_files(world.storage, SHARD) == expected
    world.storage.delete(tar_name(SHARD))
    assert shard_files(world.storage, SHARD) == expected
    world.storage.delete(ledger_name(SHARD))
    assert shard_files(world.storage, SHARD) == expected


# -- shards without rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "a tar", "a group"])
def test_shard_without_rows(world: World, site: Site, before: str) -> None:
    if before == "nothing":
        world.storage.write_parquet(catalog_name(SHARD), empty_catalog())
    else:
        world.shards = {"rows": 2 if before == "a group" else 100, "max_partitions": 1}
        world.catalog(links_to(site, 5))
        world.run()
        world.storage.write_parquet(catalog_name(SHARD), empty_catalog())
    world.settings |= {"min_success": 0.9, "warn_success": 0.95}
    report = world.run()
    assert (report.rows, report.ok, report.reasons, report.fetched, report.written) == (0, 0, {}, 0, True)
    assert (report.health.level, report.health.success) == ("ok", 1.0)
    assert "no rows" in report.health.message
    assert list(read_images(world.storage, SHARD)) == []
    assert read_ledger(world.storage, SHARD).height == 0
    assert shard_files(world.storage, SHARD) == (tar_name(SHARD), ledger_name(SHARD))
    assert contact_sheet(data for _, data in read_images(world.storage, SHARD))[:4] == b"RIFF"
    found = audit(world, deep=True)
    assert (found.rows, found.problems, found.version) == (0, {}, report.version)
    assert not world.run().written
    for name in (tar_name(SHARD), ledger_name(SHARD)):
        world.storage.delete(name)
        assert audit(world).problems
        assert world.run().written and audit(world).problems == {}


def test_garbage_that_looks_like_headers(world: World, site: Site, stored: FetchReport) -> None:
    """Behind a damaged header the tar is searched for whole files: those that are what the ledger says count."""
    path = Path(world.storage.uri(tar_name(SHARD)))
    whole = path.read_bytes()
    path.write_bytes(garbage(512) + whole[512:] + whole)
    assert set(audit(world).problems) == {"tars_readable"}
    asked = len(site.requests)
    report = world.run()
    assert (report.version, audit(world).problems) == (stored.version, {})
    assert len(site.requests) == asked, "the second copy is whole"
    assert path.read_bytes() == whole


def test_audit_does_not_hold_a_tar_in_memory(world: World, site: Site) -> None:
    import tracemalloc

    noise = encoded(picture(900, 600).effect_spread(400), quality=95)
    world.settings |= {"format": "raw"}
    world.catalog([site.add(f"/{number}.jpg", noise) for number in range(300)])
    size = world.run().bytes
    tracemalloc.start()
    assert audit(world).problems == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 300 * len(noise) and peak < size / 2
