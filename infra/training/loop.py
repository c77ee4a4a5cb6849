"""The training loop the three models share: seeded batches, cosine rate, moving average, checkpoints.

Here: everything that does not depend on which model is trained. Not here: losses, data, export.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate rises linearly over `warmup` steps, then falls as a cosine to zero."""

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 17
    log_every: int = 50
    save_every: int = 250


Loss = Callable[[Any, int, torch.Generator], tuple[Tensor, dict[str, float]]]


def train(
    model: nn.Module,
    loss: Loss,
    schedule: Schedule,
    directory: Path,
    *,
    resume: bool,
    slow: dict[str, float] | None = None,
    preview: Callable[[Any, int], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return the moving average of its weights.

    Step s draws everything from a generator seeded by (seed, s), so an interrupted run resumed from
    `directory/checkpoint.pt` draws the same batches. `loss(model, step, generator)` gives the loss and figures
    to log; `slow` maps a parameter-name prefix to a factor on its rate; `preview(average, step)` is called at
    every checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = directory / "checkpoint.pt"
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(model, schedule, slow or {}), betas=(0.9, 0.98), fused=True)
    start = 0
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    generator = torch.Generator()
    sums: dict[str, float] = {}
    began = time.perf_counter()
    model.train()
    for step in range(start, schedule.steps):
        generator.manual_seed(schedule.seed * 1_000_003 + step)
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = _rate(schedule, step) * group["factor"]
        # On a CPU the fused attention's backward pass is slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH):
            value, figures = loss(model, step, generator)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        _follow(average, model, min(schedule.ema, (1 + step) / (10 + step)))
        for name, figure in {"loss": value.item(), **figures}.items():
            sums[name] = sums.get(name, 0.0) + figure
        done = step + 1
        if done % schedule.log_every == 0:
            count = min(schedule.log_every, done - start)
            line = {"step": done, **{name: round(total / count, 5) for name, total in sums.items()}}
            line["s_per_step"] = round((time.perf_counter() - began) / (done - start), 3)
            _log(directory / "log.jsonl", line)
            sums = {}
        if done % schedule.save_every == 0 or done == schedule.steps:
            state = {"model": model.state_dict(), "average": average.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "step": done, "schedule": asdict(schedule)}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            if preview is not None:
                preview(average, done)
    return average


def _groups(model: nn.Module, schedule: Schedule, slow: dict[str, float]) -> list[dict[str, object]]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((value for prefix, value in slow.items() if name.startswith(prefix)), 1.0)
            decays = parameter.ndim > 1 and factor == 1.0
            groups.setdefault((factor, decays), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": schedule.weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]


def _rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    targets, sources = zip(*((a, m) for a, m in pairs if m.requires_grad), strict=True)
    torch._foreach_lerp_(list(targets), [source.detach() for source in sources], 1 - decay)


def _log(path: Path, line: dict[str, float]) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    with path.open("a") as file:
        file.write(text + "\n")
