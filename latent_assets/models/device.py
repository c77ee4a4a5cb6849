"""Which device and number format a model runs in. Imports torch: not for definition-load time."""

from __future__ import annotations

import torch

from latent_assets.profile import Dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def best_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype_on(device: torch.device, wanted: Dtype, accelerated: torch.dtype) -> torch.dtype:
    """The profile's dtype; `auto` is `accelerated` on a GPU and float32 on the CPU."""
    if wanted != "auto":
        return _DTYPES[wanted]
    return accelerated if device.type == "cuda" else torch.float32


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
