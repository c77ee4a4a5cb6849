"""The built-in data set: written once, served while it is fetched, told apart from strangers on its port."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from latent_assets import progress
from latent_assets.catalog import builtin
from latent_assets.catalog.build import build_catalog
from latent_assets.catalog.source import observe_source
from latent_assets.errors import ProfileError, SourceError
from latent_assets.openmoji import dataset
from latent_assets.profile import ClipModel, Fetch, Filters, Models, Profile, Projection, Source
from latent_assets.storage import Storage


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve emojis instead of 3,953."""
    table = dataset.emoji_table().head(12)
    monkeypatch.setattr(dataset, "emoji_table", lambda: table)


@pytest.fixture
def profile(tmp_path: Path, few_pictures: None) -> Iterator[Profile]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    yield Profile(
        name="demo",
        root=str(tmp_path / "root"),
        source=Source(builtin="openmoji", origin=origin),
        filters=Filters(),
        fetch=Fetch(resize="none", size=32, format="png", robots=False, allow_origins=(origin,), min_success=1.0),
        models=Models(clip=ClipModel(config="none", weights="none")),
        projection=Projection(spaces=("clip",)),
    )


def answers(profile: Profile) -> bool:
    """Whether pictures are served on the profile's origin."""
    name = min((Path(profile.root) / "source").glob("pictures-*/*.png")).name
    try:
        with urllib.request.urlopen(f"{profile.source.origin}/openmoji/{name}", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_it_enters_like_any_other_source_and_is_fetched_over_http(profile: Profile) -> None:
    from latent_assets.images.shard import fetch_shard

    storage = Storage(profile.root)
    seen: list[progress.Progress] = []
    with progress.listening(seen.append):
        version = observe_source(profile, storage)
    assert seen[-1].done == seen[-1].total == 12
    report = build_catalog(profile, storage)
    assert (report.rows_read, report.rows_kept) == (12, 12)
    with builtin.serving(profile, storage):
        fetched = fetch_shard(profile, storage, "00000")
    assert (fetched.ok, fetched.rows) == (12, 12)
    assert not answers(profile)
    files = [path for path in (Path(profile.root) / "source").rglob("*") if path.is_file()]
    written = {path: path.stat().st_mtime_ns for path in files}
    seen.clear()
    with progress.listening(seen.append):
        assert observe_source(profile, storage) == version
    assert not seen and len(files) == 12 + 2, "a second look draws nothing"
    assert {path: path.stat().st_mtime_ns for path in files} == written


def test_server_of_another_process_of_ours_is_used_and_replaced_when_it_goes(profile: Profile) -> None:
    storage = Storage(profile.root)
    first = ExitStack()
    first.enter_context(builtin.serving(profile, storage))
    with builtin.serving(profile, storage):
        assert answers(profile)
        first.close()
        deadline = time.monotonic() + 60
        while not answers(profile) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answers(profile)
    assert not answers(profile)


def test_stranger_on_the_port_is_named(profile: Profile) -> None:
    storage = Storage(profile.root)
    builtin.prepare(profile, storage)
    port = int((profile.source.origin or "").rpartition(":")[2])
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        threading.Thread(target=lambda: stranger.accept()[0].close(), daemon=True).start()
        problem = pytest.raises(SourceError, match=rf"Port {port} .* taken by something else.*source\.origin")
        with problem, builtin.serving(profile, storage):
            pass


def test_other_sources_are_not_served(profile: Profile, tmp_path: Path) -> None:
    other = profile.model_copy(update={"source": Source(path=str(tmp_path))})
    with builtin.serving(other, Storage(other.root)):
        assert not (Path(other.root) / "source").exists()


def test_origin_without_a_port(profile: Profile) -> None:
    odd = profile.model_copy(update={"source": Source(builtin="openmoji", origin="http://127.0.0.1")})
    with pytest.raises(ProfileError, match=r"source\.origin"):
        builtin.prepare(odd, Storage(odd.root))
