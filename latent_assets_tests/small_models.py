"""Small models with random weights, written to disk in the real formats: for tests of what surrounds a model."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from latent_assets.models.clip import ClipEncoder

CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def write_clip(folder: Path, seed: int = 0) -> dict[str, str]:
    """Write a CLIP of 1 layer and 32 dimensions; returns the keys of [models.clip]."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CLIP_CONFIG["model_cfg"])  # type: ignore[arg-type]
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG))
    return {"config": str(folder / "open_clip_config.json"), "weights": str(folder / "model.safetensors")}


def clip_vectors(encoder: ClipEncoder, images: Sequence[Image.Image]) -> np.ndarray:
    """float32 [n, d] of RGB images, as the model gives them: stored ones are float16."""
    batch = torch.from_numpy(np.stack([encoder.pixels(image) for image in images]))
    return encoder.encode_pixels(batch).numpy()


def write_vae(folder: Path, seed: int = 0) -> dict[str, object]:
    """Write an AutoencoderKL of factor 8 with 4 latent channels for 32 px; returns the keys of [models.vae]."""
    torch.manual_seed(seed)
    blocks = 4
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        block_out_channels=[8] * blocks,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    )
    model.save_pretrained(folder)
    return {"model": str(folder), "size": 32, "feature_dim": 16}
