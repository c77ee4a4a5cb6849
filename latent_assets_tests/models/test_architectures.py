"""One model of each family at its real architecture, with random weights: it works, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform_v2
from safetensors.torch import save_file

from latent_assets.errors import ModelError, ProfileError
from latent_assets.models.clip import load_clip
from latent_assets.models.text_tower import TextTower, load_text_encoder
from latent_assets.models.vae import load_vae
from latent_assets.models.weights import clip_config, clip_files
from latent_assets.profile import ClipModel, VaeModel
from latent_assets_tests.models.test_clip import photograph
from latent_assets_tests.small_models import clip_vectors

TEXTS = ["hot drink", "It's a dog's &amp; cat's life, isn't it? 12", "a " * 200, "", "日本語のキャプション 🎈"]


@pytest.fixture
def random_clip(tmp_path: Path, request: pytest.FixtureRequest) -> ClipModel:
    """Weights of a named architecture, as a file."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = open_clip.create_model(request.param, pretrained_text=False)
        state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "random.safetensors")
    return ClipModel(name=request.param, pretrained=str(tmp_path / "random.safetensors"), dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("random_clip", "width", "own_text"),
    [
        ("ViT-B-32", 512, True),
        ("ViT-B-32-quickgelu", 512, True),
        ("MobileCLIP2-S0", 512, True),
        ("EVA02-B-16", 512, True),
        ("PE-Core-T-16-384", 512, True),
        ("ViT-B-16-SigLIP", 768, False),
        ("coca_ViT-B-32", 512, False),
    ],
    indirect=["random_clip"],
)
def test_a_clip_of_each_family_sees_what_open_clip_shows_it(random_clip: ClipModel, width: int, own_text: bool) -> None:
    encoder = load_clip(random_clip)
    images = [photograph(0, (400, 300)), photograph(1, (224, 500))]
    vectors = clip_vectors(encoder, images)
    transform = image_transform_v2(encoder.preprocess, is_train=False)
    with torch.inference_mode():
        theirs = encoder.model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
    assert vectors.shape == (2, width) and (theirs.numpy() * vectors).sum(axis=1).min() >= 0.9999
    if not own_text:
        return
    tower = load_text_encoder(random_clip)
    assert isinstance(tower, TextTower)
    np.testing.assert_allclose(tower.encode_text(TEXTS), encoder.encode_text(TEXTS), atol=2e-5)


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
def test_images_become_squares_as_open_clips_transforms_make_them(mode: str) -> None:
    from PIL import Image

    from latent_assets.models.preprocessing import squared

    cfg = open_clip.transform.PreprocessCfg(
        size=64, resize_mode=mode, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1), fill_color=127
    )
    for size in ((640, 427), (100, 301), (64, 64)):
        image = photograph(3, size)
        theirs = image_transform_v2(cfg, is_train=False)(image).permute(1, 2, 0).numpy() * 255
        ours = squared(image, 64, mode, Image.Resampling.BILINEAR, 127)
        assert np.abs(theirs - ours).max() < 1.01, size


def test_weights_trained_with_quick_gelu_get_it_whatever_the_model_is_called() -> None:
    assert clip_config(ClipModel(name="ViT-L-14", pretrained="openai"))["quick_gelu"] is True
    assert clip_config(ClipModel(name="ViT-B-32", pretrained="datacomp_xl_s13b_b90k"))["quick_gelu"] is False


def test_a_model_whose_vectors_were_wrong_before_is_another_model(tmp_path: Path) -> None:
    from latent_assets.models.weights import _corrected

    assert _corrected(ClipModel(name="ViT-L-14", pretrained="openai")) == "/quick_gelu"
    assert _corrected(ClipModel(name="ViT-L-14-quickgelu", pretrained="openai")) == ""
    assert _corrected(ClipModel(name="ViT-B-32", pretrained="datacomp_xl_s13b_b90k")) == ""
    assert _corrected(ClipModel(name="ViT-B-16-SigLIP", pretrained="webli")) == "/squash"


