"""Opt-outs in headers: seen however they are written, recorded, and respected unless the profile says otherwise."""

from __future__ import annotations

import time

import pytest

from latent_assets.images.download.optout import opt_out
from latent_assets.images.outcome import Reason
from latent_assets.images.store.tar import read_images
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Site


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


@pytest.mark.parametrize(
    "value",
    [
        "noai/noimageai", "noai|noimageai", "noai: true", "noai=1", "[noai]", "(noindex)", "noai.", "noindex:",
        "robots: noai", "*: noimageai", "noai googlebot: all", "nofollow latent-assets: noai",
        "latent-assets/0.1 (+https://example.com/bot): noai", "otherbot (a: b): all, latent-assets (us): noai",
        "max-image-preview: none, noai", "max-snippet: 20 noai", "max-image-preview : large; noai",
        "unavailable_after: Friday, 25 Nov 2030 15:00:00 PST, noai",
        "unavailable_after: 25-Nov-2030 15:00:00 GMT noimageai", "unavailable_after: 2030-11-25T15:00:00Z; noai",
    ],
)  # fmt: skip
def test_directives_among_whatever_stands_around_them(value: str) -> None:
    assert opt_out([("X-Robots-Tag", value)], "latent-assets") == (Reason.X_ROBOTS_TAG, f"X-Robots-Tag: {value}")


@pytest.mark.parametrize(
    "value",
    [
        "max-image-preview: none", "max-image-preview:none, otherbot: noai", "noai: false", "noindex=no",
        "otherbot (latent-assets): noai", "otherbot/2.0: noai", "nofollow otherbot: noai", "no-ai-policy",
        "unavailable_after: Friday, 25 Nov 2030 15:00:00 PST", "otherbot: noindex, max-snippet: 20, noai",
    ],
)  # fmt: skip
def test_values_and_others_agents_are_no_directives(value: str) -> None:
    assert opt_out([("X-Robots-Tag", value)], "latent-assets") is None


@pytest.mark.parametrize("value", ["01", "+1", "=1", "[1]", "(1)", "1|0", "1 (all rights)", "on", '0, "1"'])
def test_reservations_however_they_are_written(value: str) -> None:
    assert opt_out([("TDM-Reservation", value)], "latent-assets") is not None


@pytest.mark.parametrize("value", ["0", "10", "1.5", "-1", "no", "none", "0; tdm-policy=1", "11"])
def test_reservations_that_are_none(value: str) -> None:
    assert opt_out([("tdm-reservation", value)], "latent-assets") is None


@pytest.mark.parametrize("value", ["a" * 8000 + "!:", "x: " * 2700, "(," * 4000, "unavailable_after: " * 420])
def test_headers_made_to_take_long_do_not(value: str) -> None:
    began = time.perf_counter()
    for name in ("X-Robots-Tag", "tdm-reservation"):
        opt_out([(name, value)], "latent-assets")
    assert time.perf_counter() - began < 0.5


def test_what_a_host_said_holds_when_another_leads_back_to_it(world: World, site: Site) -> None:
    elsewhere = site.origin.replace("127.0.0.1", "localhost")
    world.settings |= {"allow_origins": (site.origin, elsewhere)}
    site.add("/a", status=302, location=f"{elsewhere}/b", x_robots_tag="noai")
    site.add("/b", status=302, location=site.url("/c.jpg"))
    site.add("/c.jpg", JPEG)
    assert world.fetch_one(site.url("/a"))["reason"] == "x_robots_tag"


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
