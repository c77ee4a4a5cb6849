"""Which device and number format a model runs in.

Importing this module is cheap; torch is loaded by the functions that need it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from latent_assets.profile import Dtype

DEVICE_VARIABLE = "LATENT_ASSETS_DEVICE"  # of one process
DEVICES_VARIABLE = "LATENT_ASSETS_DEVICES"  # of a machine, with commas

_DRIVERS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


@lru_cache(maxsize=1)
def device_kind() -> str:
    """The kind of device that models run on here: "cuda", "mps" or "cpu".

    torch (1.6 s) is not imported where only the CPU can be meant.
    """
    if sys.platform.startswith("linux") and not any(Path(node).exists() for node in _DRIVERS):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


# what processors call their instructions that multiply bfloat16, in /proc/cpuinfo, and what people call them
_X86, _ARM = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}, {"bf16": "ARM BF16"}


@lru_cache(maxsize=1)
def native_bfloat16() -> str | None:
    """The instructions by which this processor multiplies bfloat16; None for one that would imitate it."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return "ARM BF16" if found == "1" else None
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        names = {"flags": _X86, "Features": _ARM}.get(key.strip())
        if names is not None:
            flags = set(value.split())
            return next((called for flag, called in names.items() if flag in flags), None)
    return None


def best_device() -> torch.device:
    """The device that this process works on: $LATENT_ASSETS_DEVICE, else the first of `device_kind`."""
    import torch

    return torch.device(os.environ.get(DEVICE_VARIABLE) or device_kind())


def devices() -> list[str]:
    """The devices that shards can be divided among: those of $LATENT_ASSETS_DEVICES, else all CUDA GPUs.

    One, or none, means that this process does the work; so does being a worker itself.
    """
    if os.environ.get(DEVICE_VARIABLE):
        return []
    if listed := os.environ.get(DEVICES_VARIABLE):
        return [name.strip() for name in listed.split(",") if name.strip()]
    if device_kind() != "cuda":
        return []
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def dtype_on(device: torch.device, wanted: Dtype, accelerated: torch.dtype) -> torch.dtype:
    """The profile's dtype; `auto` is `accelerated` on a GPU and float32 on the CPU."""
    import torch

    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    return accelerated if device.type == "cuda" else torch.float32


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def cuda_name() -> str | None:
    """Name of the first CUDA GPU, or None."""
    return device_name(best_device()) if device_kind() == "cuda" else None
