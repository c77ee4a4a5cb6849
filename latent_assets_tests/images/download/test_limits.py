"""Limits of this machine while links are fetched: open files, memory, ports, threads. None is the outcome of a row."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latent_assets.errors import ResourceError
from latent_assets.images import faults
from latent_assets.images.download import addresses, robots
from latent_assets.images.download.http_client import Network
from latent_assets.limits import FILES, MEMORY, PORTS, THREADS, shortage
from latent_assets_tests.images.conftest import JPEG, World, links_to
from latent_assets_tests.images.download.internet import PUBLIC, NameServer, wired
from latent_assets_tests.images.site import Site

_CHILD = """
import json, resource, sys
from pathlib import Path
soft, hard, folder, settings = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
from latent_assets_tests.images.conftest import World
world = World(Path(folder), eval(settings))
report = world.run()
rows = world.ledger().values()
print(json.dumps({
    "reasons": report.reasons,
    "attempts": sorted({row["attempts"] for row in rows}),
    "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""


def fetch_with_files(world: World, soft: int, hard: int) -> dict[str, Any]:
    """Fetch in a process that may open so many files."""
    arguments = [str(soft), str(hard), str(world.folder), repr(world.settings)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("files", [64, 96, 256])
def test_with_few_files_every_row_is_fetched(world: World, site: Site, files: int) -> None:
    world.settings |= {"concurrency": 500, "per_host": 256}
    world.catalog(links_to(site, 200, delay=0.05))
    found = fetch_with_files(world, files, files)
    assert found == {"reasons": {"ok": 200}, "attempts": [1], "limit": files}
    assert 1 < site.most_active < files, "as many at a time as fit"


def test_the_soft_limit_is_raised_where_that_is_allowed(world: World, site: Site) -> None:
    world.settings |= {"concurrency": 200, "per_host": 256}
    world.catalog(links_to(site, 400, delay=0.3))
    found = fetch_with_files(world, 64, 4096)
    assert found["reasons"] == {"ok": 400} and 64 < found["limit"] <= 4096
    assert site.most_active > 150


def _failing(error: BaseException, times: int, site: Site) -> tuple[Network, list[int]]:
    """A network on which the first sockets that are made raise an error."""
    made, connect = [0], wired(site)

    def factory(info: Any) -> socket.socket:
        made[0] += 1
        if made[0] <= times:
            raise error
        return connect(info)

    return Network(lookup=NameServer().lookup, socket_factory=factory), made


_FAULTS = [
    (OSError(errno.EMFILE, "Too many open files"), FILES),
    (OSError(errno.ENFILE, "Too many open files in system"), FILES),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
    (OSError(errno.ENOBUFS, "No buffer space available"), MEMORY),
    (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), PORTS),
    (MemoryError(), MEMORY),
    (RuntimeError("can't start new thread"), THREADS),
]


@pytest.mark.parametrize(("error", "resource"), _FAULTS)
def test_a_fault_that_passes_costs_no_attempt(
    strict_world: World, site: Site, error: BaseException, resource: str
) -> None:
    site.add("/a.jpg", JPEG)
    strict_world.network, made = _failing(error, 12, site)
    strict_world.settings |= {"attempts": 1}
    ledger = strict_world.fetch(*(f"http://host{number}.example.org/a.jpg" for number in range(10)))
    assert {(row["reason"], row["attempts"]) for row in ledger.values()} == {("ok", 1)}
    assert made[0] == 22


@pytest.mark.parametrize(("error", "resource"), _FAULTS)
def test_a_fault_that_stays_stops_the_run_with_its_name(
    strict_world: World, site: Site, monkeypatch: pytest.MonkeyPatch, error: BaseException, resource: str
) -> None:
    monkeypatch.setattr(faults, "_SHORTEST_PATIENCE", 0.3)
    site.add("/a.jpg", JPEG)
    strict_world.network, _ = _failing(error, 1_000_000, site)
    strict_world.settings |= {"timeout": 0.1, "attempts": 1}
    strict_world.catalog([f"http://host{number}.example.org/a.jpg" for number in range(10)])
    with pytest.raises(ResourceError, match=f"{resource} of this machine ran out .* build again") as caught:
        strict_world.run()
    assert caught.value.resource == resource
    strict_world.settings |= {"timeout": 3.0}
    strict_world.network = Network(NameServer().lookup, wired(site))
    report = strict_world.run()
    assert (report.fetched, report.reasons) == (10, {"ok": 10}), "no row had an outcome"


def test_a_fault_at_one_of_several_addresses_is_a_fault(strict_world: World, site: Site) -> None:
    """Libraries join the errors of all addresses to a text."""
    connect, asked = wired(site), []

    async def lookup(host: str, port: int) -> list[str]:
        return [PUBLIC, "93.184.215.15"]

    def factory(info: Any) -> socket.socket:
        asked.append(info[4][0])
        if len(asked) <= 4:
            number = errno.EMFILE if info[4][0] == PUBLIC else errno.ECONNREFUSED
            raise OSError(number, "whatever")
        return connect(info)

    site.add("/a.jpg", JPEG)
    strict_world.network = Network(lookup, factory)
    strict_world.settings |= {"attempts": 1}
    assert strict_world.fetch_one("http://pictures.example.org/a.jpg")["reason"] == "ok"


def test_a_machine_without_ipv6_has_not_run_out_of_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoIPv6(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    info = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("2606:2800::1", 80, 0, 0))
    with monkeypatch.context() as patched:
        patched.setattr(addresses.socket, "socket", NoIPv6)
        with pytest.raises(OSError, match="no IPv6") as caught:
            addresses.routed_socket(info)
    assert shortage(caught.value, connecting=True) is None


def test_a_fault_while_robots_txt_is_asked_for_is_not_remembered(strict_world: World, site: Site) -> None:
    robots._remembered.clear()
    site.add("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    for path in ("/a.jpg", "/private/b.jpg"):
        site.add(path, JPEG)
    strict_world.network, _ = _failing(OSError(errno.EMFILE, "Too many open files"), 3, site)
    strict_world.settings |= {"robots": True, "attempts": 1}
    ledger = strict_world.fetch("http://x.example.org/a.jpg", "http://x.example.org/private/b.jpg")
    assert {link.rpartition("/")[2]: row["reason"] for link, row in ledger.items()} == {
        "a.jpg": "ok",
        "b.jpg": "robots_txt",
    }


def test_no_such_name_is_not_believed_without_files(
    strict_world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says so when it cannot open the files that it looks names up with."""
    from latent_assets.images.download import lookups

    answers = iter([socket.gaierror(socket.EAI_NONAME, "Name or service not known")])

    async def lookup(host: str, port: int) -> list[str]:
        for error in answers:
            raise error
        return [PUBLIC]

    free = iter([0])
    monkeypatch.setattr(lookups, "free_descriptors", lambda: next(free, 1000))
    site.add("/a.jpg", JPEG)
    strict_world.network = Network(lookup, wired(site))
    assert strict_world.fetch_one("http://pictures.example.org/a.jpg")["reason"] == "ok"


@pytest.mark.parametrize("resource", [FILES, MEMORY])
def test_files_that_cannot_be_read_for_a_limit_are_read_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    from latent_assets.catalog.build import build_catalog
    from latent_assets.images import files
    from latent_assets.profile import Source

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(JPEG)
    read: Callable[..., bytes] = files.read_range
    left = [8]

    def failing(*arguments: Any) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EMFILE, "Too many open files") if resource == FILES else MemoryError()
        return read(*arguments)

    monkeypatch.setattr(files, "read_range", failing)
    world.source = Source(kind="folder", path=str(folder))
    build_catalog(world.profile, world.storage)
    assert world.run().reasons == {"ok": 6}
    left[0] = 1_000_000
    monkeypatch.setattr(faults, "_SHORTEST_PATIENCE", 0.3)
    world.settings |= {"timeout": 0.1, "format": "png"}  # stored otherwise, so read again
    with pytest.raises(ResourceError, match=f"{resource} of this machine"):
        world.run()
