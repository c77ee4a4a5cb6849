"""What a GPU does with the encoders, in one JSON: rates in every format, transfers, decoding, the whole pipeline, maps.

    .venv/bin/python -m infra.bench.gpu [--seconds 10] [--images 20000] [--rows 635000 1000000] [--small]

Random weights at the real architectures: ViT-L-14 at 224 px, Stable Diffusion's autoencoder at 512 px. To reach on one
H100, end to end: 3,000 images a second for CLIP, 400 for the autoencoder. `--small` takes architectures and numbers
that a CPU ends in seconds; without CUDA everything runs on the CPU and what needs CUDA says so instead of a figure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.bench.encode import clip_section, jpegs, vae_section

Figures = dict[str, Any]
_NO_CUDA = "needs CUDA"


@dataclass(frozen=True)
class Scale:
    """How large everything is. clip: architecture of open_clip. batches: of the encoders."""

    clip: str
    vae_size: int
    vae_channels: tuple[int, ...]
    batches: dict[str, int]
    seconds: float
    images: int


def scale(small: bool, seconds: float, images: int) -> Scale:
    """The real sizes, or those of a test."""
    if small:
        return Scale("ViT-S-32-alt", 64, (32, 32, 32, 32), {"clip": 4, "vae": 2}, min(seconds, 0.2), min(images, 40))
    return Scale("ViT-L-14", 512, (128, 256, 512, 512), {"clip": 256, "vae": 16}, seconds, images)


def measure(chosen: Scale, rows: list[int]) -> Figures:
    """Everything, as a JSON of figures; a part that fails says why and keeps none of the others."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], Any]] = {
            "encoders": partial(encoders, chosen, Path(folder), device),
            "transfers": partial(transfers, chosen, device),
            "decoding": partial(decoding, chosen, device),
            "pipeline": partial(pipeline, chosen, Path(folder)),
            "maps": partial(maps, rows),
        }
        return {"machine": machine(device)} | {name: _tried(part) for name, part in parts.items()}


