"""Published models: downloaded resumably from what stands where the hub stands, found again, and named where absent."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from latent_assets import cli
from latent_assets.errors import ModelError, ResourceError
from latent_assets.models import fetch as fetching
from latent_assets.models.hub import Repository, local_copy, models_folder, snapshot
from latent_assets.models.weights import clip_files, clip_weights, vae_files
from latent_assets.profile import ClipModel, VaeModel, load_profile
from latent_assets_tests.models.hub import Hub, serving_hub
from latent_assets_tests.small_models import write_vae

CLIP, VAE = "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", "stabilityai/sd-vae-ft-mse"
WEIGHTS = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """The repositories of the profile `photos`: another's weights, and a small VAE that loads."""
    write_vae(tmp_path / "vae")
    vae = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    clip = {"open_clip_model.safetensors": WEIGHTS, "open_clip_pytorch_model.bin": b"twice", "README.md": b"# A model"}
    with serving_hub({CLIP: clip, VAE: {**vae, "diffusion_pytorch_model.bin": b"twice"}}) as found:
        yield found


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Run]:
    """`latent-assets models fetch -p photos` into a folder, with `hub` where the hub stands."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def call(folder: Path) -> Run:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["latent-assets", "models", "fetch", "-p", "photos"])
            patch.setenv("LATENT_ASSETS_MODELS", str(folder))
            cli.main()
        said = capsys.readouterr()
        return Run(int(ended.value.code or 0), said.out, said.err)

    return call


def test_all_that_a_profile_needs_is_fetched_and_nothing_twice(
    hub: Hub, run: Callable[[Path], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert "open_clip_model.safetensors  3.0 MB" in done.stdout and f"into {folder}" in done.stdout
    assert "pytorch_model.bin" not in done.stdout and "README" not in done.stdout
    assert (folder / CLIP / "open_clip_model.safetensors").read_bytes() == WEIGHTS
    monkeypatch.setenv("LATENT_ASSETS_MODELS", str(folder))
    spec = load_profile("photos").models
    assert spec.clip and clip_weights(spec.clip) == folder / CLIP / "open_clip_model.safetensors"
    assert spec.vae and vae_files(spec.vae.model_copy(update={"size": 32, "feature_dim": 16})).files == 2
    sent = hub.sent
    again = run(folder)
    assert again.returncode == 0 and "0.0 MB to come" in again.stdout and hub.sent == sent


def test_a_download_goes_on_where_it_ended(hub: Hub, run: Callable[[Path], Run], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    hub.cut_after, hub.cuts = 400_000, 9  # one more than a run tries, in all
    broken = run(folder)
    assert broken.returncode != 0 and "goes on from there" in broken.stderr
    kept = sum(path.stat().st_size for path in folder.rglob("*.partial"))
    assert kept >= 1_500_000, "what came is kept"
    hub.cuts = 0
    sent = hub.sent
    assert run(folder).returncode == 0
    assert (folder / CLIP / "open_clip_model.safetensors").read_bytes() == WEIGHTS
    assert hub.sent - sent < len(WEIGHTS) - 1_000_000, "and not fetched again"
    assert not list(folder.rglob("*.partial"))


def test_a_server_without_ranges_starts_anew(hub: Hub, run: Callable[[Path], Run], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    hub.ranges, hub.cut_after, hub.cuts = False, 100_000, 2
    assert run(folder).returncode == 0
    assert (folder / CLIP / "open_clip_model.safetensors").read_bytes() == WEIGHTS


def test_other_bytes_than_the_hub_says_are_not_kept(hub: Hub, run: Callable[[Path], Run], tmp_path: Path) -> None:
    hub.lies = {"open_clip_model.safetensors"}
    done = run(tmp_path / "models")
    assert done.returncode != 0 and "the hub says" in done.stderr
    assert not list((tmp_path / "models" / CLIP).iterdir())


def test_a_disk_without_room_is_said_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENT_ASSETS_MODELS", str(tmp_path))
    file = fetching.HubFile("some/model", "0" * 40, "model.safetensors", 10**15, "")
    with pytest.raises(ResourceError, match=r"1020000\.0 GB are to come.*LATENT_ASSETS_MODELS"):
        fetching.check_room([file])


def test_names_that_lead_out_of_the_folder_are_refused() -> None:
    from types import SimpleNamespace

    for name in ("../../.bashrc", "/etc/passwd"):
        with pytest.raises(ModelError, match="outside itself"):
            fetching._hub_file("some/model", "0" * 40, SimpleNamespace(rfilename=name, size=1, lfs=None))


def test_without_network_the_error_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("LATENT_ASSETS_MODELS", str(tmp_path / "models"))
    spec = load_profile("photos").models
    assert spec.clip and spec.vae
    with pytest.raises(ModelError) as clip:
        clip_files(spec.clip)
    with pytest.raises(ModelError) as vae:
        vae_files(spec.vae)
    for said in ("open_clip_model.safetensors (605 MB)", str(tmp_path / "models" / CLIP), "$LATENT_ASSETS_MODELS"):
        assert said in str(clip.value)
    for said in ("config.json (1 kB)", "diffusion_pytorch_model.safetensors (335 MB)", str(tmp_path / "models" / VAE)):
        assert said in str(vae.value)


def test_what_is_half_there_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENT_ASSETS_MODELS", str(tmp_path))
    folder = models_folder() / VAE
    repository = Repository("models.vae.model", VAE)
    assert local_copy(repository) is None
    write_vae(folder)
    assert local_copy(repository) == folder == snapshot(repository)
    (folder / "more.safetensors.0123.partial").write_bytes(b"x")
    assert local_copy(repository) is None
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert local_copy(repository) is None, "a configuration without weights"


def test_models_on_this_machine_need_nothing_of_the_hub() -> None:
    assert fetching.repositories(load_profile("demo")) == []
    assert [r.name for r in fetching.repositories(load_profile("photos"))] == [VAE, CLIP]
    named = ClipModel(name="ViT-B-32-SigLIP2-256", pretrained="webli")
    assert [r.name for r in fetching._of_clip(named)] == ["timm/ViT-B-32-SigLIP2-256"] * 2
    assert VaeModel(model="some/vae").model == "some/vae"
