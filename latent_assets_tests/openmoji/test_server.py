"""The picture server over real HTTP."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from latent_assets.openmoji.dataset import render_png
from latent_assets.openmoji.server import PictureServer, PortTakenError, serve

CODE = "1F600"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / f"{CODE}.png").write_bytes(render_png(CODE, 64))
    (pictures / ".half.part").write_bytes(b"unfinished")
    (tmp_path / "secret.png").write_bytes(b"outside")
    return pictures


@pytest.fixture
def server(directory: Path) -> Iterator[PictureServer]:
    with serve(directory, port=0) as running:
        yield running


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_serves_the_bytes_with_type_and_etag(server: PictureServer, directory: Path) -> None:
    with urllib.request.urlopen(f"{server.base_url}/{CODE}.png") as response:
        assert response.read() == (directory / f"{CODE}.png").read_bytes()
        assert response.headers["Content-Type"] == "image/png"
        etag = response.headers["ETag"]
    again = urllib.request.Request(f"{server.base_url}/{CODE}.png", headers={"If-None-Match": etag})
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(again)
    assert answer.value.code == 304


def test_one_connection_serves_many_requests(server: PictureServer) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.connect()
    local_port = connection.sock.getsockname()[1]
    for _ in range(3):
        connection.request("GET", f"/openmoji/{CODE}.png")
        assert connection.getresponse().read().startswith(b"\x89PNG")
        assert connection.sock.getsockname()[1] == local_port
    connection.close()


@pytest.mark.parametrize("path", ["openmoji/2615.png", "openmoji/../secret.png", "openmoji/.half.part", "other"])
def test_anything_else_is_not_found(server: PictureServer, path: str) -> None:
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("GET", f"/{path}")
    assert connection.getresponse().status in (403, 404)
    connection.close()


def test_a_picture_added_later_is_served(server: PictureServer, directory: Path) -> None:
    assert status_of(f"{server.base_url}/2B50.png") == 404
    (directory / "2B50.png").write_bytes(render_png("2B50", 32))
    assert status_of(f"{server.base_url}/2B50.png") == 200


def test_a_taken_port_is_named(server: PictureServer, directory: Path) -> None:
    with pytest.raises(PortTakenError, match=str(server.port)), serve(directory, port=server.port):
        pass


def test_the_port_is_free_again_afterwards(directory: Path) -> None:
    with serve(directory, port=0) as first:
        port = first.port
    with serve(directory, port=port) as second:
        assert status_of(f"{second.base_url}/{CODE}.png") == 200


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"), serve(tmp_path / "nowhere", port=0):
        pass
