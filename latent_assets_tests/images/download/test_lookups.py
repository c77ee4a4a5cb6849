"""The name server: overloaded, slow, silent or broken for one name. Rows suffer only for what is wrong with a name."""

from __future__ import annotations

import time

import pytest

from latent_assets.errors import ResourceError
from latent_assets.images import faults
from latent_assets.images.download.lookups import LOOKUPS_AT_ONCE
from latent_assets.limits import NAMES
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.download.internet import NameServer, network
from latent_assets_tests.images.site import Site


@pytest.fixture
def links(site: Site) -> list[str]:
    """One link each to a hundred hosts that have public names."""
    site.add("/a.jpg", JPEG)
    return [f"http://host{number}.example.org/a.jpg" for number in range(100)]


def outcomes(world: World) -> set[tuple[str, int]]:
    return {(row["reason"], row["attempts"]) for row in world.ledger().values()}


@pytest.mark.parametrize("at_once", [1, 4, 20])
def test_overloaded_name_server_is_asked_for_less(
    strict_world: World, site: Site, links: list[str], at_once: int
) -> None:
    server = NameServer(lambda server, host: server.active > at_once, takes=0.01)
    strict_world.network = network(site, server)
    strict_world.fetch(*links)
    assert outcomes(strict_world) == {("ok", 1)}, "what failed was the name server, not the rows"
    assert server.most_active == LOOKUPS_AT_ONCE, "it was too much at first"
    assert len(server.lookups) < 15 * len(links), "and it was not flooded"


def test_name_server_that_is_gone_for_a_while_is_waited_for(strict_world: World, site: Site, links: list[str]) -> None:
    began = time.monotonic()
    server = NameServer(lambda server, host: time.monotonic() - began < 3.0)
    strict_world.network = network(site, server)
    strict_world.settings |= {"timeout": 1.0}
    strict_world.fetch(*links)
    assert outcomes(strict_world) == {("ok", 1)}


def test_silent_name_server_stops_the_run_with_its_name(
    strict_world: World, site: Site, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_SHORTEST_PATIENCE", 0.5)
    strict_world.settings |= {"timeout": 0.2}
    strict_world.network = network(site, NameServer(lambda server, host: True))
    strict_world.catalog(links)
    with pytest.raises(ResourceError, match=r"name server does not answer .* build again") as caught:
        strict_world.run()
    assert caught.value.resource == NAMES and caught.value.exit_code == 8
    strict_world.network = network(site, NameServer())
    report = strict_world.run()
    assert (report.fetched, report.ok) == (100, 100), "no row had an outcome"


def test_slow_name_server_costs_no_row_its_time(
    strict_world: World, site: Site, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names wait for each other much longer than a row may take."""
    from latent_assets.images import fetcher
    from latent_assets.images.download.descriptors import Budget

    monkeypatch.setattr(fetcher, "connection_budget", lambda wanted: Budget(100, 200, lookups=2))
    strict_world.settings |= {"timeout": 0.5}
    strict_world.network = network(site, NameServer(takes=0.1))
    strict_world.fetch(*links[:40])
    assert outcomes(strict_world) == {("ok", 1)}


@pytest.mark.parametrize("broken", [1, 10])
def test_name_that_fails_while_others_are_answered_is_the_names_fault(
    strict_world: World, site: Site, links: list[str], broken: int
) -> None:
    bad = {f"host{number}.example.org" for number in range(100 - broken, 100)}
    server = NameServer(lambda server, host: host in bad)
    strict_world.network = network(site, server)
    strict_world.settings |= {"attempts": 1, "timeout": 20.0}
    ledger = strict_world.fetch(*links)
    for link, row in ledger.items():
        assert row["reason"] == ("dns" if link.split("/")[2] in bad else "ok")
    assert all("Temporary failure" in row["evidence"] for row in ledger.values() if row["reason"] == "dns")


def test_one_name_alone_that_fails_is_the_names_fault(strict_world: World, site: Site, links: list[str]) -> None:
    strict_world.network = network(site, NameServer(lambda server, host: True))
    strict_world.settings |= {"attempts": 2, "timeout": 20.0}
    assert strict_world.fetch_one(links[0])["reason"] == "dns"


@pytest.mark.parametrize(
    "host",
    ["a.invalid", "A.INVALID.", "x.y.test", "pictures.example", "localhost", "a.localhost", "printer.local", "x.onion",
     "nas.home.arpa", "db.internal", "x.alt", "ä.invalid"],
)  # fmt: skip
def test_reserved_names_are_refused_without_asking(strict_world: World, site: Site, host: str) -> None:
    server = NameServer()
    strict_world.network = network(site, server)
    row = strict_world.fetch_one(f"http://{host}/a.jpg")
    assert (row["outcome"], row["reason"]) == ("refused", "private_address")
    assert "no part of the public internet" in row["evidence"] and "fetch.allow_origins" in row["evidence"]
    assert server.lookups == [] and site.requests == []


def test_reserved_name_behind_a_redirect_is_refused(strict_world: World, site: Site) -> None:
    server = NameServer()
    strict_world.network = network(site, server)
    site.add("/a.jpg", status=302, location="http://gone.invalid/b.jpg")
    row = strict_world.fetch_one("http://pictures.example.org/a.jpg")
    assert (row["outcome"], row["reason"], row["redirects"]) == ("refused", "private_address", 1)
    assert server.lookups == ["pictures.example.org"]


@pytest.mark.parametrize("host", ["example.com", "test.example.org", "localhost.net", "mytest", "invalid.org"])
def test_names_that_only_look_reserved_are_asked_for(strict_world: World, site: Site, host: str) -> None:
    strict_world.network = network(site, NameServer())
    site.add("/a.jpg", JPEG)
    assert strict_world.fetch_one(f"http://{host}/a.jpg")["reason"] == "ok"
