"""Servers that mean harm or know no better: each has its reason in the ledger, none harms the shard."""

from __future__ import annotations

import asyncio
import gzip
import struct
import time
import tracemalloc
import zlib

import pytest

from latent_assets_tests.images.conftest import JPEG, World, encoded, picture
from latent_assets_tests.images.site import Request, Site, answer, head


async def _drip(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(head(content_length="100000") + JPEG[:64])
    for _ in range(1000):
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"\0")


async def _endless(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(head(transfer_encoding="chunked") + b"400\r\n" + JPEG[:1024].ljust(1024, b"\0") + b"\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def _short(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(head(content_length=str(len(JPEG) + 5000)) + JPEG)
    await writer.drain()
    writer.close()


async def _silent(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def _hang_up(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _nonsense(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GREETINGS FROM MARS\r\n\r\n")
    await writer.drain()
    writer.close()


async def _endless_headers(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"a" * 1000 + b"\r\n")
        await writer.drain()


def bomb_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG whose header claims 3.6 gigapixels, with a first piece of real image data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1 + width * 3) * 50, 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("page", "outcome", "reason"),
    [
        (_drip, "failed", "timeout"),
        (_silent, "failed", "timeout"),
        (_endless, "refused", "too_many_bytes"),
        (answer(JPEG, content_length="99999999999"), "refused", "too_many_bytes"),
        (_short, "failed", "incomplete_body"),
        (_hang_up, "failed", "disconnected"),
        (_nonsense, "failed", "protocol_error"),
        (_endless_headers, "failed", "protocol_error"),
        (answer(b""), "failed", "empty_body"),
        (answer(bomb_png()), "refused", "too_many_pixels"),
        (answer(b"<!DOCTYPE html><html><body>Not here</body></html>" * 40), "failed", "not_an_image"),
        (answer(b"<html>tiny</html>"), "failed", "not_an_image"),
        (answer(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), "failed", "vector_image"),
        (answer(b"%PDF-1.7 ..."), "failed", "unsupported_format"),
        (answer(encoded(picture(600, 400))[:-3000]), "failed", "corrupt_image"),
        (answer(JPEG[:200]), "failed", "corrupt_image"),
        (answer(b"\xff\xd8\xff\xe0" + bytes(500)), "failed", "corrupt_image"),
        (answer(encoded(picture(), "PNG")[:-100]), "failed", "corrupt_image"),
        (answer(b"gone", 404), "failed", "http_not_found"),
        (answer(b"gone", 410), "failed", "http_not_found"),
        (answer(b"no", 403), "failed", "http_forbidden"),
        (answer(b"no", 451), "failed", "http_forbidden"),
        (answer(b"tea", 418), "failed", "http_client_error"),
        (answer(b"", 204), "failed", "http_unexpected_status"),
        (answer(b"", 302), "failed", "bad_redirect"),
        (answer(b"", 302, location="http://[broken"), "failed", "bad_redirect"),
        (answer(b"", 302, location="http://a b/"), "failed", "bad_url"),
    ],
)
def test_reason_in_ledger(world: World, site: Site, page: object, outcome: str, reason: str) -> None:
    world.settings |= {"timeout": 1.0, "attempts": 1, "max_bytes": 2_000_000}
    site.pages["/bad.jpg"] = page  # type: ignore[assignment]
    good = site.add("/good.jpg", JPEG)
    ledger = world.fetch(site.url("/bad.jpg"), good)
    bad = ledger[site.url("/bad.jpg")]
    assert (bad["outcome"], bad["reason"]) == (outcome, reason), bad["evidence"]
    assert bad["stored_sha256"] is None
    assert ledger[good]["reason"] == "ok"


def test_endless_body_is_cut_at_the_limit(world: World, site: Site) -> None:
    world.settings |= {"timeout": 5.0, "max_bytes": 3_000_000}
    site.pages["/endless.jpg"] = _endless
    tracemalloc.start()
    row = world.fetch_one(site.url("/endless.jpg"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["reason"] == "too_many_bytes"
    assert 3_000_000 < row["bytes"] < 4_000_000
    assert peak < 20_000_000


def test_compressed_endless_body_is_cut_at_the_limit(world: World, site: Site) -> None:
    packed = gzip.compress(JPEG[:1024].ljust(1024, b"\0") + bytes(300_000_000), 9)
    assert len(packed) < 400_000
    world.settings |= {"timeout": 10.0, "max_bytes": 3_000_000}
    link = site.add("/bomb.jpg", packed, content_encoding="gzip")
    tracemalloc.start()
    row = world.fetch_one(link)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["reason"] == "too_many_bytes"
    assert peak < 50_000_000


def test_bomb_is_refused_before_decoding(world: World, site: Site) -> None:
    bomb = bomb_png()
    assert len(bomb) < 100_000
    tracemalloc.start()
    row = world.fetch_one(site.add("/bomb.png", bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row["reason"] == "too_many_pixels"
    assert "60000" in row["evidence"]
    assert peak < 20_000_000


def test_deadline_covers_drips_redirects_and_attempts_together(world: World, site: Site) -> None:
    async def slow_redirect(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        step = int(request.path.rpartition("/")[2])
        writer.write(head(302, location=f"/step/{step + 1}", content_length="0"))

    world.settings |= {"timeout": 1.0, "max_redirects": 20}
    for step in range(20):
        site.pages[f"/step/{step}"] = slow_redirect
    started = time.monotonic()
    row = world.fetch_one(site.url("/step/0"))
    assert row["reason"] == "timeout"
    assert time.monotonic() - started < 2.0


def test_redirect_loop_and_too_many_redirects(world: World, site: Site) -> None:
    site.add("/a", status=301, location="/b")
    site.add("/b", status=302, location="/a")
    for step in range(12):
        site.add(f"/long/{step}", status=307, location=f"/long/{step + 1}")
    ledger = world.fetch(site.url("/a"), site.url("/long/0"))
    assert ledger[site.url("/a")]["reason"] == "redirect_loop"
    assert ledger[site.url("/long/0")]["reason"] == "too_many_redirects"
    assert ledger[site.url("/long/0")]["redirects"] == 5
    assert site.asked("/long/5") == 1
    assert site.asked("/long/6") == 0


def test_redirects_are_followed_and_counted(world: World, site: Site, other_site: Site) -> None:
    other_site.add("/img.jpg", JPEG)
    site.add("/1", status=301, location="/2")
    site.add("/2", status=308, location=other_site.url("/img.jpg"))
    row = world.fetch_one(site.url("/1"))
    assert (row["reason"], row["redirects"], row["http_status"]) == ("ok", 2, 200)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "data:image/png;base64,AA"]
)
def test_redirect_to_another_scheme_is_refused(world: World, site: Site, target: str) -> None:
    row = world.fetch_one(site.add("/x", status=302, location=target))
    assert (row["outcome"], row["reason"]) == ("refused", "scheme_not_allowed")
    assert row["redirects"] == 1


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://example.com/a.jpg", "javascript:alert(1)", "//x/y.jpg"])
def test_link_of_another_scheme_is_refused(strict_world: World, link: str) -> None:
    row = strict_world.fetch_one(link)
    assert (row["outcome"], row["reason"]) == ("refused", "scheme_not_allowed")
    assert row["attempts"] == 0


@pytest.mark.parametrize("link", ["http://", "http:///x.jpg", "http://[::1", "http://host:99999/x", "http://a b/c.jpg"])
def test_link_that_is_none(strict_world: World, link: str) -> None:
    row = strict_world.fetch_one(link)
    assert (row["outcome"], row["reason"]) == ("failed", "bad_url")


def test_long_and_foreign_urls(world: World, site: Site) -> None:
    long_path = "/" + "a" * 9_950 + ".jpg"
    query = "/q?sig=a%2Fb%3D&x=1%2B1"
    for path in (long_path, "/%C3%BCn%C3%AFc%C3%B6de/%E5%86%99%E7%9C%9F.jpg", query):
        site.add(path, JPEG)
    links = [site.url(long_path), site.url("/ünïcöde/写真.jpg"), site.url(query)]
    ledger = world.fetch(*links)
    assert {link: ledger[link]["reason"] for link in links} == dict.fromkeys(links, "ok")
    assert site.asked(query) == 1


def test_one_bad_server_does_not_slow_the_others(world: World, site: Site, other_site: Site) -> None:
    for number in range(200):
        site.pages[f"/hang/{number}"] = _silent
        other_site.add(f"/{number}.jpg", JPEG)
    good = [other_site.url(f"/{number}.jpg") for number in range(200)]
    world.settings |= {"timeout": 2.0, "concurrency": 16, "per_host": 4}
    world.catalog([site.url(f"/hang/{number}") for number in range(200)] + good)
    started = time.monotonic()
    report = world.run()
    elapsed = time.monotonic() - started
    assert report.ok == 200
    # 200 hanging links, 4 at a time for 2 s each, would take 100 s; the host is given up after 8
    assert elapsed < 8
    assert report.reasons["timeout"] + report.reasons["host_down"] == 200
    assert len([r for r in site.requests if r.path.startswith("/hang")]) <= 12
    last_good = max(request.at for request in other_site.requests)
    assert last_good - min(request.at for request in other_site.requests) < 2.0, "good rows waited for hanging ones"
