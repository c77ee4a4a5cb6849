"""Profiles: what is accepted, and that every refusal names the file, the key and the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from latent_assets.errors import ProfileError
from latent_assets.profile import load_profile, parse_profile, profile_toml, shipped_profiles

MODELS = '[models.clip]\nname = "ViT-B-32"\npretrained = "openai"\n[models.vae]\nmodel = "some/vae"\n'
SOURCE = '[source]\npath = "rows.parquet"\n'
CHECKOUT = Path(__file__).parents[1]
VALID = f'name = "mine"\n{SOURCE}{MODELS}'


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["demo", "folder", "laion-12m", "laion-6.5plus", "photos", "photos-large"])
def test_shipped_profiles_load(name: str) -> None:
    assert name in shipped_profiles()
    assert load_profile(name).name == name


def test_laion_profile_names_the_real_models() -> None:
    models = load_profile("laion-6.5plus").models
    assert models.clip and (models.clip.name, models.clip.pretrained) == ("ViT-L-14", "openai")
    assert models.vae and (models.vae.model, models.vae.size) == ("stabilityai/sd-vae-ft-mse", 512)
    assert models.diffusion and "stable-diffusion" in models.diffusion.model


def test_relative_paths_start_at_the_profile(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, VALID))
    assert profile.source.path == str(tmp_path / "rows.parquet")
    assert profile.models.vae and profile.models.vae.model == "some/vae", "a repository's name stays as it is"


def test_environment_selects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENT_ASSETS_PROFILE", str(write(tmp_path, VALID)))
    assert load_profile().name == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VALID + "[fetch]\nspeed = 3\n", ["fetch.speed", "no such key", "timeout"]),
        (VALID + "[shards]\nrows = '10'\n", ["shards.rows", "valid integer", "'10'"]),
        (VALID + "[shards]\nrows = 0\n", ["shards.rows", "greater than or equal to 1"]),
        (f'name = "mine"\n{MODELS}', ["source", "missing"]),
        (f'name = "mine"\n{SOURCE}[models.clip]\nname = "ViT-B-32"\npretrained = "openai"\n', ["models.vae", "leave"]),
        (VALID.replace("ViT-B-32", "ViT-B-23"), ["models.clip.name", "ViT-B-23", "ViT-B-32"]),
        (VALID.replace('pretrained = "openai"\n', ""), ["models.clip", "pretrained"]),
        (VALID + "[projection]\nspaces = []\n", ["projection", "at least one space"]),
        (VALID.replace("[source]\n", '[source]\nbuiltin = "openmoji"\n'), ["source", "exactly one"]),
        (VALID.replace('"mine"', '"../mine"'), ["name", "../mine"]),
        ("name = mine", ["not valid TOML"]),
        (VALID.replace('"rows.parquet"', '"package:no_such_package/x"'), ["no_such_package", "not installed"]),
        (VALID + "[fetch]\nmin_success = 1.5\n", ["fetch.min_success", "less than or equal to 1"]),
    ],
)
def test_refusals_name_file_key_and_remedy(tmp_path: Path, text: str, said: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ProfileError) as error:
        load_profile(file)
    for words in said:
        assert words in str(error.value)
    if "package" not in text:
        assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "origin",
    ["localhost:8000", "127.0.0.1", "//host:80", "ftp://host", "http://", "http://:80", "http://host:", "http://host:0",
     "http://host:99999", "http://host:x", "http://host/images", "http://host:80/a.jpg", "http://host?q", "http://host#a",
     "http://me@host", "http://*.host", "http://ho st", " http://host", "http://a:1,http://b", "http://[::1", "", "*"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["fetch.allow_origins", "source.origin"])
def test_what_is_no_origin_is_refused_with_the_form_of_one(tmp_path: Path, origin: str, key: str) -> None:
    if key == "source.origin":
        text = VALID.replace('path = "rows.parquet"', f'builtin = "openmoji"\norigin = "{origin}"')
    else:
        text = VALID + f'[fetch]\nallow_origins = ["http://good:80", "{origin}"]\n'
    with pytest.raises(ProfileError) as error:
        load_profile(write(tmp_path, text))
    assert f"`{key}" in str(error.value) or (not origin and "set `origin`" in str(error.value))
    if origin or key != "source.origin":
        assert "scheme, host and port" in str(error.value) and "http://192.168.1.20:8080" in str(error.value)


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:8080", "https://host", "HTTP://Host:80/", "http://[::1]:8000", "http://bücher.example:81"],
)
def test_an_origin_is_accepted(tmp_path: Path, origin: str) -> None:
    from latent_assets.images.download.http_client import _allowed_origins

    profile = load_profile(write(tmp_path, VALID + f'[fetch]\nallow_origins = ["{origin}"]\n'))
    assert len(_allowed_origins(profile.fetch)) == 1


def test_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ProfileError, match=r"no profile `nosuch`.*demo, folder"):
        load_profile("nosuch")


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ProfileError, match=r"mine\.toml.*UTF-8"):
        load_profile(tmp_path / "mine.toml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings(tmp_path: Path, encoding: str) -> None:
    profile = load_profile("demo")
    (tmp_path / "mine.toml").write_bytes(f"# für\n{profile_toml(profile)}".encode(encoding))
    assert load_profile(tmp_path / "mine.toml") == profile


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as error:
        parse_profile(
            {"name": "x", "source": {"pth": "a"}, "models": {}, "shards": {"rows": -1}}, tmp_path / "x", tmp_path
        )
    assert "source.pth" in str(error.value) and "shards.rows" in str(error.value)


def test_a_feature_length_that_cannot_work_is_refused_without_torch(tmp_path: Path) -> None:
    """For a model on this disk, whether by path or in a package; the values that fit are named."""
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_text('{"latent_channels": 4, "block_out_channels": [8, 8, 8, 8]}')
    places = ("./vae", str(vae), "package:latent_assets/openmoji/models/vae")
    for model in places:
        text = VALID.replace('model = "some/vae"', f'model = "{model}"\nsize = 64\nfeature_dim = 40')
        text = f"allow_unfit = true\n{text}"
        file = write(tmp_path, text)
        code = (
            "import sys\nfrom latent_assets.profile import ProfileError, load_profile\n"
            "try:\n    load_profile(sys.argv[1])\nexcept ProfileError as e:\n    print('torch' in sys.modules, e)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, str(file)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            cwd=CHECKOUT,
        ).stdout
        assert found.startswith(f"False {file}: models.vae.feature_dim: 40 is not 4 channels"), model
        assert "Values that fit: 4, 16, 64, 256." in found
        assert load_profile(write(tmp_path, text.replace("= 40", "= 64"))).models.vae


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("[1, 2]")
    with pytest.raises(ProfileError, match=r"config\.json is not the configuration of an autoencoder"):
        load_profile(write(tmp_path, VALID.replace("some/vae", "./vae")))
