"""Latents of each family of pipelines: decoded as the pipeline does, and whose space they are in."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from latent_assets.errors import ModelError, QueryError
from latent_assets.generated.diffusion.denoising import DenoisingStep, watching
from latent_assets.generated.diffusion.latents import decode, decodes, same_space
from latent_assets.generated.diffusion.pipeline import TextToImage, load_text_to_image
from latent_assets.generated.diffusion.request import GenerationRequest
from latent_assets.models.vae import load_vae
from latent_assets.profile import DiffusionModel, VaeModel
from latent_assets_tests.generated.diffusion.small_pipelines import SIZE, write_pipeline

FAMILIES = ["sd", "sdxl", "sd3", "flux"]
CLASSES = {
    "sd": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        write_pipeline(folder / family, family)
    return folder


@pytest.fixture(params=FAMILIES)
def drawing(request: pytest.FixtureRequest, folders: Path) -> TextToImage:
    found = load_text_to_image(DiffusionModel(model=str(folders / request.param), size=SIZE, steps=4, guidance=3.0))
    assert type(found.pipeline).__name__ == CLASSES[request.param], "diffusers chose the class"
    return found


def test_the_last_prediction_decodes_to_the_picture_of_the_pipeline(drawing: TextToImage) -> None:
    request = GenerationRequest.of(drawing.spec, "a red apple", seed=1)
    plain = drawing.draw(request)
    steps: list[torch.Tensor] = []
    with watching(drawing.pipeline.scheduler, lambda step: steps.append(step.predicted().clone())):
        watched = drawing.draw(request)
    assert plain.size == (SIZE, SIZE) and plain.tobytes() == watched.tobytes(), "watching changes nothing"
    assert decodes(drawing.pipeline)
    before = [step.clone() for step in steps]
    pictures = decode(drawing.pipeline, torch.cat(steps), SIZE)
    assert [picture.size for picture in pictures] == [(SIZE, SIZE)] * len(steps)
    assert all(torch.equal(left, right) for left, right in zip(steps, before, strict=True)), "decoding copies"
    difference = np.abs(np.asarray(pictures[-1], np.int16) - np.asarray(plain, np.int16))
    # PNDM's last latent is a mixture of its predictions, for `set_alpha_to_one=False` with some noise left
    assert difference.max() <= (1 if type(drawing.pipeline.scheduler).__name__ != "PNDMScheduler" else 12)
    first = np.abs(np.asarray(pictures[0], np.int16) - np.asarray(plain, np.int16))
    assert first.max() > difference.max(), "the first prediction is another picture"


def test_a_negative_prompt_matters_in_every_family(drawing: TextToImage) -> None:
    plain = drawing.draw(GenerationRequest.of(drawing.spec, "a red apple", seed=1))
    negative = drawing.draw(GenerationRequest.of(drawing.spec, "a red apple", seed=1, negative="green pears"))
    assert plain.tobytes() != negative.tobytes()


def test_a_prompt_that_is_cut_is_told(drawing: TextToImage) -> None:
    assert not drawing.is_cut("a red apple")
    assert drawing.is_cut("a red apple on a table " * 20)
    assert drawing.draw(GenerationRequest.of(drawing.spec, "a red apple " * 300, steps=1, seed=1)).size == (SIZE, SIZE)


def test_latents_are_of_one_space_when_the_encoders_are_the_same(folders: Path, tmp_path: Path) -> None:
    load = diffusers.StableDiffusionPipeline.from_pretrained
    pipeline = load(folders / "sd", safety_checker=None)
    encoder = load_vae(VaeModel(model=str(folders / "sd" / "vae"), size=SIZE, feature_dim=16))
    assert same_space(pipeline, encoder)
    # another decoder and half precision are the same space still, as with sd-vae-ft-mse
    half = diffusers.AutoencoderKL.from_pretrained(folders / "sd" / "vae", torch_dtype=torch.float16)
    with torch.no_grad():
        half.decoder.conv_in.weight.add_(1.0)
    half.save_pretrained(tmp_path / "half")
    assert same_space(pipeline, load_vae(VaeModel(model=str(tmp_path / "half"), size=SIZE, feature_dim=16)))
    # another scale, other weights, other channels are not
    pipeline.vae.register_to_config(scaling_factor=0.13025)
    assert not same_space(pipeline, encoder)
    assert not same_space(load(folders / "sd", vae=_changed(folders), safety_checker=None), encoder)
    spec = DiffusionModel(model=str(folders / "sd3"), size=SIZE)
    assert not same_space(load_text_to_image(spec).pipeline, encoder)


def _changed(folders: Path) -> diffusers.AutoencoderKL:
    vae = diffusers.AutoencoderKL.from_pretrained(folders / "sd" / "vae")
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1.2)
    return vae


def test_a_pipeline_that_takes_no_negative_prompt_says_so(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = load_text_to_image(DiffusionModel(model=str(folders / "sd"), size=SIZE, steps=2))
    monkeypatch.setattr(type(drawing.pipeline), "__call__", lambda self, prompt: None)
    fresh = TextToImage(drawing.pipeline, drawing.spec, drawing.files)
    with pytest.raises(QueryError, match="takes no negative prompt: leave it out"):
        fresh.draw(GenerationRequest.of(drawing.spec, "x", negative="y"))


def test_what_the_scheduler_cannot_do_is_explained(folders: Path) -> None:
    drawing = load_text_to_image(DiffusionModel(model=str(folders / "sd"), size=SIZE + 4, steps=2))
    with pytest.raises(ModelError, match=r"cannot draw with 2 steps at 36 px: .*divisible by 8.*models.diffusion.size"):
        drawing.draw(GenerationRequest.of(drawing.spec, "x"))


def test_the_pipeline_is_whole_after_a_drawing_that_was_stopped(folders: Path) -> None:
    drawing = load_text_to_image(DiffusionModel(model=str(folders / "sd"), size=SIZE, steps=6))
    request = GenerationRequest.of(drawing.spec, "a red apple", seed=3)
    whole = drawing.draw(request)

    def stop(step: DenoisingStep) -> None:
        if step.index == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError), watching(drawing.pipeline.scheduler, stop):
        drawing.draw(request)
    assert drawing.draw(request).tobytes() == whole.tobytes()
