"""Fixtures that more than one room needs: small models, and a gallery of images behind a real HTTP server."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image, ImageDraw

from latent_assets.profile import Profile, parse_profile


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or leaves anything outside its own directory."""
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LATENT_ASSETS_PROFILE", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@dataclass
class Gallery:
    """Images behind a loopback server, and the LAION-style metadata that lists them."""

    folder: Path
    origin: str
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    delay: float = 0.0

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata.parquet"

    def url(self, name: str) -> str:
        return f"{self.origin}/{name}"

    def write(
        self, names: list[str], captions: Callable[[str], str | None] = lambda name: f"a picture of {name}"
    ) -> Path:
        """Write metadata in LAION's schema with a row for each name."""
        count = len(names)
        pl.DataFrame(
            {
                "URL": [self.url(name) for name in names],
                "TEXT": [captions(name) for name in names],
                "WIDTH": [96.0] * count,
                "HEIGHT": [96.0] * count,
                "similarity": [0.3] * count,
                "hash": [int(name[:3], 36) for name in names],
                "punsafe": pl.Series([0.01] * count, dtype=pl.Float32),
                "pwatermark": pl.Series([0.01] * count, dtype=pl.Float32),
                "AESTHETIC_SCORE": pl.Series([6.6] * count, dtype=pl.Float32),
            },
            schema_overrides={"TEXT": pl.String},
        ).write_parquet(self.metadata)
        return self.metadata


def drawing(seed: int, size: int = 96) -> bytes:
    """A PNG with a shape and colours that `seed` decides."""
    image = Image.new("RGB", (size, size), ((seed * 37) % 256, (seed * 91) % 256, (seed * 53) % 256))
    draw = ImageDraw.Draw(image)
    place = 8 + seed % 40
    colour = ((seed * 17 + 90) % 256, (seed * 29 + 140) % 256, (seed * 71) % 256)
    (draw.ellipse if seed % 2 else draw.rectangle)((place, place, place + 36, place + 30), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving_gallery(folder: Path) -> Iterator[Gallery]:
    """60 drawings named 000.png to 059.png behind a server on loopback; requests are recorded."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            found.requests.append(name)
            time.sleep(found.delay)
            body = found.files.get(name, b"")
            self.send_response(found.statuses.get(name, 200 if name in found.files else 404))
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    folder.mkdir(parents=True)
    found = Gallery(folder, f"http://127.0.0.1:{server.server_address[1]}")
    found.files = {f"{seed:03}.png": drawing(seed) for seed in range(60)}
    found.write(sorted(found.files))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """A gallery of the test's own."""
    with serving_gallery(tmp_path / "gallery") as found:
        yield found


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """[models] with random weights: a CLIP and a VAE in the real formats."""
    from latent_assets_tests.small_models import write_clip, write_vae

    folder = tmp_path_factory.mktemp("models")
    return {"clip": write_clip(folder / "clip"), "vae": {**write_vae(folder / "vae"), "batch_size": 16}}


def profile_over(gallery: Gallery, sections: dict[str, dict[str, Any]], folder: Path, **tables: Any) -> Profile:
    """A profile over a gallery with [models] `sections`: 3 shards of 20 rows. Keywords replace or extend its tables."""
    values: dict[str, Any] = {
        "name": "small",
        "root": str(folder / "root"),
        "source": {"path": str(gallery.metadata)},
        "shards": {"rows": 20},
        "fetch": {"resize": "none", "size": 96, "format": "png", "robots": False, "allow_origins": [gallery.origin]},
        "models": {name: dict(spec) for name, spec in sections.items()},
        "projection": {"n_neighbors": 5, "n_epochs": 20},
    }
    for name, table in tables.items():
        values[name] = {**values[name], **table} if isinstance(table, dict) and name in values else table
    return parse_profile(values, folder / "small.toml", folder)


@pytest.fixture
def small_profile(gallery: Gallery, small_models: dict[str, dict[str, Any]], tmp_path: Path) -> Callable[..., Profile]:
    """`profile_over` the test's own gallery."""
    return lambda **tables: profile_over(gallery, small_models, tmp_path, **tables)


@dataclass(frozen=True)
class Built:
    """A finished atlas: its profile, the profile's file and the home directory of its Dagster instance."""

    profile: Profile
    file: Path
    home: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]) -> Iterator[Built]:
    """60 drawings in three spaces, published. Built once; do not change it."""
    from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile

    folder = tmp_path_factory.mktemp("built")
    patch = pytest.MonkeyPatch()
    patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
    patch.delenv("DAGSTER_HOME", raising=False)
    with serving_gallery(folder / "gallery") as gallery:
        profile = profile_over(gallery, small_models, folder)
        with small_atlas(profile) as atlas:
            results = atlas.build()
        patch.undo()
        assert not any(result.failed for result in results.values())
        yield Built(profile, write_profile(profile, folder / "profile.toml"), folder / "home")


def pytest_configure() -> None:
    """Fewer threads than cores' worth of BLAS: tests run beside servers they started themselves."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
