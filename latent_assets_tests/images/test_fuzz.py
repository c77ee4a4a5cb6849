"""Hostile input of no particular kind: whatever comes in, the answer is an image or a reason."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_assets.images.decode.image import store_image
from latent_assets.images.download.http_client import retry_after
from latent_assets.images.download.optout import opt_out
from latent_assets.images.download.urls import origin_of, parse_url
from latent_assets.images.outcome import FetchError
from latent_assets.profile import Fetch
from latent_assets.urls import encode_host
from latent_assets_tests.images.conftest import encoded, picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # remarks of Pillow
IMAGES = {kind: encoded(picture(48, 32), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")}


@pytest.mark.parametrize("format", ["jpeg", "raw"])
@pytest.mark.parametrize("kind", sorted(IMAGES))
def test_damaged_images_are_stored_or_refused(kind: str, format: str) -> None:
    generator = random.Random(f"{kind} {format}")
    limits = Fetch(format=format, size=16, max_pixels=100_000)  # type: ignore[arg-type]
    outcomes = set()
    for _ in range(60):
        data = bytearray(IMAGES[kind])
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.3:
            del data[generator.randrange(len(data)) :]
        try:
            image = store_image(bytes(data), limits)
            outcomes.add("ok")
            assert image.width * image.height <= limits.max_pixels
            assert format == "raw" or min(image.stored_width, image.stored_height) <= 48
        except FetchError as problem:
            outcomes.add(str(problem.reason))
    assert len(outcomes) > 1 or kind in ("BMP", "TIFF")


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["", "http://", "https://", "http://a.b/", "//", "HTTP:/", "http://[", "http://x@"]),
)
def test_any_text_is_a_url_or_a_reason(text: str, start: str) -> None:
    try:
        url = parse_url(start + text)
    except FetchError:
        return
    assert url.scheme in ("http", "https")
    assert str(url).isascii() and not any(character.isspace() for character in str(url))
    assert url.user is None and url.raw_host
    assert encode_host(url.raw_host) == url.raw_host
    assert parse_url(str(url)) == url, "a parsed link stays as it is"
    assert origin_of(url).startswith(url.scheme)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_header_is_understood(value: str) -> None:
    opt_out([("X-Robots-Tag", value), ("tdm-reservation", value)], "latent-assets")
    seconds = retry_after(value)
    assert seconds is None or seconds >= 0
