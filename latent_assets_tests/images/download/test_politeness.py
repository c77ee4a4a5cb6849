"""Politeness: who we say we are, limits per host, Retry-After, backoff, robots.txt and opt-outs."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from latent_assets.images.download import robots
from latent_assets.images.download.host_queue import HostQueue
from latent_assets.images.download.http_client import Network, retry_after, user_agent
from latent_assets.images.download.optout import opt_out
from latent_assets.images.outcome import Reason
from latent_assets.images.store.tar import read_images
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Page, Request, Site, answer, head, serve


@pytest.fixture(autouse=True)
def _forget_robots() -> None:
    robots._remembered.clear()


def times(page: Page, count: int, then: Page) -> Page:
    """`page` for the first `count` requests, `then` afterwards."""
    left = [count]

    async def turn(request: Request, writer: asyncio.StreamWriter) -> None:
        left[0] -= 1
        await (page if left[0] >= 0 else then)(request, writer)

    return turn


async def _slow(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)
    writer.write(head(content_length=str(len(JPEG))) + JPEG)


# -- who we are ----------------------------------------------------------------------------------------


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


# -- limits --------------------------------------------------------------------------------------------


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


# -- trouble that passes -------------------------------------------------------------------------------


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


# -- robots.txt ----------------------------------------------------------------------------------------


def test_robots_txt_is_asked_once_and_obeyed(world: World, site: Site) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", b"User-agent: *\nDisallow: /private/\n", content_type="text/plain")
    links = [site.add(f"/{part}/{number}.jpg", JPEG) for part in ("private", "public") for number in range(5)]
    ledger = world.fetch(*links)
    for link, row in ledger.items():
        if "/private/" in link:
            assert (row["outcome"], row["reason"], row["stored_sha256"]) == ("opted_out", "robots_txt", None)
            assert "robots.txt" in row["evidence"]
        else:
            assert row["reason"] == "ok"
    assert site.asked("/robots.txt") == 1
    assert site.requests[0].path == "/robots.txt"
    assert not any(request.path.startswith("/private/") for request in site.requests)


def test_robots_txt_addresses_us_by_name(world: World, site: Site) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", b"User-agent: latent-assets\nDisallow: /\n\nUser-agent: *\nDisallow:\n")
    assert world.fetch_one(site.add("/a.jpg", JPEG))["reason"] == "robots_txt"


@pytest.mark.parametrize("status", [404, 403, 401])
def test_missing_robots_txt_allows(world: World, site: Site, status: int) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", b"", status)
    assert world.fetch_one(site.add("/a.jpg", JPEG))["reason"] == "ok"


def test_failing_robots_txt_forbids(world: World, site: Site) -> None:
    world.settings |= {"robots": True, "attempts": 1}
    site.add("/robots.txt", b"", 500)
    row = world.fetch_one(site.add("/a.jpg", JPEG))
    assert (row["outcome"], row["reason"]) == ("failed", "robots_txt_unreachable")
    assert site.asked("/a.jpg") == 0


def test_robots_txt_of_a_redirect_target_is_obeyed(world: World, site: Site, other_site: Site) -> None:
    world.settings |= {"robots": True}
    other_site.add("/robots.txt", b"User-agent: *\nDisallow: /\n")
    other_site.add("/a.jpg", JPEG)
    row = world.fetch_one(site.add("/a.jpg", status=302, location=other_site.url("/a.jpg")))
    assert (row["outcome"], row["reason"], row["redirects"]) == ("opted_out", "robots_txt", 1)
    assert other_site.asked("/a.jpg") == 0


def test_crawl_delay(world: World, site: Site) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", b"User-agent: *\nCrawl-delay: 0.5\n")
    links = [site.add(f"/{number}", JPEG) for number in range(4)]
    world.settings |= {"per_host": 1}
    world.fetch(*links)
    pages = [request.at for request in site.requests if request.path != "/robots.txt"]
    assert min(b - a for a, b in pairwise(pages)) > 0.4


def test_endless_robots_txt_is_cut(world: World, site: Site) -> None:
    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        first = b"User-agent: *\nDisallow: /private\n"
        writer.write(head(transfer_encoding="chunked") + b"%x\r\n" % len(first) + first + b"\r\n")
        while True:
            writer.write(b"8000\r\n" + b"#" * 0x8000 + b"\r\n")
            await writer.drain()

    world.settings |= {"robots": True}
    site.pages["/robots.txt"] = endless
    ledger = world.fetch(site.add("/a.jpg", JPEG), site.add("/private/b.jpg", JPEG))
    assert ledger[site.url("/a.jpg")]["reason"] == "ok"
    assert ledger[site.url("/private/b.jpg")]["reason"] == "robots_txt"


def test_half_a_robots_txt_forbids(world: World, site: Site) -> None:
    async def half(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length="500") + b"User-agent: *\n")
        await writer.drain()
        writer.close()

    world.settings |= {"robots": True, "attempts": 1}
    site.pages["/robots.txt"] = half
    row = world.fetch_one(site.add("/a.jpg", JPEG))
    assert (row["outcome"], row["reason"]) == ("failed", "incomplete_body")
    assert site.asked("/a.jpg") == 0


@pytest.mark.parametrize("text", [b"\xff\xfe\0garbage\0\x01", b"Disallow", b"User-agent: *\nCrawl-delay: inf\n" * 3])
def test_odd_robots_txt_harms_nothing(world: World, site: Site, text: bytes) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", text)
    assert world.fetch_one(site.add("/a.jpg", JPEG))["outcome"] == "ok"


FORBIDDING = "User-agent: *\nDisallow: /private/\nDisallow: /für/\n"


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        (FORBIDDING.encode("utf-8-sig"), "text/plain"),
        (b"\xef\xbb\xbf" + FORBIDDING.encode("utf-8-sig"), "text/plain; charset=iso-8859-1"),
        (FORBIDDING.encode("utf-16"), "text/plain"),
        (b"\xfe\xff" + FORBIDDING.encode("utf-16-be"), "text/plain; charset=utf-8"),
        (FORBIDDING.encode("utf-32"), "text/plain"),
        (FORBIDDING.encode("utf-16-le"), "text/plain; charset=utf-16le"),
        (FORBIDDING.encode("latin-1"), "text/plain; charset=ISO-8859-1"),
        (b"\xef\xbb\xbfUser-agent: *\n\xef\xbb\xbf" + FORBIDDING.encode(), 'text/plain; charset="nonsense"'),
        (FORBIDDING.replace("\n", "\r").encode("utf-8-sig"), ""),
    ],
)
def test_robots_txt_in_every_encoding_is_obeyed(world: World, site: Site, text: bytes, content_type: str) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", text, content_type=content_type)
    for path in ("/private/a.jpg", "/f%C3%BCr/a.jpg", "/public/a.jpg"):
        site.add(path, JPEG)
    ledger = world.fetch(*(site.url(path) for path in ("/private/a.jpg", "/für/a.jpg", "/public/a.jpg")))
    reasons = {link.removeprefix(site.origin): row["reason"] for link, row in ledger.items()}
    assert reasons == {"/private/a.jpg": "robots_txt", "/für/a.jpg": "robots_txt", "/public/a.jpg": "ok"}


@pytest.mark.parametrize("text", [FORBIDDING.encode("utf-16-be"), b"# \xfc\n" + FORBIDDING.encode("latin-1")])
def test_robots_txt_that_declares_nothing_is_read_as_far_as_it_goes(world: World, site: Site, text: bytes) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", text, content_type="text/plain")
    assert world.fetch_one(site.add("/private/a.jpg", JPEG))["reason"] == "robots_txt"


# -- opt-outs in headers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("x_robots_tag", "noai", "x_robots_tag"),
        ("x_robots_tag", "noimageai", "x_robots_tag"),
        ("x_robots_tag", "noindex", "x_robots_tag"),
        ("x_robots_tag", "max-snippet: 20, NoImageIndex", "x_robots_tag"),
        ("x_robots_tag", "noml", "x_robots_tag"),
        ("x_robots_tag", "latent-assets: noai", "x_robots_tag"),
        ("tdm_reservation", "1", "tdm_reservation"),
        ("x_robots_tag", '"noai"', "x_robots_tag"),
        ("x_robots_tag", "'noimageai'; 'nofollow'", "x_robots_tag"),
        ("x_robots_tag", "nofollow; noai", "x_robots_tag"),
        ("x_robots_tag", "nofollow noai", "x_robots_tag"),
        ("x_robots_tag", '"latent-assets": "noml"', "x_robots_tag"),
        ("x_robots_tag", "googlebot: all; Latent-Assets/0.1: none", "x_robots_tag"),
        ("tdm_reservation", '"1"', "tdm_reservation"),
        ("tdm_reservation", "1; tdm-policy=https://example.com/p", "tdm_reservation"),
        ("tdm_reservation", "0, 1", "tdm_reservation"),
        ("tdm_reservation", "?1", "tdm_reservation"),
        ("tdm_reservation", " True ", "tdm_reservation"),
    ],
)
def test_opt_out_is_recorded_and_the_bytes_are_not_kept(
    world: World, site: Site, name: str, value: str, reason: str
) -> None:
    row = world.fetch_one(site.add("/a.jpg", JPEG, **{name: value}))
    assert (row["outcome"], row["reason"], row["sha256"]) == ("opted_out", reason, None)
    assert value.strip() in row["evidence"] and name.replace("_", "-") in row["evidence"].lower()
    assert list(read_images(world.storage, "00000")) == []


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Robots-Tag", "googlebot: noindex")],
        [("X-Robots-Tag", "otherbot: noai, noindex")],
        [("X-Robots-Tag", "all"), ("X-Robots-Tag", "max-image-preview: large")],
        [("X-Robots-Tag", "unavailable_after: 25 Jun 2030 15:00:00 PST")],
        [("tdm-reservation", "0")],
        [("tdm-reservation", "10"), ("tdm-reservation", "0; policy=1"), ("tdm-reservation", "")],
        [("X-Robots-Tag", "'otherbot': 'noai'; 'noindex'")],
        [("X-Robots-Tag", "noaitraining, indexifembedded")],
        [("X-Other", "noai")],
    ],
)
def test_what_is_no_opt_out(headers: list[tuple[str, str]]) -> None:
    assert opt_out(headers, "latent-assets") is None


def test_second_header_and_second_agent_count() -> None:
    assert opt_out([("X-Robots-Tag", "all"), ("x-robots-tag", "noai")], "latent-assets") == (
        Reason.X_ROBOTS_TAG,
        "X-Robots-Tag: noai",
    )
    assert opt_out([("X-Robots-Tag", "googlebot: all, latent-assets: noml")], "latent-assets") is not None


@pytest.mark.parametrize("respected", [True, False])
def test_opt_out_on_a_redirect_of_the_same_host_counts(world: World, site: Site, respected: bool) -> None:
    world.settings |= {"respect_opt_out": respected}
    site.add("/hop", status=302, location="/next", x_robots_tag="noai")
    site.add("/next", status=302, location="/a.jpg")
    site.add("/a.jpg", JPEG)
    row = world.fetch_one(site.url("/hop"))
    assert (row["reason"], row["redirects"]) == ("x_robots_tag" if respected else "ok", 2)
    assert row["evidence"] == "X-Robots-Tag: noai"


def test_opt_out_on_a_redirect_from_another_host_does_not(world: World, site: Site) -> None:
    """A service that shortens links speaks of its own pages."""
    elsewhere = site.url("/a.jpg").replace("127.0.0.1", "localhost")
    world.settings |= {"allow_origins": (site.origin, elsewhere.removesuffix("/a.jpg"))}
    site.add("/x", status=302, location=elsewhere, x_robots_tag="noindex")
    site.add("/a.jpg", JPEG)
    assert world.fetch_one(site.url("/x"))["reason"] == "ok"


def test_opt_out_is_evidence_when_the_profile_keeps_the_image(world: World, site: Site) -> None:
    link = site.add("/a.jpg", JPEG, x_robots_tag="noai")
    world.settings |= {"respect_opt_out": False}
    row = world.fetch_one(link)
    assert (row["reason"], row["evidence"]) == ("ok", "X-Robots-Tag: noai")
    # respecting it later takes the image out
    world.settings |= {"respect_opt_out": True}
    report = world.run()
    assert (report.ok, report.fetched) == (0, 1)
    assert world.ledger()[link]["outcome"] == "opted_out"
    assert list(read_images(world.storage, "00000")) == []


# -- TLS -----------------------------------------------------------------------------------------------


def test_tls(world: World) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with serve(server) as site:
        world.settings |= {"allow_origins": (site.origin,)}
        world.network = Network(tls=client)
        assert world.fetch_one(site.add("/a.jpg", JPEG))["reason"] == "ok"


def test_certificates_that_the_environment_names(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read when the first https link is asked for, and only then."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    read: list[str] = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: read.append("") or create())
    world.fetch(site.add("/a.jpg", JPEG), site.add("/b.jpg", JPEG))
    assert not read
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    with serve(server) as secure:
        other = World(tmp_path / "secure", {**world.settings, "allow_origins": (secure.origin,)})
        other.folder.mkdir()
        rows = other.fetch(*(secure.add(f"/{number}.jpg", JPEG) for number in range(3)))
    assert {row["reason"] for row in rows.values()} == {"ok"}
    assert len(read) == 1


@pytest.mark.parametrize("fault", ["unknown authority", "another name"])
def test_tls_faults(world: World, fault: str) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("elsewhere.example" if fault == "another name" else "127.0.0.1").configure_cert(server)
    if fault != "unknown authority":
        authority.configure_trust(client)
    world.network = Network(tls=client)
    with serve(server) as secure:
        world.settings |= {"allow_origins": (secure.origin,)}
        row = world.fetch_one(secure.add("/a.jpg", JPEG))
    assert (row["outcome"], row["reason"], row["attempts"]) == ("failed", "tls", 1)


def test_nobody_listens(world: World, site: Site) -> None:
    with serve() as gone:
        origin = gone.origin
    world.settings |= {"allow_origins": (origin,), "attempts": 2}
    row = world.fetch_one(f"{origin}/a.jpg")
    assert (row["outcome"], row["reason"], row["attempts"]) == ("failed", "connect", 2)
