"""Who may ask: names, origins, tokens; what is too much is refused and leaves nothing behind."""

from __future__ import annotations

import io
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from PIL import Image

from latent_assets.errors import ProfileError
from latent_assets.profile import Profile
from latent_assets.service.access import COOKIE, allowed_hosts, client_of, is_loopback
from latent_assets.service.server import check_token
from latent_assets_tests.conftest import Built
from latent_assets_tests.service.conftest import Running, picture, running, until

TOKEN = "a token \N{SNOWMAN}".encode().hex()


def test_others_are_asked_for_a_token() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        check_token(host, None, public=False)
    for host in ("0.0.0.0", "::", "192.168.1.20", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ProfileError, match="LATENT_ASSETS_TOKEN"):
            check_token(host, None, public=False)
        with pytest.raises(ProfileError, match="LATENT_ASSETS_TOKEN"):
            check_token(host, "", public=False)
        check_token(host, TOKEN, public=False)
        check_token(host, None, public=True)
    for odd in ("a b", "\N{SNOWMAN}", "a\nb"):
        with pytest.raises(ProfileError, match="ASCII"):
            check_token("127.0.0.1", odd, public=False)
    assert "evil.example" not in allowed_hosts("127.0.0.1", ())
    assert allowed_hosts("0.0.0.0", ()) == () and "atlas.example" in allowed_hosts("0.0.0.0", ["atlas.example"])


def test_a_token_is_needed_for_everything_but_health(built: Built) -> None:
    with running(built.profile, writes=False, token=TOKEN) as service:
        bare = httpx.Client(base_url=service.url, trust_env=False)
        assert bare.get("/api/health").json()["status"] == "ready"
        for path in ("/", "/api/release", "/api/search?q=x", "/tiles/1/a.bin", "/api/openapi.json", "/nothing"):
            answer = bare.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
            assert answer.headers["content-type"] == "application/problem+json" and TOKEN not in answer.text
        for wrong in (f"Bearer {TOKEN}x", "Bearer", TOKEN[:-1], f"Basic {TOKEN}", "Bearer \xff"):
            answer = bare.get("/api/release", headers={"Authorization": wrong.encode("latin-1")})
            assert answer.status_code == 401, wrong
        assert bare.get(f"/api/release?token={TOKEN}").status_code == 401
        assert bare.get("/?token=wrong").status_code == 401
        assert service.http.get("/api/release").status_code == 200
        # a browser is given it once, by address, and keeps it where no script sees it
        answer = bare.get(f"/?token={TOKEN}&space=vae")
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 303 and answer.headers["location"] == "/?space=vae"
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert bare.get("/api/release").status_code == 200
        bare.cookies.clear()
        assert bare.get("/api/release", headers={"Cookie": f"{COOKIE}=x; ="}).status_code == 401
        schema = service.http.get("/api/openapi.json").json()
        assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        bare.close()


def test_pages_of_other_sites_cannot_ask(served: Running) -> None:
    http = served.http
    for host in ("evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::2]", ""):
        assert http.get("/api/release", headers={"Host": host}).status_code == 421, host
    for host in ("localhost", "localhost:1234", "127.0.0.1", "[::1]:80"):
        assert http.get("/api/release", headers={"Host": host}).status_code == 200, host
    files = {"image": picture(1)}
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert http.post("/api/place", files=files, headers=headers).status_code == 403, headers
        assert "access-control-allow-origin" not in http.get("/api/release", headers=headers).headers
    assert http.post("/api/place", files=files, headers={"Origin": served.url}).status_code == 200


def test_all_answers_have_the_headers_of_a_safe_one(served: Running) -> None:
    for path in ("/", "/api/release", "/api/search", "/api/nothing", "/tiles/x", f"/api/images/{'0' * 32}/thumbnail"):
        headers = served.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"] and "server" not in headers
        assert "unsafe" not in headers["content-security-policy"]


def test_clients_are_told_apart_by_their_network() -> None:
    assert client_of({"client": ("10.0.0.1", 1)}) == client_of({"client": ("10.0.0.1", 2)})
    assert client_of({"client": ("10.0.0.1", 1)}) != client_of({"client": ("10.0.0.2", 1)})
    assert client_of({"client": ("2001:db8::1", 1)}) == client_of({"client": ("2001:db8::ffff:2", 1)})
    assert client_of({"client": ("2001:db8::1", 1)}) != client_of({"client": ("2001:db8:0:1::1", 1)})
    assert client_of({"client": None}) == "unknown"


# -- too much ------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` pixels in few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def small_limits(built: Built) -> Profile:
    limits = {"image_bytes": 100_000, "image_pixels": 200_000, "queue": 4, "per_client": 256}
    return built.profile.model_copy(update={"service": built.profile.service.model_copy(update=limits)})


def test_images_beyond_the_limits_are_refused(small_limits: Profile) -> None:
    with running(small_limits, writes=False) as service:
        post = service.http.post
        large = io.BytesIO()
        Image.new("RGB", (500, 500)).save(large, "PNG")
        for data in (bytes(200_000), bomb(60_000), large.getvalue()):
            answer = post("/api/place", files={"image": data})
            assert (answer.status_code == 413 and "100,000 bytes" in answer.text) or "pixel" in answer.text, answer.text

        # said to be small, and without end
        def endless() -> Any:
            yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            for _ in range(10_000):
                yield bytes(10_000)

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        with suppress(httpx.WriteError):  # the connection is closed on what nobody reads
            assert post("/api/place", content=endless(), headers=kind).status_code == 413
        assert post("/api/place", files={"image": picture(1)}).status_code == 200
        until(lambda: service.service.placing.taken == 0)


def test_an_upload_that_never_ends_is_given_up(small_limits: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latent_assets.service.uploads._SECONDS", 0.5)
    with running(small_limits, writes=False) as service:
        address = service.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as slow:
            slow.sendall(
                b"POST /api/place HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: 1000\r\n\r\n--x\r\n"
            )
            slow.settimeout(30)
            assert b"408" in slow.recv(100)
        # one that goes away leaves its place
        with socket.create_connection((address[0], int(address[1]))) as gone:
            gone.sendall(
                b"POST /api/place HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: 1000\r\n\r\n--x\r\n"
            )
            until(lambda: service.service.placing.taken == 1)
        until(lambda: service.service.placing.taken == 0)


def test_one_client_does_not_take_all(built: Built) -> None:
    limits = built.profile.service.model_copy(update={"queue": 100, "per_client": 3})
    with running(built.profile.model_copy(update={"service": limits}), writes=False) as service:

        def upload(address: str) -> int:
            transport = httpx.HTTPTransport(local_address=address)
            with httpx.Client(base_url=service.url, timeout=120, transport=transport) as http:
                return http.post("/api/place", files={"image": picture(1)}).status_code

        with ThreadPoolExecutor(40) as threads:
            greedy = [threads.submit(upload, "127.0.0.2") for _ in range(30)]
            modest = [threads.submit(upload, f"127.0.0.{number}") for number in range(3, 9)]
        assert [found.result() for found in modest] == [200] * 6
        codes = [found.result() for found in greedy]
        assert 429 in codes and 200 in codes
