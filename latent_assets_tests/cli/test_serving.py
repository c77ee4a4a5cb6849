"""Opening the UI: a port that is taken is noticed before anything starts, and SIGTERM ends all that was started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from latent_assets.cli import serving
from latent_assets.errors import ProfileError

ROOT = Path(__file__).parents[2]


def listening(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, port))


@pytest.fixture
def ports() -> Iterator[int]:
    """The first of three ports in a row that nobody uses."""
    for first in range(20_000, 60_000, 7):
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + 3):
                stack.enter_context(listening(port))
            break
    yield first


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("command", ["ui", "demo"])
def test_a_taken_port_is_named_with_the_next_free_one_and_nothing_starts(
    ports: int, host: str, command: str, tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "latent_assets.cli", command, "--port", str(ports)]
    with listening(ports, host), listening(ports + 1):
        done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and f"Port {ports} of 127.0.0.1 is taken" in done.stderr
    assert f"`--port {ports + 2}`" in done.stderr and f"PORT={ports + 2}" in done.stderr
    assert not list((tmp_path / "home").rglob("*")), "an instance was made"


def test_a_port_that_was_closed_just_now_is_free(ports: int) -> None:
    with listening(ports) as server, socket.create_connection(("127.0.0.1", ports)) as client:
        server.accept()[0].close()  # the side that closes first is the one that lingers
        client.close()
    serving.check_port(ports)
    with listening(ports), pytest.raises(ProfileError, match="is taken"):
        serving.check_port(ports)


def test_a_demo_without_a_ui_needs_no_port(ports: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(serving, "build", built.append)
    monkeypatch.setattr(serving, "generate", lambda prompt, seed, profile: built.append(prompt))
    with listening(ports):
        serving.demo(serve=False, port=ports)
    assert built == ["demo", "a red apple"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_make_dev_in_the_background_opens_on_the_lineage_and_ends_on_sigterm(ports: int, tmp_path: Path) -> None:
    """A shell starts a background job with interrupts ignored."""
    make = f"make --no-print-directory dev INSTALLED= BIN={Path(sys.executable).parent} PORT={ports}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["sh", "-c", f"{make} & echo $! > {tmp_path}/pid; wait"],
            cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 180
        while not started:
            assert shell.poll() is None and time.monotonic() < deadline, log.read_text()
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{ports}/server_info", timeout=5).close()
                started = psutil.Process(shell.pid).children(recursive=True)
            time.sleep(0.2)
        (link,) = re.findall(r"http://\S+", log.read_text())
        assert link == f"http://127.0.0.1:{ports}/asset-groups"
        assert {"dagster_webserver", "dagster._daemon"} <= {part for p in started for part in p.cmdline()}
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        gone, left = psutil.wait_procs(started, timeout=60)
        assert not left and len(gone) == len(started), log.read_text()
    finally:
        for process in started:
            with suppress(psutil.Error):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
