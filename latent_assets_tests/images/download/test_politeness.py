"""Who we say we are, and how much is asked of one host at a time."""

from __future__ import annotations

import asyncio

from latent_assets.images.download.host_queue import HostQueue
from latent_assets.images.download.http_client import user_agent
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Request, Site, head


async def _slow(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)
    writer.write(head(content_length=str(len(JPEG))) + JPEG)


def test_user_agent_names_the_contact(world: World, site: Site) -> None:
    world.settings |= {"contact": "atlas@example.org"}
    world.fetch_one(site.add("/a.jpg", JPEG))
    agent = site.requests[0].headers["user-agent"]
    assert agent.startswith("latent-assets/") and "(+atlas@example.org)" in agent
    assert agent == user_agent("atlas@example.org")
    assert "cookie" not in site.requests[0].headers and "referer" not in site.requests[0].headers


def test_cookies_are_not_kept(world: World, site: Site) -> None:
    site.add("/a.jpg", status=302, location="/b.jpg", set_cookie="track=1; Path=/")
    site.add("/b.jpg", JPEG)
    assert world.fetch_one(site.url("/a.jpg"))["reason"] == "ok"
    assert "cookie" not in site.requests[1].headers


def test_per_host_concurrency(world: World, site: Site) -> None:
    for number in range(30):
        site.pages[f"/{number}"] = _slow
    world.settings |= {"per_host": 3, "concurrency": 64}
    ledger = world.fetch(*(site.url(f"/{number}") for number in range(30)))
    assert {row["reason"] for row in ledger.values()} == {"ok"}
    assert site.most_active == 3


def test_per_host_concurrency_holds_for_redirect_targets(world: World, site: Site, other_site: Site) -> None:
    for number in range(24):
        site.add(f"/{number}", status=302, location=other_site.url(f"/{number}"))
        other_site.pages[f"/{number}"] = _slow
    world.settings |= {"per_host": 2, "concurrency": 64}
    ledger = world.fetch(*(site.url(f"/{number}") for number in range(24)))
    assert {row["reason"] for row in ledger.values()} == {"ok"}
    assert other_site.most_active <= 2 and site.most_active <= 2


def test_per_host_rate(world: World, site: Site) -> None:
    links = [site.add(f"/{number}", JPEG) for number in range(6)]
    world.settings |= {"per_host_rate": 5.0}
    ledger = world.fetch(*links)
    assert {row["reason"] for row in ledger.values()} == {"ok"}
    assert site.requests[-1].at - site.requests[0].at > 0.9, "five times a fifth of a second"


async def test_rate_holds_between_any_two_rows() -> None:
    hosts: HostQueue[int] = HostQueue(per_host=8, rate=20.0, patience=10)
    hosts.add([("one", number) for number in range(6)])
    taken = []
    for _ in range(6):
        await hosts.take()
        taken.append(asyncio.get_running_loop().time())
    # a row that is taken late does not let the next one come early
    assert all(later - taken[0] >= 0.05 * number for number, later in enumerate(taken))


def test_connections_are_kept_alive(world: World, site: Site, connected: list[tuple[str, int]]) -> None:
    links = [site.add(f"/{number}", JPEG) for number in range(40)]
    world.settings |= {"per_host": 4}
    world.fetch(*links)
    assert len(site.requests) == 40
    assert len(connected) <= 4


def test_connection_nobody_waits_for_is_closed(world: World, site: Site, other_site: Site) -> None:
    links = [site.add(f"/{number}", JPEG) for number in range(5)]
    world.settings |= {"per_host": 1}
    world.fetch(*links, other_site.add("/single", JPEG))
    assert [request.headers.get("connection") for request in site.requests] == [None] * 4 + ["close"]
    assert other_site.requests[0].headers["connection"] == "close"
