"""Ways to run an encoder on a CPU, compared: number formats, memory layouts, batches, threads, compilers, run times.

`encode.py --compare` prints the table. onnxruntime and openvino are compared where they are installed
(`uv pip install onnx onnxruntime openvino`); the package itself needs neither.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

Run = Callable[[torch.Tensor], torch.Tensor]
MODELS = ("ViT-B-32", "ViT-L-14", "VAE 256", "VAE 512")


@dataclass(frozen=True)
class Way:
    """How a batch is run. side_by_side: as many threads as cores, each with a batch of its own."""

    name: str
    dtype: torch.dtype
    batch: int
    prepare: Callable[[torch.nn.Module, torch.Tensor], Run]
    channels_last: bool = False
    side_by_side: bool = False


def ways() -> Iterator[Way]:
    """What is compared; the first is what was done before number formats were chosen."""
    single, half = torch.float32, torch.bfloat16
    yield Way("eager, channels last", single, 1, _eager, channels_last=True)
    yield Way("eager", single, 1, _eager)
    yield Way("eager", half, 1, _eager)
    yield Way("eager, channels last", half, 1, _eager, channels_last=True)
    yield Way("eager", half, 4, _eager)
    yield Way("eager", half, 16, _eager)
    yield Way("eager, side by side", half, 1, _eager, side_by_side=True)
    yield Way("torch.compile", half, 1, _compiled)
    if find_spec("openvino"):
        yield Way("OpenVINO", single, 1, _openvino)
        yield Way("OpenVINO", half, 1, _openvino)
    if find_spec("onnxruntime") and find_spec("onnx"):
        yield Way("ONNX Runtime", single, 1, _onnx)


def encoder_of(name: str) -> tuple[torch.nn.Module, int]:
    """The image half of an architecture with random weights, and the side of its images."""
    torch.manual_seed(0)
    if not name.startswith("VAE"):
        import open_clip

        model = open_clip.create_model(name).visual
        return model.eval().requires_grad_(False), 224
    from infra.bench.encode import stable_diffusion

    vae = stable_diffusion()

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.quant = vae.encoder, vae.quant_conv

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.quant(self.encoder(x)).chunk(2, dim=1)[0]

    return Mean().eval().requires_grad_(False), int(name.split()[1])


def compare(name: str, seconds: float, wanted: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Figures of each way (of those whose name has a word of `wanted`) for a model.

    images/s: as a clock sees them. images/CPU s: of one core that is free; other work on the machine disturbs it less.
    cosine: of four images' outputs with those of float32, the lowest. start: seconds until the first result.
    """
    model, side = encoder_of(name)
    rough = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic") * 2 - 1
    with torch.inference_mode():
        exact = model(images).flatten(1)
    for way in ways():
        if wanted and not any(word in way.name for word in wanted):
            continue
        dtype = str(way.dtype).removeprefix("torch.")
        facts = {"model": name, "way": way.name, "dtype": dtype, "batch": way.batch}
        try:
            yield facts | _figures(way, model, images, exact, seconds)
        except Exception as error:  # a library that does not take an architecture
            yield facts | {"failed": f"{type(error).__name__}: {str(error)[:120]}"}


def _figures(
    way: Way, model: torch.nn.Module, images: torch.Tensor, exact: torch.Tensor, seconds: float
) -> dict[str, Any]:
    x = images.repeat(-(-way.batch // 4), 1, 1, 1)[: way.batch].to(way.dtype)
    own = copy.deepcopy(model).to(way.dtype)
    if way.channels_last:
        own, x = own.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    started = time.perf_counter()
    with torch.inference_mode():
        run = way.prepare(own, x)
        found = run(x).float().flatten(1)[:4]
    start = time.perf_counter() - started
    cosine = torch.nn.functional.cosine_similarity(found, exact[: len(found)]).min()
    workers = torch.get_num_threads() if way.side_by_side else 1
    threads = torch.get_num_threads()
    counts = [0] * workers
    clock, cpu = time.perf_counter(), time.process_time()

    def work(number: int) -> None:
        torch.set_num_threads(1 if way.side_by_side else threads)
        with torch.inference_mode():
            while time.perf_counter() - clock < seconds or not counts[number]:
                run(x)
                counts[number] += way.batch

    pool = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    spent, busy = time.perf_counter() - clock, time.process_time() - cpu
    torch.set_num_threads(threads)
    done = sum(counts)
    return {"images/s": done / spent, "images/CPU s": done / busy, "cosine": float(cosine), "start": start}


def _eager(model: torch.nn.Module, x: torch.Tensor) -> Run:
    return model


def _compiled(model: torch.nn.Module, x: torch.Tensor) -> Run:
    found: Run = torch.compile(model, dynamic=False)
    return found


def _openvino(model: torch.nn.Module, x: torch.Tensor) -> Run:
    import openvino

    converted = openvino.convert_model(model.float(), example_input=x.float(), input=[list(x.shape)])
    precision = "bf16" if x.dtype == torch.bfloat16 else "f32"
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": os.cpu_count() or 1}
    compiled = openvino.Core().compile_model(converted, "CPU", hints)
    return lambda batch: torch.from_numpy(compiled([batch.float().numpy()])[0])


def _onnx(model: torch.nn.Module, x: torch.Tensor) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"x": batch.numpy()})[0])
