"""The pictures of events are served; nothing else of the root is."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from latent_assets.defs.pictures import serving_pictures
from latent_assets.profile import Profile
from latent_assets.storage import Storage

PLACE = "pictures/image_shards/00000/a1b2.webp"


@pytest.fixture
def server(small_profile: Callable[..., Profile]) -> Iterator[tuple[str, str]]:
    """Address of a server of one atlas with one picture and a file that is none, and the atlas's name."""
    profile = small_profile()
    storage = Storage(profile.root)
    storage.write_bytes(PLACE, b"a picture")
    storage.write_bytes("secrets.png", b"not for you")
    storage.write_bytes("pictures/image_shards/00000/ledger.parquet", b"not for you")
    with serving_pictures([profile]) as address:
        yield address, profile.name


def get(address: str, path: str) -> tuple[int, str | None, bytes]:
    """The answer to a request whose path is sent as it stands."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)) as connection:
        connection.putrequest("GET", path)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()


def test_a_picture_is_served_on_loopback(server: tuple[str, str]) -> None:
    address, name = server
    assert urlsplit(address).hostname == "127.0.0.1"
    assert get(address, f"/{name}/{PLACE}") == (200, "image/webp", b"a picture")


@pytest.mark.parametrize(
    "path",
    [
        "/{name}/secrets.png",
        "/{name}/pictures/image_shards/00000/ledger.parquet",
        "/{name}/pictures/image_shards/00000/absent.webp",
        "/{name}/pictures/image_shards/../../secrets.png",
        "/{name}/pictures/image_shards/%2e%2e/%2e%2e/secrets.png",
        "/{name}/pictures/image_shards/..%2f..%2fsecrets.png",
        "/{name}//" + PLACE,
        "/another/" + PLACE,
        "/{name}/" + PLACE + "?v=1",
        "/{name}/" + PLACE + "%0a",
        "/../{name}/" + PLACE,
        "/",
    ],
)
def test_nothing_else_is(server: tuple[str, str], path: str) -> None:
    address, name = server
    status, _, body = get(address, path.format(name=name))
    assert status == 404 and b"not for you" not in body and b"a picture" not in body
