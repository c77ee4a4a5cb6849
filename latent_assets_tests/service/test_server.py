"""The service as a process: found by the command line, overloaded, killed, started again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent_assets.cli.app import app
from latent_assets.cli.serving import serving_viewer
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, QueryError
from latent_assets.layout import SERVICE_INBOX
from latent_assets.processes import host_name, this_process
from latent_assets.profile import Profile
from latent_assets.service.record import Record, read_record, record_file, recorded
from latent_assets.service.remote import RemoteAtlas, UnavailableError
from latent_assets_tests.conftest import Built, drawing
from latent_assets_tests.e2e.small_atlas import write_profile
from latent_assets_tests.service.conftest import Running, picture, running, until


@contextmanager
def process(file: Path, *options: str, home: Path, token: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`latent-assets serve` in a process of its own; its address. It is ready, and killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "LATENT_ASSETS_HOME": str(home), "LATENT_ASSETS_TOKEN": token}
    command = [sys.executable, "-m", "latent_assets.cli", "serve", "-p", str(file), "--port", str(port), *options]
    serving = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:

        def ready() -> bool:
            assert serving.poll() is None, serving.stderr and serving.stderr.read()
            return bool(httpx.get(f"{url}/api/health", trust_env=False).json()["status"] == "ready")

        until(ready, 400)
        yield serving, url
    finally:
        serving.kill()
        serving.wait()
        assert serving.stderr is not None
        serving.stderr.close()


# -- how the command line finds it ---------------------------------------------------------------------


def record_of(service: Running, token: str | None = None) -> Record:
    port = int(service.url.rpartition(":")[2])
    return Record(service.profile.root, str(this_process()), "127.0.0.1", port, service.service.instance, token)


def test_a_record_is_for_its_owner_and_goes_with_its_service(tmp_path: Path) -> None:
    record = Record("/an/atlas", str(this_process()), "0.0.0.0", 3100, "abc", "secret")
    assert record.url == "http://127.0.0.1:3100" and replace(record, host="::1").url == "http://[::1]:3100"
    with recorded(record):
        file = record_file("/an/atlas/")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert read_record("/an/atlas") == read_record("/an/atlas/") == record
        assert read_record("/other") is None
        # another one that has started since is left alone
        with recorded(replace(record, instance="def")):
            pass
        file.write_text(json.dumps({**vars(record), "instance": "newer"}))
    assert file.exists()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for text in (
        json.dumps({**vars(record), "process": f"{host_name()}+{ended.pid}+"}),
        "{",
        "[]",
        '{"root": "/an/atlas"}',
        "\x00",
    ):
        file.write_text(text)
        assert read_record("/an/atlas") is None


def rounded(printed: str) -> Any:
    """JSON with numbers to five decimals: alone, the command line reads texts with another implementation."""
    return json.loads(printed, parse_float=lambda number: round(float(number), 5))


def test_the_command_line_asks_the_service_and_says_so(built: Built, served: Running) -> None:
    runner, options = CliRunner(), ["-p", str(built.file), "--json"]
    row_id = Atlas.open(built.profile.root).to_polars(["id"], 1)["id"][0]
    image = Path(built.file).with_name("question.png")
    image.write_bytes(drawing(5))
    asked = (
        ["search", "a picture", "-k", "3"],
        ["search", "picture 013", "-k", "3", "--mode", "words", "--where", "width > 10"],
        ["search", "picture 013", "-k", "3", "--mode", "hybrid", "--offset", "2"],
        ["search", "--image", str(image), "--space", "vae"],
        ["neighbors", row_id, "-k", "4"],
        ["place", str(image)],
    )
    for command in asked:
        alone = runner.invoke(app, [*command, *options])
        with recorded(record_of(served)):
            answered = runner.invoke(app, [*command, *options])
        assert alone.exit_code == answered.exit_code == 0, (alone.output, answered.output)
        assert rounded(answered.stdout) == rounded(alone.stdout) != []
        assert f"Answered by the service at {served.url}, release 2" in answered.stderr
        assert "service" not in alone.stderr
    for command in (
        ["search", " "],
        ["search", "x", "--where", "1 = 1"],
        ["search", "x", "--mode", "bm25"],
        ["search", "--image", str(image), "--where", "width > 10"],
        ["neighbors", "x"],
        ["neighbors", "0" * 32],
        ["neighbors", row_id, "--space", "y"],
    ):
        alone = runner.invoke(app, [*command, *options])
        with recorded(record_of(served)):
            answered = runner.invoke(app, [*command, *options])
        assert type(alone.exception) is type(answered.exception) and str(alone.exception) == str(answered.exception)
        assert isinstance(alone.exception, QueryError | NotBuiltError)


def test_a_service_that_cannot_answer_is_done_without(built: Built, served: Running) -> None:
    runner, command = CliRunner(), ["search", "a picture", "-p", str(built.file), "--json"]
    alone = runner.invoke(app, command).stdout
    # a port where nobody listens, one where somebody else does, one that takes no requests at the moment
    with socket.socket() as nobody, recorded(record_of(served)):
        nobody.bind(("127.0.0.1", 0))
        for other in (
            replace(record_of(served), port=nobody.getsockname()[1]),
            replace(record_of(served), instance="another", token="a secret that it must not be told"),
        ):
            record_file(other.root).write_text(json.dumps(vars(other)))
            found = runner.invoke(app, command)
            assert found.exit_code == 0 and found.stdout == alone and "Answered by" not in found.stderr
        record_file(other.root).write_text(json.dumps(vars(record_of(served))))
        queue = served.service.reading
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queue, "_most", 0)
            found = runner.invoke(app, command)
        assert found.stdout == alone and "429" in found.stderr and "asking the atlas itself" in found.stderr
        remote = RemoteAtlas.running(built.profile.root)
        assert remote is not None
        with pytest.raises(UnavailableError, match="characters"):
            remote.search_text("x" * 1_001, 3)
        assert runner.invoke(app, ["search", "x" * 1_001, *command[2:]]).exit_code == 0


def test_the_token_is_in_the_record(built: Built) -> None:
    with running(built.profile, writes=False, token="secret") as service:
        with recorded(record_of(service, "secret")):
            remote = RemoteAtlas.running(built.profile.root)
            assert remote is not None and len(remote.search_text("a picture", 3)) == 3
        with recorded(record_of(service, "wrong")):
            remote = RemoteAtlas.running(built.profile.root)
            assert remote is not None
            with pytest.raises(UnavailableError, match="401"):
                remote.search_text("a picture", 3)


# -- a process -----------------------------------------------------------------------------------------


def test_options_that_do_not_fit_are_refused(built: Built) -> None:
    runner = CliRunner()
    for options, why in (
        (["--host", "0.0.0.0"], "LATENT_ASSETS_TOKEN"),
        (["--public"], "--read-only"),
        (
            ["--port", str(_taken.getsockname()[1])] if (_taken := socket.create_server(("127.0.0.1", 0))) else [],
            "taken",
        ),
    ):
        found = runner.invoke(app, ["serve", "-p", str(built.file), *options])
        assert found.exit_code != 0 and why in str(found.exception)
    _taken.close()


@pytest.mark.slow
def test_the_demo_shows_the_atlas_in_the_browser_as_long_as_it_lasts(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(tmp_path / "home"))
    with serving_viewer(str(built.file)) as address:
        until(lambda: answers(f"{address}api/health"), 120)
        assert httpx.get(f"{address}api/release", trust_env=False).json()["rows"] == 60
    assert not answers(f"{address}api/health")


def answers(address: str) -> bool:
    """Whether anything says there that it is ready."""
    try:
        return bool(httpx.get(address, trust_env=False).json()["status"] == "ready")
    except httpx.HTTPError:
        return False


def large() -> bytes:
    """A JPEG of 1,000 x 1,000 pixels and 5 MB."""
    file = io.BytesIO()
    Image.effect_noise((1000, 1000), 60).convert("RGB").save(file, "JPEG", quality=60)
    return file.getvalue() + bytes(5_000_000)


@pytest.mark.slow
def test_200_uploads_at_once_are_answered_or_refused_in_bounded_memory(built: Built, tmp_path: Path) -> None:
    limits = built.profile.service.model_copy(update={"queue": 20, "per_client": 1_000, "image_bytes": 8_000_000})
    file = write_profile(built.profile.model_copy(update={"service": limits}), tmp_path / "profile.toml")
    data = large()
    with process(file, "--read-only", home=tmp_path / "home") as (serving, url):
        right = httpx.post(f"{url}/api/place", files={"image": data}, timeout=60, trust_env=False).json()
        watched, peak, done = psutil.Process(serving.pid), [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                peak[0] = max(peak[0], watched.memory_info().rss)
                time.sleep(0.01)

        before = watched.memory_info().rss
        watching = threading.Thread(target=watch)
        watching.start()

        def upload(number: int) -> httpx.Response:
            with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
                return http.post("/api/place", files={"image": data})

        with ThreadPoolExecutor(200) as threads:
            answers = list(threads.map(upload, range(200)))
        done.set()
        watching.join()
        answered = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(answered) + len(refused) == 200 and len(answered) >= 22 and refused
        assert all(answer.json() == right for answer in answered)
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        # 22 bodies of 5 MB are held at once, not 200, which were 1 GB
        assert peak[0] - before < 400 << 20, f"{(peak[0] - before) >> 20} MB"
        assert httpx.post(f"{url}/api/place", files={"image": data}, timeout=60, trust_env=False).json() == right


@pytest.mark.slow
def test_a_killed_service_loses_and_doubles_nothing(own_profile: Profile, tmp_path: Path) -> None:
    from latent_assets_tests.service.test_keeping import rows, take

    file, home = write_profile(own_profile, tmp_path / "profile.toml"), Path(os.environ["LATENT_ASSETS_HOME"])
    pictures = [picture(seed) for seed in range(40)]
    answered: dict[str, dict[str, object]] = {}
    with process(file, home=home) as (serving, url):
        assert read_record(own_profile.root) is not None

        def keep(data: bytes) -> None:
            try:
                answer = httpx.post(
                    f"{url}/api/place", params={"keep": "true"}, files={"image": data}, timeout=60, trust_env=False
                )
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                answered[answer.json()["generated_id"]] = answer.json()

        with ThreadPoolExecutor(8) as threads:
            for data in pictures:
                threads.submit(keep, data)
            until(lambda: len(answered) >= 5)
            serving.send_signal(signal.SIGKILL)
        serving.wait()
    assert 5 <= len(answered) < 40
    # what it left behind is whole, and the record of a dead process leads nobody astray
    for kept in Path(own_profile.root, SERVICE_INBOX).glob("[!.]*.png"):  # names with a dot are of unfinished writes
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.stem
    assert record_file(own_profile.root).exists() and RemoteAtlas.running(own_profile.root) is None
    with process(file, home=home) as (serving, url):
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            listed = {item["generated_id"] for item in http.get("/api/generated").json()["generated"]}
            assert set(answered) <= listed
            for data in pictures:
                found = http.post("/api/place", params={"keep": "true"}, files={"image": data}).json()
                again = answered.get(found["generated_id"])
                assert again is None or again["placements"] == found["placements"]
                answered[found["generated_id"]] = found
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0
        assert not record_file(own_profile.root).exists()
    from latent_assets.generated.projecting import project
    from latent_assets.storage import Storage

    take(own_profile)
    project(own_profile, Storage(own_profile.root))
    placed = rows(own_profile)
    assert set(placed) == set(answered) and len(answered) == 40
    for row_id, found in answered.items():
        for space, where in found["placements"].items():  # type: ignore[attr-defined]
            assert list(placed[row_id][f"xyz_{space}"]) == where["position"]
