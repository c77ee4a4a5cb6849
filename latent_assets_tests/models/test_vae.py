"""The VAE: crops in [-1, 1], the distribution's mean times the model's own factor, and its map features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from latent_assets.errors import ModelError, ProfileError
from latent_assets.images.decode.image import decode_image
from latent_assets.models.vae import load_vae
from latent_assets.models.weights import vae_files
from latent_assets.profile import VaeModel
from latent_assets_tests.conftest import drawing
from latent_assets_tests.models.test_clip import photograph


def pixels_of(encoder: Any, seeds: range) -> torch.Tensor:
    return torch.from_numpy(np.stack([encoder.pixels(decode_image(drawing(seed))) for seed in seeds]))


def test_latents_are_the_scaled_mean_of_a_centre_crop(small_models: dict[str, Any]) -> None:
    spec = VaeModel(**small_models["vae"])
    encoder = load_vae(spec)
    pixels = pixels_of(encoder, range(4))
    assert pixels.shape == (4, 32, 32, 3)
    reference = AutoencoderKL.from_pretrained(spec.model).eval()
    with torch.inference_mode():
        mean = reference.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    assert torch.allclose(encoder.encode_pixels(pixels), mean * 0.5, atol=1e-5)
    assert encoder.latent_shape == (4, 4, 4)


def test_features_are_pooled_latents_and_a_fixed_random_projection(small_models: dict[str, Any]) -> None:
    encoder = load_vae(VaeModel(**small_models["vae"]))
    latents = torch.arange(2 * 64, dtype=torch.float32).reshape(2, 4, 4, 4)
    pooled, random = encoder.features(latents)
    assert pooled.shape == random.shape == (2, 16)
    assert pooled[0, 0] == latents[0, 0, :2, :2].mean()
    # Johnson-Lindenstrauss: distances are kept on average
    many = torch.randn(200, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    ratio = encoder.features(many)[1].pow(2).sum(1) / many.flatten(1).pow(2).sum(1)
    assert 0.8 < float(ratio.mean()) < 1.2
    assert float(random[0, 0]) == pytest.approx(float(latents[0].flatten() @ encoder._projection[:, 0]))


def test_a_feature_length_that_does_not_fit_names_those_that_do(small_models: dict[str, Any]) -> None:
    with pytest.raises(ProfileError, match=r"models\.vae\.feature_dim: 20.*4, 16, 64"):
        vae_files(VaeModel(**{**small_models["vae"], "feature_dim": 20}))


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"models\.vae\.model: .* holds no weights"):
        load_vae(VaeModel(model=str(tmp_path)))


@pytest.mark.slow
def test_stable_diffusions_autoencoder_at_512(tmp_path: Path) -> None:
    """The architecture of stabilityai/sd-vae-ft-mse with random weights: loading, shapes and scaling."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=256,
    )
    assert sum(value.numel() for value in model.parameters()) == 83_653_863, "the size of Stable Diffusion's own"
    model.save_pretrained(tmp_path)
    encoder = load_vae(VaeModel(model=str(tmp_path), size=512, feature_dim=256, dtype="float32"))
    assert encoder.latent_shape == (4, 64, 64)
    pixels = torch.from_numpy(encoder.pixels(photograph(0, (700, 520))).copy())[None]
    assert pixels.shape == (1, 512, 512, 3)
    latents = encoder.encode_pixels(pixels)
    with torch.inference_mode():
        mean = model.eval().encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    assert latents.shape == (1, 4, 64, 64)
    assert torch.allclose(latents, mean * 0.18215, atol=1e-4), "Stable Diffusion's scaling factor"
    assert [feature.shape for feature in encoder.features(latents)] == [(1, 256), (1, 256)]
