"""Servers that answer oddly and mean well: what they send is the image, and is stored."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pyarrow as pa
import pytest

from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Request, Site, head


def brotli(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="brotli"))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd"))


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", brotli(JPEG)),
        ("BR", brotli(JPEG)),
        ("zstd", zstd(JPEG)),
        ("gzip", gzip.compress(JPEG)),
        ("x-gzip", gzip.compress(JPEG)),
        ("gzip", gzip.compress(JPEG[:100]) + gzip.compress(JPEG[100:])),
        ("deflate", zlib.compress(JPEG)),
        ("deflate", raw_deflate(JPEG)),
        ("gzip, br", brotli(gzip.compress(JPEG))),
        ("br, identity", brotli(JPEG)),
        ("identity", JPEG),
        ("utf-8", JPEG),
        ("gzip", JPEG),  # said and not done
        ("br", JPEG),
    ],
)
def test_compression_that_nobody_asked_for_is_undone(world: World, site: Site, encoding: str, body: bytes) -> None:
    row = world.fetch_one(site.add("/a.jpg", body, content_encoding=encoding))
    assert site.requests[-1].headers["accept-encoding"] == "identity"
    assert (row["reason"], row["bytes"], row["width"]) == ("ok", len(JPEG), 96), row["evidence"]


@pytest.mark.parametrize(("encoding", "body"), [("br", brotli(JPEG)[:-50]), ("gzip", gzip.compress(JPEG)[:-50])])
def test_compression_that_ends_too_early_is_said(world: World, site: Site, encoding: str, body: bytes) -> None:
    row = world.fetch_one(site.add("/a.jpg", body, content_encoding=encoding))
    assert row["reason"] == "incomplete_body" and f"Content-Encoding: {encoding}" in row["evidence"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate"])
def test_compressed_bombs_are_cut_at_the_limit(world: World, site: Site, encoding: str) -> None:
    pack = {"br": brotli, "zstd": zstd, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    world.settings |= {"max_bytes": 3_000_000, "timeout": 10.0}
    row = world.fetch_one(site.add("/a.jpg", pack(JPEG + bytes(100_000_000)), content_encoding=encoding))
    assert row["reason"] == "too_many_bytes" and row["bytes"] < 6_000_000


def test_compressed_robots_are_read(world: World, site: Site) -> None:
    world.settings |= {"robots": True}
    rules = brotli(b"User-agent: *\nDisallow: /private/\n")
    site.add("/robots.txt", rules, content_type="text/plain", content_encoding="br")
    links = [site.add("/private/a.jpg", JPEG), site.add("/b.jpg", JPEG)]
    ledger = world.fetch(*links)
    assert [ledger[link]["reason"] for link in links] == ["robots_txt", "ok"]


@pytest.mark.parametrize(
    ("range", "reason"),
    [
        (f"bytes 0-{len(JPEG) - 1}/{len(JPEG)}", "ok"),
        (f"Bytes 0-{len(JPEG) - 1}/{len(JPEG)} ", "ok"),
        (f"bytes 0-{len(JPEG) - 1}/{len(JPEG) + 1}", "http_unexpected_status"),
        (f"bytes 1-{len(JPEG) - 1}/{len(JPEG)}", "http_unexpected_status"),
        (f"bytes 0-{len(JPEG) - 1}/*", "http_unexpected_status"),
        ("", "http_unexpected_status"),
    ],
)
def test_a_part_that_is_the_whole_is_an_image(world: World, site: Site, range: str, reason: str) -> None:
    row = world.fetch_one(site.add("/a.jpg", JPEG, 206, content_range=range))
    assert (row["reason"], row["http_status"]) == (reason, 206)


LENGTH = str(len(JPEG)).encode()


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        (b"Content-Length: %b\r\nContent-Length: %b\r\n" % (LENGTH, LENGTH), "ok"),
        (b"content-length:%b\r\nX-Other: 1\r\nCONTENT-LENGTH: %b \r\n" % (LENGTH, LENGTH), "ok"),
        (b"Content-Length: %b, %b\r\n" % (LENGTH, LENGTH), "ok"),
        (b"Content-Length: %b\r\n" % LENGTH * 3, "ok"),
        (b"Content-Length: %b\r\nContent-Length: 7\r\n" % LENGTH, "protocol_error"),
        (b"Content-Length: %b, 7\r\n" % LENGTH, "protocol_error"),
        (b"Content-Length: x\r\nContent-Length: x\r\n", "protocol_error"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_length_said_twice_is_one(world: World, site: Site, lengths: bytes, reason: str, pieces: int) -> None:
    """Also when the head comes in pieces, and when two answers come over one connection."""
    start = head().replace(b"\r\n\r\n", b"\r\n" + lengths + b"\r\n")

    async def page(request: Request, writer: asyncio.StreamWriter) -> None:
        step = len(start) // pieces
        for at in range(0, len(start), step):
            writer.write(start[at : at + step])
            await writer.drain()
            await asyncio.sleep(0.01 if pieces > 1 else 0)
        writer.write(JPEG)

    world.settings |= {"per_host": 1, "attempts": 1}
    site.pages |= {"/a.jpg": page, "/b.jpg": page}
    for row in world.fetch(site.url("/a.jpg"), site.url("/b.jpg")).values():
        assert row["reason"] == reason, row["evidence"]
        assert reason != "ok" or row["bytes"] == len(JPEG)


def test_a_rule_of_robots_txt_in_bytes_that_are_no_utf8_forbids_the_url_of_those_bytes(
    world: World, site: Site
) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", b"User-agent: *\nDisallow: /caf\xe9/\n", content_type="text/plain")
    for path in ("/caf%E9/a.jpg", "/cafe/a.jpg"):
        site.add(path, JPEG)
    ledger = world.fetch(site.url("/caf%E9/a.jpg"), site.url("/cafe/a.jpg"))
    assert [row["reason"] for _, row in sorted(ledger.items())] == ["robots_txt", "ok"]
