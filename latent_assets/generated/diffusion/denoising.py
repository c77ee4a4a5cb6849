"""The predicted clean latent (x0) of every step of denoising.

Pipelines throw it away and some schedulers never say it, so it is computed from what the model predicted, the sample
it was shown and the noise level of the step, which a thin wrapper around the scheduler's `step` sees. The formulas
are those of Karras et al., arXiv:2206.00364, table 1, for the parametrisations in use.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

Predicted = Callable[[], torch.Tensor]


class Noise(Enum):
    """How a scheduler mixes the clean latent x0 and noise e into its sample, and how it counts the noise level."""

    ALPHA = "x = sqrt(a) x0 + sqrt(1 - a) e, with a = alphas_cumprod[timestep]"
    VARIANCE_PRESERVING = "x = (x0 + sigma e) / sqrt(1 + sigma^2), with sigma = sigmas[step]"
    VARIANCE_EXPLODING = "x = x0 + sigma e, with sigma = sigmas[step]"
    FLOW = "x = (1 - sigma) x0 + sigma e, with sigma = sigmas[step]"


# by the name of diffusers' class: what is not here has no path, instead of a wrong one
_SCHEDULERS: dict[str, tuple[str, Noise]] = {
    "DDIMScheduler": ("DDIM", Noise.ALPHA),
    "DDPMScheduler": ("DDPM", Noise.ALPHA),
    "PNDMScheduler": ("PLMS", Noise.ALPHA),
    "LCMScheduler": ("LCM", Noise.ALPHA),
    "EulerDiscreteScheduler": ("Euler", Noise.VARIANCE_EXPLODING),
    "EulerAncestralDiscreteScheduler": ("Euler a", Noise.VARIANCE_EXPLODING),
    "HeunDiscreteScheduler": ("Heun", Noise.VARIANCE_EXPLODING),
    "LMSDiscreteScheduler": ("LMS", Noise.VARIANCE_EXPLODING),
    "DPMSolverMultistepScheduler": ("DPM++ 2M", Noise.VARIANCE_PRESERVING),
    "DEISMultistepScheduler": ("DEIS", Noise.VARIANCE_PRESERVING),
    "UniPCMultistepScheduler": ("UniPC", Noise.VARIANCE_PRESERVING),
    "FlowMatchEulerDiscreteScheduler": ("Euler", Noise.FLOW),
    "FlowMatchHeunDiscreteScheduler": ("Heun", Noise.FLOW),
}


def sampler_name(scheduler: Any) -> str:
    """What AUTOMATIC1111 and its like call a scheduler of diffusers; else the name of its class."""
    name = type(scheduler).__name__
    found = _SCHEDULERS.get(name, (name.removesuffix("Scheduler"), None))[0]
    if found == "DPM++ 2M" and "sde" in scheduler.config.get("algorithm_type", ""):
        found += " SDE"
    return f"{found} Karras" if scheduler.config.get("use_karras_sigmas") else found


def tells_x0(scheduler: Any) -> bool:
    """Whether the predicted clean latent of a scheduler's steps can be computed."""
    return type(scheduler).__name__ in _SCHEDULERS


@dataclass(frozen=True)
class DenoisingStep:
    """A step that was made: `index` counts calls of the model from 0, of `calls` altogether. A scheduler of second
    order calls it more often than steps were asked for.

    predicted: computes the clean latent, float32 of the sample's shape, scaled as the pipeline scales its latents.
    """

    index: int
    calls: int
    predicted: Predicted


@contextmanager
def watching(scheduler: Any, on_step: Callable[[DenoisingStep], None]) -> Iterator[None]:
    """Call `on_step` after every step that `scheduler` makes inside the block.

    What `on_step` raises ends the denoising there and then. `predicted` is for the duration of the call.
    """
    original = scheduler.step
    signature = inspect.signature(original)
    made = 0

    @functools.wraps(original)  # pipelines ask for its parameters
    def step(*args: Any, **options: Any) -> Any:
        nonlocal made
        given = signature.bind(*args, **options).arguments
        output, timestep, sample = (given[name] for name in ("model_output", "timestep", "sample"))
        level = noise_level(scheduler, timestep)  # before the step moves on
        result = original(*args, **options)
        current, made = made, made + 1
        predicted = functools.partial(_predicted, scheduler, level, timestep, output, sample)
        on_step(DenoisingStep(current, max(len(scheduler.timesteps), made), predicted))
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


@dataclass(frozen=True)
class NoiseLevel:
    """Sample = signal * x0 + noise * e. input_scale: what the model's input was multiplied by on the way in."""

    signal: float
    noise: float
    input_scale: float = 1.0


def noise_level(scheduler: Any, timestep: Any) -> NoiseLevel | None:
    """The noise level of the sample that goes into the next `step`; None for a scheduler that is not known."""
    known = _SCHEDULERS.get(type(scheduler).__name__)
    if known is None:
        return None
    kind = known[1]
    if kind is Noise.ALPHA:
        kept = float(scheduler.alphas_cumprod[int(timestep)])
        return NoiseLevel(kept**0.5, (1.0 - kept) ** 0.5)
    sigma = float(scheduler.sigmas[_step_index(scheduler, timestep)])
    if kind is Noise.FLOW or scheduler.config.get("use_flow_sigmas"):
        return NoiseLevel(1.0 - sigma, sigma)
    shrunk = (1.0 + sigma**2) ** -0.5
    if kind is Noise.VARIANCE_PRESERVING:
        return NoiseLevel(shrunk, sigma * shrunk)
    return NoiseLevel(1.0, sigma, shrunk)


def _step_index(scheduler: Any, timestep: Any) -> int:
    """The index of the step to be made. A scheduler finds its own at the first step only, the same way."""
    if scheduler.step_index is not None:
        return int(scheduler.step_index)
    if scheduler.begin_index is not None:
        return int(scheduler.begin_index)
    return int(scheduler.index_for_timestep(timestep))


def predicted_x0(level: NoiseLevel, prediction: str, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The clean latent that a model's `output` for `sample` means, float32 of their shape.

    prediction: the scheduler's `prediction_type`. Raises ValueError for one that is not known.
    """
    output, sample = output.float(), sample.float()
    if prediction in ("sample", "original_sample"):
        return output
    if prediction == "epsilon":
        return (sample - level.noise * output) / level.signal
    if prediction == "flow_prediction":  # the velocity e - x0 of x = (1 - sigma) x0 + sigma e
        return sample - level.noise * output
    if prediction == "v_prediction":
        # the velocity of the input as the model sees it, scaled to the variance of the data
        signal, noise = level.signal * level.input_scale, level.noise * level.input_scale
        return signal * (sample * level.input_scale) - noise * output
    raise ValueError(f"the scheduler's prediction_type `{prediction}` is not known")


def _predicted(
    scheduler: Any, level: NoiseLevel | None, timestep: Any, output: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    if level is None:
        raise ValueError(f"{type(scheduler).__name__} is not known: what its steps predict cannot be told")
    name, config = type(scheduler).__name__, scheduler.config
    flow = _SCHEDULERS[name][1] is Noise.FLOW
    found = predicted_x0(level, "flow_prediction" if flow else config.prediction_type, output, sample)
    if config.get("thresholding"):
        found = scheduler._threshold_sample(found)
    elif config.get("clip_sample"):
        found = found.clamp(-config.clip_sample_range, config.clip_sample_range)
    if name == "LCMScheduler":  # a consistency model's prediction: Song et al., arXiv:2303.01469, equation 5
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        found = out * found + skip * sample.float()
    return found
