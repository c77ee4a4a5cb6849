"""A service over the built atlas: a real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from latent_assets.profile import Profile
from latent_assets.service.access import Access, allowed_hosts
from latent_assets.service.api import Service, create_app
from latent_assets.service.server import configuration
from latent_assets_tests.conftest import Built


@dataclass(frozen=True)
class Running:
    """A service that answers: `http` asks it."""

    service: Service
    url: str
    http: httpx.Client

    @property
    def profile(self) -> Profile:
        return self.service.profile


@contextmanager
def running(
    profile: Profile,
    *,
    writes: bool = True,
    generation: bool = False,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    ready: bool = True,
    per_client: int = 128,
) -> Iterator[Running]:
    """Serve a profile's root inside the block."""
    service = Service(profile, writes=writes, generation=generation)
    app = create_app(service, Access(allowed_hosts("127.0.0.1", hosts), token, per_client))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(configuration(app, "127.0.0.1", port))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
            try:
                until(lambda: http.get("/api/health").json()["status"] == "ready" if ready else server.started)
                yield Running(service, url, http)
            finally:
                server.should_exit = True
                thread.join(20)
    assert not thread.is_alive()


def until(holds: Any, seconds: float = 120.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def served(built: Built) -> Iterator[Running]:
    """A service over the built atlas that keeps nothing; for all tests that only read."""
    with running(built.profile, writes=False) as found:
        yield found


@pytest.fixture
def own_profile(built: Built, tmp_path: Path) -> Profile:
    """The profile of a copy of the built atlas that the test may change."""
    shutil.copytree(built.profile.root, tmp_path / "root")
    return built.profile.model_copy(update={"root": str(tmp_path / "root")})


def picture(seed: int, size: int = 48, kind: str = "PNG", **options: Any) -> bytes:
    """A picture that `seed` decides, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()
