"""CLIP: the pixels and vectors are open_clip's own, and wrong files are refused."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from latent_assets.errors import ModelError
from latent_assets.images.decode.image import decode_image
from latent_assets.models.clip import load_clip
from latent_assets.models.weights import clip_files
from latent_assets.profile import ClipModel
from latent_assets_tests.conftest import drawing
from latent_assets_tests.small_models import clip_vectors, write_clip


def spec_of(values: dict[str, Any]) -> ClipModel:
    return ClipModel(**values)


def photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth noise at two scales: resampling differences show in it, as they do in photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(coarse, fine, 0.15)


@pytest.mark.parametrize("size", [(96, 96), (101, 57), (40, 200), (33, 32), (32, 32), (640, 427), (20, 11)])
def test_vectors_equal_those_of_open_clips_own_transform(small_models: dict[str, Any], size: tuple[int, int]) -> None:
    encoder = load_clip(spec_of(small_models["clip"]))
    transform = image_transform_v2(encoder.preprocess, is_train=False)
    images = [photograph(seed, size) for seed in range(8)]
    with torch.inference_mode():
        theirs = encoder.model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
    ours = clip_vectors(encoder, images)
    assert (theirs.numpy() * ours).sum(axis=1).min() >= 0.9999
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_transparent_and_palette_images_are_laid_on_white(small_models: dict[str, Any]) -> None:
    encoder = load_clip(spec_of(small_models["clip"]))
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    palette = photograph(1, (64, 64)).quantize(256)

    def shown(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return decode_image(buffer.getvalue())

    assert np.allclose(clip_vectors(encoder, [shown(clear)]), clip_vectors(encoder, [white]), atol=1e-6)
    assert shown(palette).mode == "RGB"


def test_a_rows_vector_does_not_depend_on_its_company(small_models: dict[str, Any]) -> None:
    encoder = load_clip(spec_of(small_models["clip"]))
    images = [decode_image(drawing(seed)) for seed in range(9)]
    together = clip_vectors(encoder, images)
    alone = np.concatenate([clip_vectors(encoder, [image]) for image in images])
    assert np.allclose(together, alone, atol=1e-5)


def test_text_is_cut_at_the_context_length(small_models: dict[str, Any]) -> None:
    encoder = load_clip(spec_of(small_models["clip"]))
    long = encoder.encode_text(["word " * 5000, "日本語のキャプション 🎈", ""])
    assert long.shape == (3, 32) and np.isfinite(long).all()


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    values = write_clip(tmp_path)
    state = load_file(values["weights"])
    state.pop("visual.proj")
    save_file(state, values["weights"])
    with pytest.raises(ModelError, match=r"does not fit.*visual\.proj"):
        load_clip(spec_of(values))


def test_a_text_tower_from_elsewhere_must_be_named(tmp_path: Path) -> None:
    values = write_clip(tmp_path)
    config = json.loads(Path(values["config"]).read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "some/encoder", "context_length": 16}
    Path(values["config"]).write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"models\.clip\.text_encoder"):
        load_clip(spec_of(values))


def test_digest_is_of_the_content_not_the_place(tmp_path: Path) -> None:
    first, second = write_clip(tmp_path / "a", seed=1), write_clip(tmp_path / "b", seed=1)
    assert clip_files(spec_of(first)).digest == clip_files(spec_of(second)).digest
    assert clip_files(spec_of(write_clip(tmp_path / "c", seed=2))).digest != clip_files(spec_of(first)).digest


def test_missing_files_and_unknown_tags_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models\.clip\.config: .*nowhere\.json is not there"):
        clip_files(ClipModel(config=str(tmp_path / "nowhere.json"), weights="x"))
    with pytest.raises(ModelError, match=r"no weights `laion99` for ViT-B-32. It has: .*openai"):
        clip_files(ClipModel(name="ViT-B-32", pretrained="laion99"))


@pytest.mark.slow
def test_vit_l_14_loads_and_encodes(tmp_path: Path) -> None:
    """The real architecture with random weights: the named loading path, its preprocessing and shapes."""
    torch.manual_seed(0)
    weights = tmp_path / "random.safetensors"
    with torch.no_grad():
        model = open_clip.create_model("ViT-L-14", precision="fp32")
        save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, weights)
    del model
    encoder = load_clip(ClipModel(name="ViT-L-14", pretrained=str(weights), dtype="float32"))
    assert encoder.size == 224 and encoder.pixels(photograph(0, (400, 300))).shape == (224, 224, 3)
    vectors = clip_vectors(encoder, [photograph(0, (400, 300)), photograph(1, (224, 500))])
    assert vectors.shape == (2, 768) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.encode_text(["a photograph of a cat"]).shape == (1, 768)
    transform = image_transform_v2(encoder.preprocess, is_train=False)
    with torch.inference_mode():
        theirs = encoder.model.encode_image(transform(photograph(0, (400, 300)))[None], normalize=True).numpy()
    assert float((theirs[0] * vectors[0]).sum()) >= 0.9999


def test_only_what_is_loaded_counts_for_the_digest(tmp_path: Path) -> None:
    from latent_assets.models.weights import vae_files
    from latent_assets.profile import VaeModel
    from latent_assets_tests.small_models import write_vae

    spec = VaeModel(**write_vae(tmp_path / "vae"))  # type: ignore[arg-type]
    before = vae_files(spec).digest
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"another format of the same weights")
    (tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"and another")
    (tmp_path / "vae" / "sample.png").write_bytes(b"a picture")
    assert vae_files(spec).digest == before
    (tmp_path / "vae" / "config.json").write_text((tmp_path / "vae" / "config.json").read_text().replace("0.5", "0.6"))
    assert vae_files(spec).digest != before


def test_a_sliver_of_an_image_stays_small(small_models: dict[str, Any]) -> None:
    encoder = load_clip(spec_of(small_models["clip"]))
    sliver = Image.new("RGB", (3, 30_000), (10, 20, 30))
    assert encoder.pixels(sliver).shape == (32, 32, 3)
