"""A changed setting opens again exactly the rows that it would decide otherwise, without being told to retry them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image

from latent_assets.images.decisions import SETTING_OF
from latent_assets.images.outcome import OUTCOME_OF, Outcome, Reason
from latent_assets_tests.images.conftest import JPEG, World, encoded, links_to
from latent_assets_tests.images.site import Request, Site, head

BIG = encoded(Image.effect_noise((200, 200), 90).convert("RGB"), "PNG")


async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1.2)
    writer.write(head(content_length=str(len(JPEG))) + JPEG)


# reason -> the page, the setting under which it is decided so, the loosened one
FAMILY: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "private_address": ({}, {"allow_origins": ()}, {}),
    "too_many_bytes": ({"body": BIG}, {"max_bytes": 10_000}, {"max_bytes": 1_000_000}),
    "too_many_pixels": ({"body": BIG}, {"max_pixels": 2_000}, {"max_pixels": 1_000_000}),
    "too_many_redirects": ({"status": 302}, {"max_redirects": 0}, {"max_redirects": 3}),
    "timeout": ({}, {"timeout": 0.4, "attempts": 1}, {"timeout": 20.0, "attempts": 1}),
    "robots_txt": ({}, {"robots": True}, {"robots": False}),
    "x_robots_tag": ({"x_robots_tag": "noai"}, {}, {"respect_opt_out": False}),
    "tdm_reservation": ({"tdm_reservation": "1"}, {}, {"respect_opt_out": False}),
}


@pytest.mark.parametrize("reason", FAMILY)
def test_what_a_loosened_setting_would_decide_otherwise_is_asked_again(world: World, site: Site, reason: str) -> None:
    page, before, after = FAMILY[reason]
    site.add("/other.jpg", JPEG)
    if page.get("status") == 302:
        page = {"status": 302, "location": site.url("/other.jpg")}
    link = site.add("/a.jpg", page.get("body", JPEG), **{k: v for k, v in page.items() if k != "body"})
    if reason == "timeout":
        site.pages["/a.jpg"] = slow
    if reason == "robots_txt":
        site.add("/robots.txt", b"User-agent: *\nDisallow: /a.jpg\n")
    gone, usual = site.url("/gone.jpg"), dict(world.settings)
    world.settings |= before
    assert world.fetch(link, gone)[link]["reason"] == reason
    asked = len(site.requests)
    assert world.run().fetched == 0 and len(site.requests) == asked, "the same settings decide the same"
    world.settings = usual | after
    decided = sum(row["reason"] == reason for row in world.ledger().values())
    assert world.run().fetched == decided, "what this setting decided, and not the dead link"
    rows = world.ledger()
    assert (rows[link]["reason"], rows[gone]["reason"]) == ("ok", "http_not_found")


@pytest.mark.parametrize("key", ["max_bytes", "max_pixels", "max_redirects"])
def test_an_image_over_a_tightened_limit_is_decided_anew(world: World, site: Site, key: str) -> None:
    site.add("/moved.png", status=302, location=site.url("/big.png"))
    big, small = site.add("/big.png", BIG), site.add("/small.jpg", JPEG)
    link = site.url("/moved.png") if key == "max_redirects" else big
    world.fetch(link, small)
    world.settings[key] = {"max_bytes": 10_000, "max_pixels": 10_000, "max_redirects": 0}[key]
    assert world.run().fetched == 1
    rows = world.ledger()
    assert SETTING_OF[Reason(rows[link]["reason"])] == key and rows[small]["reason"] == "ok"


def test_images_fetched_without_asking_robots_txt_are_asked_for_once_it_counts(world: World, site: Site) -> None:
    first, second = links_to(site, 2)
    site.add("/robots.txt", b"User-agent: *\nDisallow: /0.jpg\n")
    assert {row["reason"] for row in world.fetch(first, second).values()} == {"ok"}
    world.settings["robots"] = True
    world.run()
    rows = world.ledger()
    assert (rows[first]["reason"], rows[second]["reason"]) == ("robots_txt", "ok")
    world.settings["robots"] = False
    assert world.run().fetched == 1, "what robots.txt allowed is kept"


def test_an_interrupted_or_failed_shard_remembers_what_decided(world: World, site: Site) -> None:
    """The setting stands in the row: a shard that failed its check has no manifest to compare with."""
    links = links_to(site, 3)
    allowed = world.settings.pop("allow_origins")
    report = world.fetch(*links)
    assert {row["recipe"] for row in report.values()} == {"allow_origins=[]"}
    world.settings["allow_origins"] = ("http://127.0.0.1:9", *allowed)
    assert world.run().reasons == {"ok": 3}


def test_every_refusal_that_a_setting_decides_names_it() -> None:
    refused = {reason for reason in Reason if OUTCOME_OF[reason] in (Outcome.REFUSED, Outcome.OPTED_OUT)}
    assert refused - set(SETTING_OF) == {Reason.SCHEME, Reason.TAKEN_DOWN}