def test_a_tokenizer_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from latent_assets.models import clip

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("LATENT_ASSETS_MODELS", str(tmp_path))
    spec = ClipModel(name="ViT-B-32-SigLIP2-256", pretrained="webli")
    with pytest.raises(ModelError, match=r"vocabulary of ViT-B-32-SigLIP2-256 \(`timm/.*models fetch"):
        clip._tokenizer(spec, clip_config(ClipModel(name=spec.name, pretrained=__file__))["text_cfg"])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file({"logit_scale": torch.zeros(1)}, tmp_path / "other.safetensors")
    spec = ClipModel(name="ViT-S-32-alt", pretrained=str(tmp_path / "other.safetensors"), dtype="float32")
    assert clip_files(spec).files == 1
    with pytest.raises(ModelError, match=r"open_clip cannot load ViT-S-32-alt .*RuntimeError"):
        load_clip(spec)


# -- autoencoders --------------------------------------------------------------------------------------

_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
_DC = {
    "latent_channels": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3] * 6,
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "scaling_factor": 0.41407,
}
_SD3 = {**_KL, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config", "shape", "feature_dim"),
    [
        ("AutoencoderKL", {**_KL, "scaling_factor": 0.13025, "force_upcast": True}, (4, 16, 16), 64),  # SDXL
        ("AutoencoderKL", {**_SD3, "scaling_factor": 1.5305, "shift_factor": 0.0609}, (16, 16, 16), 256),  # SD3
        ("AutoencoderKL", {**_SD3, "scaling_factor": 0.3611, "shift_factor": 0.1159}, (16, 16, 16), 256),  # FLUX
        ("AutoencoderDC", _DC, (32, 4, 4), 128),
        ("AutoencoderTiny", {}, (4, 16, 16), 64),
        ("VQModel", {"latent_channels": 4, "block_out_channels": [64]}, (4, 128, 128), 64),
    ],
)
def test_an_autoencoder_of_each_family(
    tmp_path: Path, kind: str, config: dict[str, Any], shape: tuple[int, int, int], feature_dim: int
) -> None:
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**config).eval()
    model.half().save_pretrained(tmp_path)
    spec = VaeModel(model=str(tmp_path), size=128, feature_dim=feature_dim, dtype="float32")
    encoder = load_vae(spec)
    assert encoder.latent_shape == shape and not hasattr(encoder.model, "decoder")
    pixels = torch.from_numpy(encoder.pixels(photograph(0, (180, 130))).copy())[None]
    latents = encoder.encode_pixels(pixels)
    with torch.inference_mode():
        found = model.float().encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    raw = found.latent_dist.mean if hasattr(found, "latent_dist") else getattr(found, "latents", None)
    raw = found.latent if raw is None else raw
    expected = (raw - (config.get("shift_factor") or 0)) * float(model.config.get("scaling_factor") or 1)
    torch.testing.assert_close(latents, expected, atol=2e-3, rtol=2e-3)
    assert [feature.shape[1] for feature in encoder.features(latents)] == [feature_dim] * 2
    if config.get("force_upcast"):
        with pytest.raises(ModelError, match="overflows in float16"):
            load_vae(spec.model_copy(update={"dtype": "float16"}))


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("AutoencoderKLWan", "is for videos, sounds or other sizes"),
        ("AutoencoderOobleck", "is for videos, sounds or other sizes"),
        ("UNet2DConditionModel", "does not encode images"),
        ("AutoencoderOfTomorrow", "does not have"),
    ],
)
def test_what_is_no_autoencoder_of_images_is_refused_with_the_reason(tmp_path: Path, named: str, why: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": named}))
    save_file({"x": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match=rf"{named}.*{why}"):
        load_vae(VaeModel(model=str(tmp_path), size=64, feature_dim=64, dtype="float32"))


def test_a_size_that_the_model_does_not_divide_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC", **_DC}))
    save_file({"x": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ProfileError, match=r"models\.vae\.size: 72 is not a multiple of 32"):
        load_vae(VaeModel(model=str(tmp_path), size=72, feature_dim=128, dtype="float32"))
