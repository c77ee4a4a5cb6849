"""Latents of rows, walks between them and between prompts, and what a place of a map stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError
from latent_assets.generated.diffusion.generate import ImageGenerator
from latent_assets.generated.diffusion.latents import slerp
from latent_assets.generated.diffusion.pipeline import load_text_to_image
from latent_assets.generated.diffusion.request import GenerationRequest
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.generated.synthesis.places import AROUND, Places, what_is_here
from latent_assets.generated.synthesis.walks import Synthesizer, WalkCancelledError, shares
from latent_assets.images.decode.image import decode_image
from latent_assets.layout import EMBEDDINGS
from latent_assets.models.vae import load_vae, load_vae_decoder
from latent_assets.storage import Storage
from latent_assets_tests.conftest import Built
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline


@pytest.fixture(scope="module")
def synthesizer(built: Built) -> Synthesizer:
    storage = Storage(built.profile.root)
    return Synthesizer(storage, ImagePlacer.open(storage))


@pytest.fixture(scope="module")
def ids(built: Built) -> list[str]:
    return list(Atlas.open(built.profile.root).to_polars(["id"])["id"])


def test_stored_latents_are_those_of_the_images(built: Built, synthesizer: Synthesizer, ids: list[str]) -> None:
    chosen = [ids[40], ids[3], ids[40]]  # of several shards, in any order, one twice
    latents = synthesizer.stored.of(chosen)
    assert latents.dtype == np.float32 and np.array_equal(latents[0], latents[2])
    atlas = Atlas.open(built.profile.root)
    for row_id, found in zip(chosen, latents, strict=True):
        name = atlas.row(row_id).url.rpartition("/")[2]
        own = synthesizer.latents_of(decode_image(built.gallery.files[name]))
        assert np.allclose(own, found, atol=5e-3), "float16 is kept"


def test_what_is_not_kept_is_said(built: Built, ids: list[str], tmp_path: Path) -> None:
    shutil.copytree(built.profile.root, tmp_path / "root")
    storage = Storage(str(tmp_path / "root"))
    synthesizer = Synthesizer(storage, ImagePlacer.open(storage))
    with pytest.raises(NotBuiltError, match="no row 0000"):
        synthesizer.stored.of(["0" * 32])
    # files of another model are not those of the release, whatever they are called
    for file in (tmp_path / "root" / EMBEDDINGS).rglob("*.latents.arrow"):
        file.unlink()
    with pytest.raises(NotBuiltError, match="not kept"):
        synthesizer.stored.of(ids[:1])


def test_a_decoder_is_the_other_half_of_its_encoder(built: Built) -> None:
    from diffusers import AutoencoderKL

    spec = built.profile.models.vae
    assert spec is not None
    latents = np.random.default_rng(0).standard_normal((2, *load_vae(spec).latent_shape)).astype(np.float32)
    whole = AutoencoderKL.from_pretrained(spec.model).eval()
    with torch.inference_mode():
        decoded = whole.decode(torch.from_numpy(latents) / whole.config.scaling_factor).sample
    wanted = ((decoded + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    for picture, pixels in zip(load_vae_decoder(spec).decode(latents), wanted, strict=True):
        assert np.abs(np.asarray(picture, np.int32) - pixels.astype(np.int32)).max() <= 1


def test_a_walk_goes_in_even_steps_from_one_image_to_the_other(synthesizer: Synthesizer, ids: list[str]) -> None:
    start, end = synthesizer.stored.of(ids[:2])
    frames = list(synthesizer.between_images(start, end, 5))
    assert [frame.share for frame in frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [frame.image.tobytes() for frame in frames] == [
        synthesizer.decoder.decode((start + share * (end - start))[None])[0].tobytes() for share in shares(5)
    ]
    # each is where an image like it is placed
    for frame in (frames[0], frames[2]):
        placed = synthesizer.placer.place(frame.image)
        assert frame.places == {space: found.position for space, found in placed.placements.items()}
        assert [row["id"] for row in frame.near["clip"].leaders(3)] == [
            item.id for item in placed.placements["clip"].neighbours[:3]
        ]


def test_a_walk_ends_when_it_is_not_wanted_any_more(synthesizer: Synthesizer, ids: list[str]) -> None:
    start, end = synthesizer.stored.of(ids[:2])
    made = []
    with pytest.raises(WalkCancelledError):
        for frame in synthesizer.between_images(start, end, 9, lambda: len(made) == 2):
            made.append(frame)
    assert len(made) == 2


def test_a_walk_between_prompts_begins_and_ends_with_what_they_draw(synthesizer: Synthesizer, tmp_path: Path) -> None:
    spec = write_pipeline(tmp_path, "sd")
    generator = ImageGenerator(load_text_to_image(spec), synthesizer.placer)
    assert generator.drawing.mixes_prompts
    start = GenerationRequest.of(spec, "a red apple", seed=3)
    end = GenerationRequest.of(spec, "a sad face", seed=4)
    frames = list(synthesizer.between_prompts(generator, start, end, 3))
    drawn = [generator.drawing.draw(start).tobytes(), generator.drawing.draw(end).tobytes()]
    assert [frames[0].image.tobytes(), frames[2].image.tobytes()] == drawn
    assert frames[1].image.tobytes() not in drawn
    with pytest.raises(WalkCancelledError):
        list(synthesizer.between_prompts(generator, start, end, 3, lambda: True))


def test_a_spherical_path_keeps_the_length_of_noise() -> None:
    first, second = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    middle = slerp(first, second, 0.5)
    assert torch.linalg.norm(middle) == pytest.approx(float(torch.linalg.norm(first)), rel=0.05)
    assert torch.linalg.norm((first + second) / 2) < 0.8 * torch.linalg.norm(first)
    assert torch.equal(slerp(first, first, 0.3), first)
    assert torch.allclose(slerp(first, second, 0.0), first) and torch.allclose(slerp(first, second, 1.0), second)


def test_a_place_stands_for_the_mean_of_what_is_around_it(
    built: Built, synthesizer: Synthesizer, ids: list[str]
) -> None:
    places = Places(synthesizer.placer.table)
    frame = Atlas.open(built.profile.root).to_polars(["id", "xyz_clip"])
    xyz = np.stack(frame["xyz_clip"].to_list())
    asked = xyz.mean(axis=0)
    here = what_is_here(synthesizer, places, "clip", asked.tolist())
    order = np.argsort(np.linalg.norm(xyz - asked, axis=1), kind="stable")[:AROUND]
    assert set(here.ids) == {ids[row] for row in order}
    assert here.distances == pytest.approx(np.linalg.norm(xyz[order] - asked, axis=1).tolist(), abs=1e-5)
    mean = synthesizer.stored.of(here.ids).mean(axis=0)
    assert here.frame.image.tobytes() == synthesizer.decoder.decode(mean[None])[0].tobytes()
    assert set(here.frame.places) == {"clip", "vae", "joint"}
    with pytest.raises(NotBuiltError, match="no map"):
        places.nearest("nothing", [0, 0, 0], 3)
    assert isinstance(here.frame.image, Image.Image)
