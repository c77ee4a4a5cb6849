"""The text-to-image pipeline of a profile, through diffusers. What becomes of its images is not decided here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from latent_assets.errors import ModelError
from latent_assets.models.device import best_device, dtype_on
from latent_assets.models.weights import diffusion_files, model_directory, quiet_loading
from latent_assets.profile import DiffusionModel


def load_pipeline(spec: DiffusionModel, device: torch.device | None = None) -> StableDiffusionPipeline:
    """Load the pipeline of a profile, once per process and weights. Raises ModelError when it cannot be loaded.

    A `text_encoder` (a Hugging Face encoder and its tokenizer) and a `vae` of the profile replace the
    pipeline's own components.
    """
    return _load(spec, device or best_device(), diffusion_files(spec).digest)


@lru_cache(maxsize=1)
def _load(spec: DiffusionModel, device: torch.device, digest: str) -> StableDiffusionPipeline:
    """`digest` is part of the cache's key: weights that changed on disk are another model."""
    dtype = dtype_on(device, spec.dtype, torch.float16)
    folder = model_directory(spec.model, "models.diffusion.model")
    components: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    try:
        with quiet_loading():
            if spec.vae:
                components["vae"] = AutoencoderKL.from_pretrained(model_directory(spec.vae, "models.diffusion.vae"))
            if spec.text_encoder:
                components |= _text_components(spec)
            pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, **components)
    except (OSError, ValueError) as error:
        raise ModelError(f"models.diffusion.model: {spec.model} is not a Stable Diffusion pipeline: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device=device, dtype=dtype)


def _text_components(spec: DiffusionModel) -> dict[str, Any]:
    from transformers import AutoModel, AutoTokenizer

    assert spec.text_encoder is not None
    folder = model_directory(spec.text_encoder, "models.diffusion.text_encoder")
    encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    # the pipeline hands its tokenizer's mask on only when the encoder's configuration says so
    encoder.config.use_attention_mask = True
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = spec.text_length
    return {"text_encoder": encoder.eval(), "tokenizer": tokenizer}


def generate(spec: DiffusionModel, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """One image per prompt, each from its own seed: the same prompt and seed give the same start noise."""
    pipeline = load_pipeline(spec)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    result = pipeline(
        prompt=list(prompts),
        height=spec.size,
        width=spec.size,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance,
        generator=generators,
    )
    return list(result.images)
