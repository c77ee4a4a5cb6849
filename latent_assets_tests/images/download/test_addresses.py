"""Which addresses are connected to. Names resolve through a fake; a refused address is never connected to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from latent_assets.images.download.addresses import is_public, literal_address
from latent_assets.images.download.http_client import Network
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Site

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


class FakeInternet:
    """Names and what they resolve to, one answer after the other; public addresses lead to a site on loopback."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._answers: dict[str, Iterator[list[str]]] = {}
        self.lookups: list[str] = []
        self.meant: list[tuple[str, int]] = []

    def name(self, host: str, *answers: list[str]) -> None:
        def forever() -> Iterator[list[str]]:
            yield from answers
            while True:
                yield answers[-1]

        self._answers[host] = forever()

    async def lookup(self, host: str, port: int) -> list[str]:
        self.lookups.append(host)
        if host == "overloaded.example.org" and self.lookups.count(host) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return next(self._answers[host])

    def socket(self, info: Any) -> socket.socket:
        internet = self

        class Wire(socket.socket):
            """A socket whose connection goes to the site, whatever the address."""

            def connect(self, address: Any) -> None:
                internet.meant.append(tuple(address[:2]))
                super().connect(("127.0.0.1", internet._site.port))

        return Wire(socket.AF_INET, socket.SOCK_STREAM)

    @property
    def network(self) -> Network:
        return Network(lookup=self.lookup, socket_factory=self.socket)


@pytest.fixture
def internet(site: Site) -> FakeInternet:
    return FakeInternet(site)


@pytest.mark.parametrize("address", [PUBLIC, OTHER_PUBLIC, "8.8.8.8", "2001:4860:4860::8888", "1.1.1.1"])
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1",
        "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
        "100::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "not an address", "",
    ],
)  # fmt: skip
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"), ("0x7f000001", "127.0.0.1"), ("127.0.0.1.", "127.0.0.1"), ("[::1]", "::1"),
        ("example.com", None), ("1.2.3.4.example.org", None), ("a1", None), ("999.999.999.999", "999.999.999.999"),
    ],
)  # fmt: skip
def test_literal_address(host: str, address: str | None) -> None:
    assert literal_address(host) == address


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254",
     "[fe80::1]", "10.0.0.1", "0.0.0.0", "[::ffff:a9fe:a9fe]", "127.0.0.1."],
)  # fmt: skip
def test_literal_is_refused_without_a_connection(
    strict_world: World, connected: list[tuple[str, int]], host: str
) -> None:
    row = strict_world.fetch_one(f"http://{host}:8080/latest/meta-data/")
    assert (row["outcome"], row["reason"]) == ("refused", "private_address")
    assert "fetch.allow_origins" in row["evidence"] and ':8080"]' in row["evidence"]
    assert connected == []


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["10.1.2.3"], ["::1"], ["::ffff:192.168.0.1"], ["fd00::5"], ["100.64.3.2"],
     [PUBLIC, "10.0.0.1"], [OTHER_PUBLIC, "::1"]],
)  # fmt: skip
def test_name_with_a_private_address_is_refused(
    strict_world: World, internet: FakeInternet, connected: list[tuple[str, int]], addresses: list[str]
) -> None:
    internet.name("inside.example.org", addresses)
    strict_world.network = internet.network
    row = strict_world.fetch_one("http://inside.example.org/a.jpg")
    assert (row["outcome"], row["reason"]) == ("refused", "private_address")
    assert "inside.example.org" in row["evidence"]
    assert '`fetch.allow_origins = ["http://inside.example.org:80"]`' in row["evidence"], "and how it would be allowed"
    assert connected == [] and internet.meant == []


def test_checked_address_is_the_one_connected_to(strict_world: World, internet: FakeInternet, site: Site) -> None:
    """A name that changes its mind after the check (DNS rebinding) is not asked again."""
    internet.name("rebind.example.org", [PUBLIC], ["127.0.0.1"])
    site.add("/a.jpg", JPEG)
    strict_world.network = internet.network
    row = strict_world.fetch_one("http://rebind.example.org/a.jpg")
    assert row["reason"] == "ok"
    assert internet.meant == [(PUBLIC, 80)]
    assert internet.lookups == ["rebind.example.org"]
    assert site.requests[0].headers["host"] == "rebind.example.org"


