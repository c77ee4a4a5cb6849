"""Safetensors files of which only what is used is read: arrays that lie in the page cache, not in the process.

The library's own reader copies every array. The format: https://huggingface.co/docs/safetensors (header's length, JSON,
then the arrays).
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}


def map_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, mapped into memory and read-only, and its metadata.

    They stay as they are when the file is replaced or deleted. Raises ValueError for a file that is not whole.
    """
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{path.name} ends in its header")
        (length,) = struct.unpack("<Q", start)
        size = file.seek(0, 2)
        if length > size - 8:
            raise ValueError(f"{path.name} ends in its header")
        file.seek(8)
        header: dict[str, Any] = json.loads(file.read(length))
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    metadata = header.pop("__metadata__", {})
    if max((entry["data_offsets"][1] for entry in header.values()), default=0) + 8 + length != size:
        raise ValueError(f"{path.name} is not as long as its header says")
    arrays = {}
    for name, entry in header.items():
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if end - begin != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{path.name}: the array `{name}` is not as long as its shape says")
        count = (end - begin) // dtype.itemsize
        arrays[name] = np.frombuffer(held, dtype, count, 8 + length + begin).reshape(shape)
    return arrays, metadata


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Store arrays and metadata as a safetensors file."""
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path, metadata=dict(metadata))
