"""Where model weights are, and the digest that is a model's data version.

Finds the files of a profile's model (a package, a directory, a hub's cache) and hashes them; loading them
into a network is the business of `clip`, `vae` and `generate`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from latent_assets.errors import ModelError, ProfileError
from latent_assets.models.training_data import data_of_card, data_of_repository, data_of_tag
from latent_assets.profile import ClipModel, DiffusionModel, VaeModel, resolve_path

# what decides a model's output: configuration, vocabulary and weights, never documents or pictures
_CONTENT = (".json", ".safetensors", ".bin", ".pt", ".txt", ".model")
# duplicates of the weights in other formats, as repositories of pipelines have them
_NEVER_LOADED = ("*.fp16.*", "*non_ema*", "*-pruned*", "v1-5-*")
_WEIGHTS = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk. `digest` is the SHA-256 over its configuration and weight files, in path order.

    `trained_on`: the data it was trained on, in words; "" when neither its card nor its name tells.
    """

    name: str
    digest: str
    files: int
    bytes: int
    trained_on: str = ""


def clip_files(spec: ClipModel) -> ModelFiles:
    """Files of a CLIP model; a named one is downloaded to the hub's cache when it is not there yet."""
    if spec.name is not None:
        found = _digest(f"{spec.name}/{spec.pretrained}", [Path(open_clip_weights(spec))], salt=spec.name)
        return replace(found, trained_on=data_of_tag(spec.pretrained or ""))
    paths = [_existing(spec.config, "models.clip.config"), _existing(spec.weights, "models.clip.weights")]
    if spec.text_encoder:
        paths += directory_files(spec.text_encoder, "models.clip.text_encoder")
    return replace(_digest(paths[1].parent.name, paths), trained_on=data_of_card(paths[1].parent))


def check_clip(spec: ClipModel) -> None:
    """Refuse an open_clip name without importing open_clip (seconds): its configs are files of the package.

    Raises ProfileError naming close ones.
    """
    if spec.name is None:
        return
    package = find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ProfileError("`models.clip.name` needs the package open_clip_torch; pip install it.")
    folder = Path(next(iter(package.submodule_search_locations))) / "model_configs"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if spec.name.replace("/", "-") not in known:
        near = get_close_matches(spec.name, known, n=3, cutoff=0.4)
        hint = f" Close: {', '.join(near)}." if near else ""
        raise ProfileError(f"`models.clip.name`: open_clip has no model `{spec.name}`.{hint}")


def vae_files(spec: VaeModel) -> ModelFiles:
    """Files of an AutoencoderKL. Raises ProfileError when `feature_dim` does not fit its latents."""
    paths = directory_files(spec.model, "models.vae.model")
    _check_feature_dim(spec, model_directory(spec.model, "models.vae.model"))
    return replace(_digest(_short(spec.model), paths), trained_on=_trained_on(spec.model, "models.vae.model"))


def check_vae(spec: VaeModel) -> None:
    """Refuse a `feature_dim` that does not fit the latents, where the model lies on this machine.

    A repository's model is looked at when it is there (`vae_files`). Raises ProfileError.
    """
    if spec.model.startswith("package:") or Path(spec.model).is_absolute():
        _check_feature_dim(spec, model_directory(spec.model, "models.vae.model"))