def test_rebinding_between_two_connections_is_refused(strict_world: World, internet: FakeInternet, site: Site) -> None:
    """The second connection resolves again (another port): the new answer is checked like the first."""
    internet.name("rebind.example.org", [PUBLIC], ["127.0.0.1"])
    site.add("/a.jpg", status=302, location="http://rebind.example.org:8080/b.jpg")
    strict_world.network = internet.network
    row = strict_world.fetch_one("http://rebind.example.org/a.jpg")
    assert (row["outcome"], row["reason"], row["redirects"]) == ("refused", "private_address", 1)
    assert internet.meant == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1/", "http://127.0.0.1:{port}/b.jpg", "http://169.254.169.254/latest/meta-data/", "//127.0.0.1/",
     "http://[::1]/", "http://localhost/", "http://2130706433/", "http://inside.example.org/", "http://user@127.0.0.1/"],
)  # fmt: skip
def test_redirect_to_the_inside_is_refused(
    strict_world: World, internet: FakeInternet, site: Site, connected: list[tuple[str, int]], location: str
) -> None:
    internet.name("outside.example.org", [PUBLIC])
    internet.name("inside.example.org", ["10.0.0.1"])
    internet.name("localhost", ["127.0.0.1"])
    site.add("/a.jpg", status=302, location=location.format(port=site.port))
    site.add("/b.jpg", JPEG)
    strict_world.network = internet.network
    row = strict_world.fetch_one("http://outside.example.org/a.jpg")
    assert (row["outcome"], row["reason"], row["redirects"]) == ("refused", "private_address", 1)
    assert "fetch.allow_origins" in row["evidence"]
    assert internet.meant == [(PUBLIC, 80)]
    assert len(connected) == 1
    assert [request.path for request in site.requests] == ["/a.jpg"]


def test_exception_is_for_the_exact_origin(world: World, site: Site, other_site: Site) -> None:
    world.settings |= {"allow_origins": (site.origin,)}
    site.add("/a.jpg", JPEG)
    other_site.add("/b.jpg", JPEG)
    site.add("/hop", status=302, location=other_site.url("/b.jpg"))
    spelled = site.origin.replace("http://127.0.0.1", "HTTP://127.0.0.1") + "/a.jpg?again"
    site.add("/a.jpg?again", JPEG)
    ledger = world.fetch(site.url("/a.jpg"), other_site.url("/b.jpg"), site.url("/hop"), spelled)
    assert ledger[site.url("/a.jpg")]["reason"] == "ok"
    assert ledger[spelled]["reason"] == "ok"
    assert ledger[other_site.url("/b.jpg")]["reason"] == "private_address"
    assert ledger[site.url("/hop")]["reason"] == "private_address"
    assert other_site.requests == []


def test_dead_name_is_looked_up_once(strict_world: World, internet: FakeInternet) -> None:
    strict_world.network = internet.network
    strict_world.settings |= {"attempts": 2}
    links = [f"http://gone.example.org/{number}.jpg" for number in range(30)]
    ledger = strict_world.fetch(*links)
    assert {row["reason"] for row in ledger.values()} <= {"dns", "host_down"}
    assert max(row["attempts"] for row in ledger.values()) == 1
    assert {row["outcome"] for row in ledger.values()} == {"failed"}
    assert internet.lookups == ["gone.example.org"]


def test_overloaded_name_server_is_asked_again(strict_world: World, internet: FakeInternet, site: Site) -> None:
    internet.name("overloaded.example.org", [PUBLIC])
    site.add("/a.jpg", JPEG)
    strict_world.network = internet.network
    strict_world.settings |= {"attempts": 3}
    row = strict_world.fetch_one("http://overloaded.example.org/a.jpg")
    assert (row["reason"], row["attempts"]) == ("ok", 1), "the row was asked for once: the faults were not its own"


def test_idn_host(strict_world: World, internet: FakeInternet, site: Site) -> None:
    internet.name("xn--bcher-kva.example.org", [PUBLIC])
    site.add("/%C3%BC.jpg", JPEG)
    strict_world.network = internet.network
    row = strict_world.fetch_one("http://Bücher.example.org/ü.jpg")
    assert row["reason"] == "ok"
    assert site.requests[0].headers["host"] == "xn--bcher-kva.example.org"
