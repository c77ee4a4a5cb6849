"""The predicted clean latent of each scheduler, against the scheduler's own forward process turned round."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from latent_assets.generated.diffusion.denoising import DenoisingStep, sampler_name, tells_x0, watching

# of the schedulers' own code
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STEPS = 8
SHAPE = (2, 4, 4, 4)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# what Stable Diffusion 1.5, 2.1, SDXL, SD3 and distilled models ship with, and what people exchange it for
PNDM = {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {"clip_sample": False}),
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"}),
    ("DDPMScheduler", {"clip_sample": False}),
    ("PNDMScheduler", PNDM),
    ("PNDMScheduler", {**PNDM, "skip_prk_steps": False}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DEISMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("LCMScheduler", {}),
]
FLOWS: list[tuple[str, dict[str, Any]]] = [
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]


def name_of(case: Any) -> str:
    return case if isinstance(case, str) else ",".join(f"{key}={value}" for key, value in case.items()) or "plain"


def run(scheduler: Any, model: Any, steps: int = STEPS) -> tuple[list[torch.Tensor], list[DenoisingStep], torch.Tensor]:
    """Denoise as pipelines do: the predictions, the steps they came with, the last latent."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    predictions: list[torch.Tensor] = []
    made: list[DenoisingStep] = []

    def on_step(step: DenoisingStep) -> None:
        predictions.append(step.predicted())
        made.append(step)

    with watching(scheduler, on_step):
        for timestep in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(model(sample, timestep), timestep, sample, return_dict=False)[0]
    return predictions, made, sample


class Inverse:
    """A model that says anything, and what that means as a clean latent: the forward process turned round.

    How much of image and of noise a sample holds is asked of the scheduler's own `add_noise` or `scale_noise`.
    """

    def __init__(self, scheduler: Any, prediction: str) -> None:
        self.scheduler, self.prediction = scheduler, prediction
        self.samples: list[torch.Tensor] = []
        self.expected: list[torch.Tensor] = []

    def mixture(self, timestep: torch.Tensor) -> tuple[float, float]:
        one, nothing, at = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), timestep.reshape(1)
        if self.prediction == "flow":
            mix = lambda image, noise: self.scheduler.scale_noise(image, at, noise)  # noqa: E731
        else:
            mix = lambda image, noise: self.scheduler.add_noise(image, noise, at)  # noqa: E731
        return float(mix(one, nothing)), float(mix(nothing, one))

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        signal, noise = self.mixture(timestep)
        output = torch.sin(3.0 * sample) + 0.1 * float(timestep) / 1000
        if self.prediction == "epsilon":
            clean = (sample - noise * output) / signal
        elif self.prediction == "v_prediction":
            # v = cos(phi) e - sin(phi) x0 of the sample brought to cos(phi) x0 + sin(phi) e (Salimans and Ho, 2022)
            length = (signal**2 + noise**2) ** 0.5
            cos, sin = signal / length, noise / length
            clean = cos * (sample / length) - sin * output
        else:  # v = e - x0
            clean = sample - noise * output
            assert signal + noise == pytest.approx(1.0)
        self.samples.append(sample)
        self.expected.append(clean)
        return output


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "options"), SCHEDULERS, ids=name_of)
def test_the_prediction_is_the_forward_process_turned_round(
    name: str, options: dict[str, Any], prediction: str
) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, prediction_type=prediction, **options)
    assert tells_x0(scheduler)
    model = Inverse(scheduler, prediction)
    predictions, made, last = run(scheduler, model)
    assert len(predictions) == len(model.expected) >= STEPS
    assert [step.index for step in made] == list(range(made[0].calls)), "as many as were announced"
    for timestep, sample, found, expected in zip(
        scheduler.timesteps, model.samples, predictions, model.expected, strict=True
    ):
        if name == "LCMScheduler":  # scaled to be the identity at t = 0
            at = float(timestep) * 10.0
            skip, out = 0.25 / (at**2 + 0.25), at / (at**2 + 0.25) ** 0.5
            expected = out * expected + skip * sample
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert torch.isfinite(last).all()


