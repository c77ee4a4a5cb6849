"""The benchmarks run, at sizes that a test can afford."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest

from infra.bench import encode, gpu, ways


def test_the_gpus_benchmark_is_complete_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--rows"])
    gpu.main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["maps"] in ([], "infra/bench/gpu_maps.py is not there")
    assert {(row["model"], row["dtype"]) for row in found["encoders"]} >= {("clip", "float32"), ("vae", "bfloat16")}
    assert all(row["images/s"] > 0 for row in found["encoders"])
    assert set(found["pipeline"]) == {"clip", "vae", "all"} and all(rate > 0 for rate in found["pipeline"].values())
    assert all(rate > 0 for name, rate in found["decoding"].items() if name != "nvJPEG")
    if found["machine"]["device"] == "cpu":
        assert found["transfers"] == found["decoding"]["nvJPEG"] == "needs CUDA"


def test_a_part_that_fails_keeps_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "encoders", lambda *args: 1 / 0)
    monkeypatch.setattr(gpu, "pipeline", lambda *args: {"clip": math.pi * 1000})
    monkeypatch.setattr(gpu, "decoding", lambda *args: {})
    found = gpu.plain(gpu.measure(gpu.scale(True, 0.1, 10), []))
    assert found["encoders"].startswith("ZeroDivisionError") and found["pipeline"] == {"clip": 3142.0}


def test_ways_to_encode_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    encode.table(["ViT-S-32-alt"], 0.05, ["eager"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + sum("eager" in way.name for way in ways.ways())
    assert all(float(line.split()[-3]) > 0.99 for line in lines[1:]), lines
