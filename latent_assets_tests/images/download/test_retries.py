"""Trouble that passes: Retry-After, backoff, hosts that are given up; and what is not tried again."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from latent_assets.images.download.host_queue import HostQueue
from latent_assets.images.download.http_client import retry_after
from latent_assets.images.outcome import Reason
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Page, Request, Site, answer, serve


def times(page: Page, count: int, then: Page) -> Page:
    """`page` for the first `count` requests, `then` afterwards."""
    left = [count]

    async def turn(request: Request, writer: asyncio.StreamWriter) -> None:
        left[0] -= 1
        await (page if left[0] >= 0 else then)(request, writer)

    return turn


@pytest.mark.parametrize(("status", "reason"), [(429, "http_rate_limited"), (503, "http_server_error")])
def test_retry_after_is_waited_for(world: World, site: Site, status: int, reason: str) -> None:
    site.pages["/a.jpg"] = times(answer(b"", status, retry_after="1"), 1, answer(JPEG))
    row = world.fetch_one(site.url("/a.jpg"))
    assert (row["reason"], row["attempts"]) == ("ok", 2)
    assert 0.95 < site.requests[1].at - site.requests[0].at < 3.0, "no later than the row's deadline"


def test_retry_after_holds_for_the_whole_host(world: World, site: Site) -> None:
    site.pages["/0"] = times(answer(b"", 429, retry_after="1"), 1, answer(JPEG))
    links = [site.url("/0"), *(site.add(f"/{number}", JPEG) for number in range(1, 10))]
    world.settings |= {"per_host": 1}
    world.catalog(links)
    report = world.run()
    assert report.ok == 10
    refused_at = next(request.at for request in site.requests if request.path == "/0")
    assert all(request.at <= refused_at or request.at > refused_at + 0.95 for request in site.requests)


def test_long_retry_after_gives_the_host_up(world: World, site: Site) -> None:
    for number in range(20):
        site.pages[f"/{number}"] = answer(b"", 429, retry_after="3600")
    world.settings |= {"per_host": 2}
    started = time.monotonic()
    ledger = world.fetch(*(site.url(f"/{number}") for number in range(20)))
    assert time.monotonic() - started < 30, "an hour was asked for"
    assert {row["reason"] for row in ledger.values()} == {"http_rate_limited"}
    assert len(site.requests) <= 2
    assert sum(row["attempts"] for row in ledger.values()) == len(site.requests)
    assert any("3600" in row["evidence"] for row in ledger.values())


def test_retry_after_forms() -> None:
    assert retry_after("120") == 120
    assert retry_after(None) is None and retry_after("soon") is None and retry_after("-5") is None
    assert 55 < (retry_after(formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_backoff_grows_and_attempts_end(world: World, site: Site) -> None:
    site.pages["/a.jpg"] = answer(b"", 500)
    world.settings |= {"timeout": 10.0, "attempts": 3}
    row = world.fetch_one(site.url("/a.jpg"))
    assert (row["reason"], row["attempts"], row["http_status"]) == ("http_server_error", 3, 500)
    # three attempts within the ten seconds that a row has: no pause is longer than that
    first, second = (b.at - a.at for a, b in pairwise(site.requests))
    assert first > 0.2 and second > 0.45


async def test_nothing_more_is_asked_of_a_host_that_is_about_to_be_given_up() -> None:
    """Eight requests hang. When the first has failed, a ninth would hang as long as they did."""
    hosts: HostQueue[int] = HostQueue(per_host=8, rate=None, patience=10)
    hosts.add([("silent", number) for number in range(20)])
    for _ in range(8):
        assert await hosts.take() is not None

    async def next_row(seconds: float = 0.05) -> tuple[str, int] | None:
        return await asyncio.wait_for(hosts.take(), seconds)

    for failures in range(1, 8):
        hosts.failed("silent", Reason.TIMEOUT, "")
        hosts.release("silent")
        with pytest.raises(TimeoutError):
            await next_row()
        assert hosts.given_up("silent") is None, failures
    hosts.failed("silent", Reason.TIMEOUT, "")
    hosts.release("silent")
    assert hosts.given_up("silent") is not None
    assert await next_row(10) == ("silent", 8), "its rows learn at once that it was given up"


async def test_host_that_answers_after_failures_is_asked_as_before() -> None:
    hosts: HostQueue[int] = HostQueue(per_host=8, rate=None, patience=10)
    hosts.add([("flaky", number) for number in range(20)])
    for _ in range(8):
        await hosts.take()
    for _ in range(7):
        hosts.failed("flaky", Reason.TIMEOUT, "")
        hosts.release("flaky")
    hosts.answered("flaky")
    hosts.release("flaky")
    for _ in range(8):
        assert await asyncio.wait_for(hosts.take(), 10) is not None


def test_waiting_rows_hold_nobody_up(world: World, site: Site, other_site: Site) -> None:
    for number in range(8):
        site.pages[f"/{number}"] = answer(b"", 503, retry_after="3")
    good = [other_site.add(f"/{number}", JPEG) for number in range(40)]
    world.settings |= {"concurrency": 8, "per_host": 8, "timeout": 6.0}
    world.fetch(*(site.url(f"/{number}") for number in range(8)), *good)
    assert max(r.at for r in other_site.requests) < min(r.at for r in site.requests[8:])


def test_what_does_not_pass_is_not_tried_again(world: World, site: Site) -> None:
    links = [site.add("/404", status=404), site.add("/html", b"<html>" * 300), site.add("/cut", JPEG[:300])]
    ledger = world.fetch(*links)
    assert {row["attempts"] for row in ledger.values()} == {1}
    assert len(site.requests) == 3


def test_nobody_listens(world: World, site: Site) -> None:
    with serve() as gone:
        origin = gone.origin
    world.settings |= {"allow_origins": (origin,), "attempts": 2}
    row = world.fetch_one(f"{origin}/a.jpg")
    assert (row["outcome"], row["reason"], row["attempts"]) == ("failed", "connect", 2)