def _tried(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # out of memory, a library that is absent: the other figures are wanted all the same
        return f"{type(error).__name__}: {str(error)[:300]}"


def machine(device: torch.device) -> Figures:
    """Where this was measured."""
    found: Figures = {"torch": torch.__version__, "python": platform.python_version(), "device": "cpu"}
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        found |= {"device": torch.cuda.get_device_name(device), "memory": memory, "gpus": torch.cuda.device_count()}
    return found


# -- encoders ------------------------------------------------------------------------------------------


def encoders(chosen: Scale, folder: Path, device: torch.device) -> list[Figures]:
    """Images a second of each model by number format and by how it is run; pixels lie on the device already."""
    from latent_assets.models.clip import load_clip
    from latent_assets.models.vae import load_vae

    clip = clip_section(folder, chosen.clip)
    vae = vae_section(folder, chosen.vae_size, chosen.vae_channels)
    found = []
    formats = ("float32", "float16", "bfloat16") if device.type == "cuda" else ("float32", "bfloat16")
    for dtype in formats:
        for name, load, spec in (("clip", load_clip, clip), ("vae", load_vae, vae)):
            encoder = load(spec.model_copy(update={"dtype": dtype}), device)
            side = encoder.size
            pixels = torch.randint(0, 256, (chosen.batches[name], side, side, 3), dtype=torch.uint8, device=device)
            for how, run in _ways(encoder.encode, encoder, pixels, device):
                seconds, memory = _timed(run, chosen.seconds, device)
                rate = len(pixels) / seconds
                found.append({"model": name, "dtype": dtype, "how": how, "images/s": rate, "peak bytes": memory})
    return found


def _ways(
    encode: Callable[[torch.Tensor], Any], encoder: Any, pixels: torch.Tensor, device: torch.device
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """How a batch can be run. Channels last is how the models are loaded."""
    yield "eager", partial(encode, pixels)
    if device.type != "cuda":
        return
    encoder.model.to(memory_format=torch.contiguous_format)
    yield "eager, contiguous", partial(encode, pixels)
    encoder.model.to(memory_format=torch.channels_last)
    yield "CUDA graph", _graph(encode, pixels)
    yield "compiled", partial(torch.compile(encode, dynamic=False), pixels)
    yield "compiled, CUDA graph", partial(torch.compile(encode, mode="reduce-overhead", dynamic=False), pixels)


def _graph(encode: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> Callable[[], Any]:
    """A batch of one shape, recorded once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            encode(pixels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        encode(pixels)
    return graph.replay


def _timed(run: Callable[[], Any], seconds: float, device: torch.device) -> tuple[float, int]:
    """Seconds of one run, the mean of as many as fit into `seconds`, and the highest memory."""
    run()
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, runs = time.perf_counter(), 0
    while runs == 0 or time.perf_counter() - started < seconds:
        run()
        runs += 1
        if runs % 8 == 0:
            _wait(device)
    _wait(device)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return (time.perf_counter() - started) / runs, memory


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- what feeds them -----------------------------------------------------------------------------------


def transfers(chosen: Scale, device: torch.device) -> Figures | str:
    """Bytes a second to the device: pageable, pinned, and pinned while a kernel runs."""
    if device.type != "cuda":
        return _NO_CUDA
    shape = (chosen.batches["clip"], 224, 224, 3)
    plain = torch.zeros(shape, dtype=torch.uint8)
    pinned = plain.pin_memory()
    work = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    side = torch.cuda.Stream()

    def overlapped() -> None:
        with torch.cuda.stream(side):
            pinned.to(device, non_blocking=True)
        work @ work

    ways: dict[str, Callable[[], Any]] = {
        "pageable": partial(plain.to, device),
        "pinned": partial(pinned.to, device, non_blocking=True),
        "pinned, overlapped": overlapped,
    }
    return {name: plain.nbytes / _timed(run, chosen.seconds, device)[0] for name, run in ways.items()}


def decoding(chosen: Scale, device: torch.device) -> Figures:
    """JPEGs of 512 px decoded a second: by nvJPEG on the GPU, by threads and by processes on the CPU."""
    from concurrent.futures import ThreadPoolExecutor
    from os import cpu_count

    files = [data for _, data in jpegs(max(64, chosen.images // 10), 512)]
    found: Figures = {"nvJPEG": _NO_CUDA}
    if device.type == "cuda":
        from torchvision.io import decode_jpeg

        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files[:64]]
        found["nvJPEG"] = len(tensors) / _timed(partial(decode_jpeg, tensors, device=device), chosen.seconds, device)[0]
    workers = cpu_count() or 1
    for name, kind in (("threads", ThreadPoolExecutor), ("processes", ProcessPoolExecutor)):
        with kind(workers) as pool:
            list(pool.map(decoded, files[:workers]))
            started = time.perf_counter()
            done = sum(pool.map(decoded, files, chunksize=8))
            found[f"{workers} {name}"] = done / (time.perf_counter() - started)
    return found


def decoded(data: bytes) -> int:
    """Decode one file; 1."""
    from latent_assets.images.decode.image import decode_image

    return int(decode_image(data).size[0] > 0)


# -- the whole -----------------------------------------------------------------------------------------


def pipeline(chosen: Scale, folder: Path) -> Figures:
    """From the bytes of JPEGs of 512 px to stored vectors, latents and thumbnails, as a build does it."""
    from latent_assets.embeddings.shard import ThumbnailOutput, VectorOutput, embed_shard
    from latent_assets.models.clip import load_clip
    from latent_assets.models.vae import load_vae
    from latent_assets.profile import Table
    from latent_assets.storage import Storage

    clip = load_clip(clip_section(folder, chosen.clip))
    vae = load_vae(vae_section(folder, chosen.vae_size, chosen.vae_channels))
    outputs = {
        "clip": [VectorOutput(clip, "embeddings/c/0.arrow", chosen.batches["clip"])],
        "vae": [VectorOutput(vae, "embeddings/v/0.arrow", chosen.batches["vae"], "latent")],
    }
    outputs["all"] = [*outputs["clip"], *outputs["vae"], ThumbnailOutput("thumbnails/t/0.arrow", Table())]
    storage = Storage(str(folder / "root"))
    return {
        name: embed_shard(storage, jpegs(chosen.images, 512), chosen.images, each).rate
        for name, each in outputs.items()
    }


def maps(rows: list[int]) -> Any:
    """The fit of a map and the placement of rows on it, by `infra.bench.gpu_maps.measure(rows)`."""
    try:
        module = importlib.import_module("infra.bench.gpu_maps")
    except ModuleNotFoundError:
        return "infra/bench/gpu_maps.py is not there"
    return [module.measure(count) for count in rows]


def plain(value: Any) -> Any:
    """Figures to four digits, for JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}")
    return value


def main() -> None:
    """Print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    parser.add_argument("--images", type=int, default=20_000, help="of the whole pipeline")
    parser.add_argument("--rows", type=int, nargs="*", default=[635_000, 1_000_000], help="of the maps")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    chosen = scale(arguments.small, arguments.seconds, arguments.images)
    print(json.dumps(plain(measure(chosen, arguments.rows)), indent=2))


if __name__ == "__main__":
    main()