def _check_feature_dim(spec: VaeModel, folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        return
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        channels, blocks = int(values.get("latent_channels", 4)), len(values.get("block_out_channels", [0] * 4))
    except (ValueError, TypeError, AttributeError) as error:
        raise ProfileError(
            f"models.vae.model: {config} is not the configuration of an AutoencoderKL ({error}). Set the directory "
            "that diffusers saved one to."
        ) from error
    pool_side(channels, spec.size // 2 ** (blocks - 1), spec.feature_dim)


def pool_side(channels: int, side: int, feature_dim: int) -> int:
    """Side of the pooled latents: `feature_dim` values of `channels` x `side` x `side` latents.

    Raises ProfileError, naming the values that fit, when it is not channels times a square up to `side`.
    """
    pooled = math.isqrt(feature_dim // channels)
    if channels * pooled * pooled != feature_dim or pooled > side:
        fitting = ", ".join(str(channels * s * s) for s in range(1, side + 1) if side % s == 0)
        raise ProfileError(
            f"models.vae.feature_dim: {feature_dim} is not {channels} channels times a square up to {side}x{side}. "
            f"Values that fit: {fitting}."
        )
    return pooled


def diffusion_files(spec: DiffusionModel) -> ModelFiles:
    """Files of a text-to-image pipeline, with the components that replace its own."""
    paths = directory_files(spec.model, "models.diffusion.model")
    for key in ("text_encoder", "vae"):
        if value := getattr(spec, key):
            paths += directory_files(value, f"models.diffusion.{key}")
    return replace(_digest(_short(spec.model), paths), trained_on=_trained_on(spec.model, "models.diffusion.model"))


def _trained_on(model: str, key: str) -> str:
    """By the card beside local weights, or by the repository's name."""
    local = model.startswith("package:") or Path(model).is_absolute()
    return data_of_card(model_directory(model, key)) if local else data_of_repository(model)


def open_clip_weights(spec: ClipModel) -> str:
    """Local path of the weights of a named open_clip model. Raises ModelError when they cannot be had."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    assert spec.name is not None and spec.pretrained is not None
    if Path(spec.pretrained).is_file():
        return spec.pretrained
    config = get_pretrained_cfg(spec.name, spec.pretrained)
    if not config:
        tags = ", ".join(list_pretrained_tags_by_model(spec.name)) or "none"
        raise ModelError(
            f"models.clip.pretrained: open_clip has no weights `{spec.pretrained}` for {spec.name}. It has: {tags}."
        )
    try:
        return str(download_pretrained(config))
    except Exception as error:  # hub clients raise many kinds: network, quota, disk
        raise ModelError(
            f"The weights {spec.name}/{spec.pretrained} are not in the local cache and could not be downloaded "
            f"({type(error).__name__}: {error}). Check the network, or set `config` and `weights` to local files."
        ) from error


def directory_files(model: str, key: str) -> list[Path]:
    """Configuration and weight files of a model directory or hub repository, sorted by path."""
    folder = model_directory(model, key)
    if not folder.is_dir():
        raise ModelError(f"{key}: {folder} is not a directory. Set the path of a model, or a repository's name.")
    listed = (path for path in folder.rglob("*") if path.suffix in _CONTENT and path.is_file())
    found = sorted(path for path in listed if _is_loaded(path))
    if not any(path.suffix in _WEIGHTS for path in found):
        raise ModelError(f"{key}: {folder} holds no weights ({', '.join(_WEIGHTS)}).")
    return found


def _is_loaded(path: Path) -> bool:
    """Whether the loading libraries would read a file: not what only lies beside the weights they take."""
    if any(path.match(pattern) for pattern in _NEVER_LOADED):
        return False
    return path.suffix not in (".bin", ".pt") or not any(path.parent.glob("*.safetensors"))


def model_directory(model: str, key: str) -> Path:
    """Local directory of a model: a path, `package:NAME/PATH`, or the snapshot of a hub repository."""
    if model.startswith("package:"):
        return Path(resolve_path(model))
    return Path(model) if Path(model).is_absolute() else Path(_snapshot(model, key))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the libraries' loading bars and notes off the terminal; errors are raised as ever.

    They tell of parts that are absent on purpose (an encoder's pooler) or come from elsewhere.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    before = (transformers_logging.get_verbosity(), diffusers_logging.get_verbosity(), logging.getLogger().level)
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        diffusers_logging.set_verbosity(before[1])
        logging.getLogger().setLevel(before[2])
        if bars:
            transformers_logging.enable_progress_bar()
            diffusers_logging.enable_progress_bar()


def _snapshot(repository: str, key: str) -> str:
    """Local snapshot of a hub repository, downloaded when the network allows it."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        ignored = list(_NEVER_LOADED)
        return snapshot_download(repository, allow_patterns=wanted, ignore_patterns=ignored, local_files_only=offline)
    except Exception as error:
        raise ModelError(
            f"{key}: `{repository}` is neither a local directory nor in the hub's cache, and could not be downloaded "
            f"({type(error).__name__}). Check the name and the network, or set the path of a local copy."
        ) from error


def _existing(value: str | None, key: str) -> Path:
    path = Path(resolve_path(str(value)))
    if not path.is_file():
        raise ModelError(f"{key}: {path} is not there. Set the path of the file in the profile.")
    return path


def _digest(name: str, paths: Iterable[Path], salt: str = "") -> ModelFiles:
    listed = list(dict.fromkeys(paths))
    total = hashlib.sha256(salt.encode())
    for path in listed:
        stat = path.stat()
        content = _file_digest(str(path), stat.st_size, stat.st_mtime_ns)
        total.update(json.dumps([path.name, content]).encode())
    return ModelFiles(name, total.hexdigest()[:32], len(listed), sum(path.stat().st_size for path in listed))


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; `size` and `mtime_ns` make a changed file a new question."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(model: str) -> str:
    return Path(model).name if model.startswith(("/", "package:")) else model
