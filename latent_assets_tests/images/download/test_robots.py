"""robots.txt: asked once, obeyed in every encoding, and what there is where it cannot be read."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from latent_assets.images.download import robots
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Request, Site, head


@pytest.fixture(autouse=True)
def _forget_robots() -> None:
    robots._remembered.clear()


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


@pytest.mark.parametrize(
    "text",
    [
        "User-agent: latent-assets/0.1\nDisallow: /a/",  # RFC 9309: the product counts, not its version
        "User-agent: Latent-Assets/9 (all)\nDisallow: /a/\n\nUser-agent: *\nDisallow:",
        "User-agent: googlebot, latent-assets\nDisallow: /a/",
        "User-agent: latent-*\nDisallow: /a/",
        "User-agent: latent\nDisallow:\n\nUser-agent: *\nDisallow: /a/",  # somebody else
        'User-agent: "*"\nDisallow: "/a/"',
        "\u200bUser-agent: *\n\u00a0Disallow: /a\u00ad/",
        "User-agent : *\nDissallow /a/",
        "User-agent: *\nDisallow: a/",
        "User-agent: *\nDisallow: https://example.com/a/",
        "User-agent: *\nDisallow: https://example.com",
        "User-agent: *\nContent-Signal: ai-train=no\nSitemap: https://example.com/s.xml\nDisallow: /%61/ # all",
        "User-agent: *\u2028Disallow: /a/\u2028",
        "User-agent: *\nDisallow: /*.jpg$",
    ],
)
def test_what_the_writer_of_a_robots_txt_meant(text: str) -> None:
    rules = robots._parsed(text, "latent-assets")
    assert rules is not None
    assert not rules.can_fetch("https://example.com/a/1.jpg", "latent-assets")
    assert "https" in text or rules.can_fetch("https://example.com/b/1.png", "latent-assets")


@pytest.mark.parametrize(
    "text",
    ["User-agent: otherbot\nDisallow: /", "User-agent: latent-assets-2\nDisallow: /", "User-agent: *\nDisallow:",
     "User-agent-policy: *\nDisallow: /", "User-agent: assets\nDisallow: /"],
)  # fmt: skip
def test_what_is_meant_for_others_forbids_nothing(text: str) -> None:
    rules = robots._parsed(text, "latent-assets")
    assert rules is None or rules.can_fetch("https://example.com/a/1.jpg", "latent-assets")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/a/", "/b/../a/1.jpg"), ("/a/", "/./a/1.jpg"), ("/a/", "/b/%2e%2E/a/1.jpg"), ("/a/", "//a/1.jpg"),
        ("/a/b", "/a//b"), ("/50%/", "/50%25/1.jpg"), ("/50%/", "/50%/1.jpg"), ("/~me/", "/%7Eme/1.jpg"),
        ("/a b/", "/a%20b/1.jpg"), ("/a+b", "/a%2Bb"), ("/x?b=1", "/x?b=1&c"), ("/a|b", "/a%7Cb"), ("/x", "/x?y=//z"),
    ],
)  # fmt: skip
def test_paths_are_compared_as_servers_read_them(world: World, site: Site, rule: str, path: str) -> None:
    world.settings |= {"robots": True}
    site.add("/robots.txt", f"User-agent: *\nDisallow: {rule}\n".encode())
    assert world.fetch_one(site.url(path))["reason"] == "robots_txt"
    assert [request.path for request in site.requests] == ["/robots.txt"]