@pytest.mark.parametrize(("name", "options"), FLOWS, ids=name_of)
def test_the_prediction_of_a_flow_is_the_end_of_its_straight_line(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**options)
    assert tells_x0(scheduler)
    model = Inverse(scheduler, "flow")
    predictions, _, last = run(scheduler, model)
    for found, expected in zip(predictions, model.expected, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if name == "FlowMatchEulerDiscreteScheduler":
        torch.testing.assert_close(predictions[-1], last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "options"), SCHEDULERS, ids=name_of)
def test_it_is_what_the_scheduler_says_itself_where_it_does(
    name: str, options: dict[str, Any], prediction: str
) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, prediction_type=prediction, **options)
    scheduler.set_timesteps(STEPS)
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    predictions: list[torch.Tensor] = []
    with watching(scheduler, lambda step: predictions.append(step.predicted())):
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(sample, timestep)
            stepped = scheduler.step(torch.cos(sample), timestep, sample)
            said = getattr(stepped, "pred_original_sample", getattr(stepped, "denoised", None))
            if name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
                said = scheduler.model_outputs[-1]
            if said is not None:
                torch.testing.assert_close(predictions[-1], said, rtol=2e-3, atol=2e-3)
            sample = stepped.prev_sample
    assert len(predictions) == len(scheduler.timesteps)


def test_pictures_that_are_clipped_are_clipped() -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, prediction_type="epsilon", clip_sample=True)
    predictions, _, _ = run(scheduler, lambda sample, timestep: torch.cos(sample))
    assert all(float(found.abs().max()) <= 1.0 for found in predictions)
    assert any(float(found.abs().max()) == 1.0 for found in predictions)


@pytest.mark.parametrize(
    ("name", "options", "calls"),
    [
        ("DDIMScheduler", {}, STEPS),
        ("PNDMScheduler", PNDM, STEPS + 1),
        ("HeunDiscreteScheduler", {}, 2 * STEPS - 1),
    ],
)
def test_it_counts_the_calls_of_the_model(name: str, options: dict[str, Any], calls: int) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, **options)
    _, made, _ = run(scheduler, lambda sample, timestep: sample * 0.1)
    assert [(step.index, step.calls) for step in made] == [(index, calls) for index in range(calls)]


@pytest.mark.parametrize(("name", "options"), SCHEDULERS[:4], ids=name_of)
def test_watching_changes_nothing_and_leaves_nothing(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, **options)
    step = scheduler.step
    torch.manual_seed(0)
    watched = run(scheduler, lambda sample, timestep: sample * 0.1)[2]
    assert scheduler.step == step and "step" not in vars(scheduler)
    scheduler.set_timesteps(STEPS)
    torch.manual_seed(0)
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(sample * 0.1, timestep, sample, return_dict=False)[0]
    assert torch.equal(watched, sample)


def test_what_a_listener_raises_ends_the_denoising_and_leaves_nothing() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
    seen = []

    def stop(step: DenoisingStep) -> None:
        seen.append(step.index)
        if step.index == 2:
            raise KeyboardInterrupt

    scheduler.set_timesteps(STEPS)
    sample = torch.zeros(SHAPE)
    with pytest.raises(KeyboardInterrupt), watching(scheduler, stop):
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(sample, timestep, sample, return_dict=False)[0]
    assert seen == [0, 1, 2] and "step" not in vars(scheduler)


def test_a_scheduler_that_is_not_known_tells_nothing_rather_than_something_wrong() -> None:
    scheduler = diffusers.KDPM2DiscreteScheduler(**BETAS)
    assert not tells_x0(scheduler)
    scheduler.set_timesteps(STEPS)
    sample, timestep = torch.zeros(SHAPE), scheduler.timesteps[0]

    def on_step(step: DenoisingStep) -> None:
        with pytest.raises(ValueError, match="KDPM2DiscreteScheduler is not known"):
            step.predicted()

    with watching(scheduler, on_step):
        scheduler.scale_model_input(sample, timestep)
        scheduler.step(sample, timestep, sample)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("PNDMScheduler", {}, "PLMS"),
        ("EulerAncestralDiscreteScheduler", {}, "Euler a"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPM++ 2M Karras"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE"),
        ("FlowMatchEulerDiscreteScheduler", {}, "Euler"),
        ("KDPM2DiscreteScheduler", {}, "KDPM2Discrete"),
    ],
)
def test_samplers_have_the_names_that_people_know(name: str, options: dict[str, Any], said: str) -> None:
    assert sampler_name(getattr(diffusers, name)(**options)) == said
