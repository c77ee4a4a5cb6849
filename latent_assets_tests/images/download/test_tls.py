"""TLS: certificates are checked, by the system's authorities or those that the environment names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from latent_assets.images.download.http_client import Network
from latent_assets_tests.images.conftest import JPEG, World
from latent_assets_tests.images.site import Site, serve


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
