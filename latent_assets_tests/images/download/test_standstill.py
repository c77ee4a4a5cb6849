"""A process that stood still (SIGSTOP here, a closed lid elsewhere): no row suffers for the time that passed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latent_assets.images.download.pulse import Pulse
from latent_assets_tests.images.conftest import JPEG, World, links_to
from latent_assets_tests.images.site import Request, Site, head

_CHILD = """
import json, sys
from pathlib import Path
folder, settings = sys.argv[1:]
from latent_assets_tests.images.conftest import World
world = World(Path(folder), eval(settings))
world.run()
print(json.dumps([[row["reason"], row["attempts"], row["evidence"]] for row in world.ledger().values()]))
"""


def fetch_and_pause(world: World, when: Callable[[], bool], seconds: float) -> list[list[Any]]:
    """Fetch in another process, which is stopped for some seconds as soon as `when()`; reason, attempts, evidence."""
    arguments = [sys.executable, "-c", _CHILD, str(world.folder), repr(world.settings)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    deadline = time.monotonic() + 60
    while not when():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGCONT)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    found: list[list[Any]] = json.loads(said)
    return found


def test_a_paused_process_costs_no_row_its_time(world: World, site: Site) -> None:
    world.settings |= {"timeout": 2.0, "attempts": 1, "concurrency": 32, "per_host": 32}
    world.catalog(links_to(site, 64, delay=0.8))
    found = fetch_and_pause(world, lambda: site.active >= 32, 4.0)
    assert found == [["ok", 1, None]] * 64


def test_a_server_that_hangs_up_meanwhile_is_asked_again(world: World, site: Site) -> None:
    hung = threading.Event()

    async def hanging(request: Request, writer: asyncio.StreamWriter) -> None:
        if hung.is_set():
            writer.write(head(content_length=str(len(JPEG))) + JPEG)
            return
        await asyncio.sleep(2.0)
        hung.set()
        writer.close()

    site.pages |= dict.fromkeys(("/0.jpg", "/1.jpg"), hanging)
    world.settings |= {"timeout": 20.0, "attempts": 1}
    world.catalog([site.url("/0.jpg"), site.url("/1.jpg")])
    found = fetch_and_pause(world, lambda: site.active >= 2, 4.0)
    assert [row[:2] for row in found] == [["ok", 1]] * 2


def test_robots_txt_that_was_awaited_is_asked_for_again(world: World, site: Site) -> None:
    asked: list[float] = []

    async def slow_once(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            await asyncio.sleep(1.5)
        text = b"User-agent: *\nDisallow: /private/\n"
        writer.write(head(content_length=str(len(text)), content_type="text/plain") + text)

    site.pages["/robots.txt"] = slow_once
    world.settings |= {"timeout": 2.0, "attempts": 1, "robots": True}
    world.catalog([site.add("/a.jpg", JPEG), site.add("/private/b.jpg", JPEG)])
    found = fetch_and_pause(world, lambda: len(asked) == 1, 4.0)
    assert sorted(row[0] for row in found) == ["ok", "robots_txt"]


def test_a_row_that_waits_for_another_attempt_has_its_time_again(world: World, site: Site) -> None:
    left = [1]

    async def refusing(request: Request, writer: asyncio.StreamWriter) -> None:
        left[0] -= 1
        if left[0] >= 0:
            writer.write(head(503, retry_after="1", content_length="0"))
        else:
            writer.write(head(content_length=str(len(JPEG))) + JPEG)

    site.pages["/0.jpg"] = refusing
    world.settings |= {"timeout": 2.0}
    world.catalog([site.url("/0.jpg")])

    def refused() -> bool:
        time.sleep(0.3)
        return left[0] == 0

    assert fetch_and_pause(world, refused, 4.0) == [["ok", 2, None]]


def test_a_slow_server_is_still_a_timeout(world: World, site: Site) -> None:
    world.settings |= {"timeout": 1.0, "attempts": 1}
    assert world.fetch_one(*links_to(site, 1, delay=10))["reason"] == "timeout"


async def test_a_busy_loop_has_not_stood_still() -> None:
    pulse = Pulse()
    began = pulse.now()
    for _ in range(4):
        time.sleep(0.5)  # the loop does nothing meanwhile
        await asyncio.sleep(0.3)
    assert not pulse.stood_still(began)
    time.sleep(1.5)
    assert pulse.stood_still(began) and not pulse.stood_still(pulse.now() + 0.001)
    pulse.close()
