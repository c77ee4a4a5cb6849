"""What a model was trained on: said by its card, or by the name of published weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from latent_assets.models.training_data import data_of_card, data_of_repository, data_of_tag
from latent_assets.models.weights import clip_files, diffusion_files, vae_files
from latent_assets.profile import load_profile


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ("---\nlicense: mit\ndatasets:\n- laion/laion2B-en\n- 'coco'\n---\n# A model", "laion/laion2B-en, coco"),
        ("---\r\ndatasets:\r\n  - one\r\n  - two\r\nlicense: mit\r\n---\r\ntext", "one, two"),
        ('---\ndatasets: [one, "two"]\n---\n', "one, two"),
        ("---\ndatasets: imagenet-1k\n---\n", "imagenet-1k"),
        ("---\nlicense: mit\n---\ndatasets:\n- below the front matter\n", ""),
        ("# No front matter\n\n---\ndatasets:\n- x\n---\n", ""),
        ("---\ndatasets:\n---\n", ""),
        ("", ""),
    ],
)
def test_a_card_names_its_data_sets(tmp_path: Path, head: str, data: str) -> None:
    (tmp_path / "README.md").write_bytes(head.encode())
    assert data_of_card(tmp_path) == data


def test_a_card_that_is_none_says_nothing(tmp_path: Path) -> None:
    assert data_of_card(tmp_path) == ""
    (tmp_path / "README.md").write_bytes(b"---\ndatasets:\n- \xff\xfe\n---\n" + b"\0" * 1000)
    assert data_of_card(tmp_path) == "\ufffd\ufffd"
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert data_of_card(tmp_path) == ""


def test_every_tag_of_open_clip_says_what_it_knows() -> None:
    from open_clip.pretrained import list_pretrained

    unknown = {tag for _, tag in list_pretrained() if not data_of_tag(tag)}
    # whose publishers say too little, or something else for every model
    assert unknown <= {"mrl", "v1", "meta"}, unknown
    assert data_of_tag("laion2b_s34b_b88k").startswith("LAION-2B")
    assert data_of_tag("laion_aesthetic_s13b_b82k").startswith("LAION-Aesthetic"), "the longest name counts"
    assert data_of_tag("datacompdr_lt").startswith("DataCompDR")
    assert data_of_tag("/my/weights.pt") == ""


def test_repositories_of_the_shipped_profiles_are_known() -> None:
    for name in ("laion-6.5plus", "laion-12m"):
        models = load_profile(name).models
        assert models.vae and data_of_repository(models.vae.model)
        assert models.clip and data_of_tag(models.clip.pretrained or "")
    assert data_of_repository("someone/else") == ""


def test_the_demos_models_say_that_they_know_emoji_and_their_cards_decide_nothing() -> None:
    models = load_profile("demo").models
    assert models.clip and models.vae and models.diffusion
    for found in (clip_files(models.clip), vae_files(models.vae), diffusion_files(models.diffusion)):
        assert "OpenMoji" in found.trained_on
