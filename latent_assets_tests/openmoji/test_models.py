"""The shipped demo models: they load with their own libraries and reach the figures their cards state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.training import evaluate
from infra.training.shipped import (
    CLIP,
    CLIP_CONFIG,
    CLIP_WEIGHTS,
    DIFFUSION,
    MODELS,
    VAE,
    load_clip,
    load_open_clip,
    load_pipeline,
    load_vae,
    text_encoder_directory,
)
from latent_assets.errors import ModelError


def test_the_shipped_models_fit_in_forty_megabytes() -> None:
    size = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert size <= 40_000_000, f"{size:,} bytes"


@pytest.mark.parametrize("directory", [VAE, CLIP, DIFFUSION], ids=lambda path: path.name)
def test_weights_are_half_precision_and_have_a_card(directory: Path) -> None:
    from safetensors import safe_open

    files = list(directory.rglob("*.safetensors"))
    assert len(files) == 1
    with safe_open(files[0], "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
    card = (directory / "README.md").read_text("utf-8")
    for heading in ("## Data and licence", "## Recipe", "## Figures", "## Limits"):
        assert heading in card
    assert "CC BY-SA 4.0" in card


@pytest.mark.slow
def test_vae_reconstructs_the_data_set() -> None:
    vae = load_vae()
    assert (vae.config.latent_channels, vae.config.sample_size) == (4, 64)
    figures = evaluate.evaluate_vae()
    assert figures.pictures == 3953
    assert figures.psnr_mean >= 26
    assert 0.97 <= figures.latent_std_scaled <= 1.03, "scaling_factor is 1 / std of the latents"


@pytest.mark.slow
def test_clip_finds_pictures_by_caption_and_by_everyday_word() -> None:
    figures = evaluate.evaluate_clip()
    assert figures.recall_at_10 >= 0.85
    assert figures.category_share >= 0.75
    assert figures.queries == 60
    assert figures.queries_found >= 48, figures.missed


def test_clip_vectors_follow_the_text_only_through_the_shipped_projection() -> None:
    import torch

    model, preprocess, tokenizer = load_clip()
    picture = evaluate._pictures()[0]
    with torch.no_grad():
        image = model.encode_image(preprocess(picture).unsqueeze(0), normalize=True)
        text = model.encode_text(tokenizer(["Red Heart", "red heart"]), normalize=True)
    assert image.shape == (1, 384) and text.shape == (2, 384)
    assert torch.allclose(image.norm(dim=-1), torch.ones(1), atol=1e-5)
    assert torch.allclose(text[0], text[1]), "the encoder does not tell case apart"


def test_a_search_without_its_padding_has_the_vector_of_the_whole_context() -> None:
    import numpy as np
    import torch

    from latent_assets.models.clip import load_clip as load_encoder
    from latent_assets.profile import load_profile

    encoder = load_encoder(load_profile("demo").models.clip, torch.device("cpu"))
    texts = ["sad face", "a red apple on a green tree beside the house", "x", "word " * 200, ""]
    with torch.inference_mode():
        whole = encoder.model.encode_text(encoder.tokenizer(texts), normalize=True).float().numpy()  # type: ignore[operator]
    seen: list[int] = []
    handle = encoder.model.text.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))  # type: ignore[union-attr]
    try:
        alone = np.concatenate([encoder.encode_text([text]) for text in texts])
    finally:
        handle.remove()
    assert np.abs(encoder.encode_text(texts) - whole).max() < 1e-5 and np.abs(alone - whole).max() < 1e-5
    assert seen[0] == 4 and seen[3] == 48


def test_clip_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(CLIP_WEIGHTS)
    weights.pop("text.proj.weight")
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(ModelError, match=r"text\.proj\.weight"):
        load_open_clip(CLIP_CONFIG, tmp_path / "short.safetensors", text_encoder_directory())


def test_the_pipeline_is_diffusers_own_and_draws(capsys: pytest.CaptureFixture[str]) -> None:
    import time

    import diffusers
    import numpy as np
    import torch

    pipeline = load_pipeline()
    assert type(pipeline) is diffusers.StableDiffusionPipeline
    assert json.loads((DIFFUSION / "model_index.json").read_text("utf-8"))["_class_name"] == type(pipeline).__name__
    began = time.perf_counter()

    def draw(prompt: str) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        return np.asarray(pipeline(prompt, num_inference_steps=20, generator=generator).images[0])

    apple, again, ball = draw("red apple"), draw("red apple"), draw("soccer ball")
    with capsys.disabled():
        print(f"\n{(time.perf_counter() - began) / 3:.2f} s per generated picture")  # noqa: T201
    assert apple.shape == (64, 64, 3)
    assert (apple == again).all(), "same seed, same picture"
    assert np.abs(apple.astype(int) - ball.astype(int)).mean() > 5, "the prompt matters"
    assert apple[:4, :4].mean() > 230, "the background is white"


@pytest.mark.slow
def test_generated_pictures_land_in_their_category() -> None:
    figures = evaluate.evaluate_diffusion()
    assert figures.prompts == 100
    assert figures.majority_right >= 60, figures.wrong
