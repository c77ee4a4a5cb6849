"""Where model weights are, and the digest that is a model's data version.

Finds the files of a profile's model (a package, a directory, a hub's cache) and hashes them; loading them
into a network is the business of `clip`, `vae` and `generate`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latent_assets.errors import ModelError, ProfileError
from latent_assets.models.hub import BIN, NEVER_LOADED, SAFETENSORS, Repository, snapshot
from latent_assets.models.training_data import data_of_card, data_of_repository, data_of_tag
from latent_assets.profile import ClipModel, DiffusionModel, VaeModel, resolve_path

# what decides a model's output: configuration, vocabulary and weights, never documents or pictures
_CONTENT = (".json", ".safetensors", ".bin", ".pt", ".txt", ".model")
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
        found = _digest(f"{spec.name}/{spec.pretrained}", [clip_weights(spec)], salt=f"{spec.name}{_corrected(spec)}")
        return replace(found, trained_on=data_of_tag(spec.pretrained or ""))
    paths = [_existing(spec.config, "models.clip.config"), _existing(spec.weights, "models.clip.weights")]
    if spec.text_encoder:
        paths += directory_files(spec.text_encoder, "models.clip.text_encoder")
    found = _digest(paths[1].parent.name, paths, salt=_corrected(spec))
    return replace(found, trained_on=data_of_card(paths[1].parent))


def _corrected(spec: ClipModel) -> str:
    """What makes a model another than it was when open_clip's warning about it was not heeded; "" for most.

    An activation that its weights were not trained with, and images cropped that are to be squashed.
    """
    if spec.name is None:
        values = json.loads(_existing(spec.config, "models.clip.config").read_text(encoding="utf-8"))
        mode = values.get("preprocess_cfg", {}).get("resize_mode")
        return "" if mode in (None, "shortest") else f"/{mode}"
    mode = (tag_of(spec) or {}).get("resize_mode")
    own = json.loads((_configs() / f"{spec.name.replace('/', '-')}.json").read_text(encoding="utf-8"))
    activation = "/quick_gelu" if clip_config(spec)["quick_gelu"] != bool(own.get("quick_gelu")) else ""
    return activation + ("" if mode in (None, "shortest") else f"/{mode}")


def check_clip(spec: ClipModel) -> None:
    """Refuse an open_clip name without importing open_clip (seconds): its configs are files of the package.

    Raises ProfileError naming close ones.
    """
    if spec.name is None:
        return
    known = sorted(path.stem for path in _configs().glob("*.json"))
    if spec.name.replace("/", "-") not in known:
        near = get_close_matches(spec.name, known, n=3, cutoff=0.4)
        hint = f" Close: {', '.join(near)}." if near else ""
        raise ProfileError(f"`models.clip.name`: open_clip has no model `{spec.name}`.{hint}")


def _configs() -> Path:
    """The folder of open_clip's architectures."""
    package = find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ProfileError("`models.clip.name` needs the package open_clip_torch; pip install it.")
    return Path(next(iter(package.submodule_search_locations))) / "model_configs"


def vae_files(spec: VaeModel) -> ModelFiles:
    """Files of an autoencoder. Raises ProfileError when `feature_dim` does not fit its latents."""
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
        channels = int(values.get("latent_channels", 4))
        blocks = values.get("block_out_channels", values.get("encoder_block_out_channels"))
        if blocks is None and "_class_name" in values:
            return  # of a kind whose shape only the loaded model tells
        factor = 2 ** (len(blocks or [0] * 4) - 1)
    except (ValueError, TypeError, AttributeError) as error:
        raise ProfileError(
            f"models.vae.model: {config} is not the configuration of an autoencoder ({error}). Set the directory "
            "that diffusers saved one to."
        ) from error
    if spec.size % factor:
        raise ProfileError(
            f"models.vae.size: {spec.size} is not a multiple of {factor}, by which {spec.model} makes images smaller."
        )
    pool_side(channels, spec.size // factor, spec.feature_dim)


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


def clip_config(spec: ClipModel) -> dict[str, Any]:
    """The `model_cfg` of a CLIP, as open_clip writes it; of a named one with the activation of its weights.

    Weights of OpenAI's were trained with QuickGELU; open_clip only warns where a model of another name takes them.
    """
    if spec.name is None:
        file = _existing(spec.config, "models.clip.config")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        return found
    found = json.loads((_configs() / f"{spec.name.replace('/', '-')}.json").read_text(encoding="utf-8"))
    return found | {"quick_gelu": quick_gelu(spec, bool(found.get("quick_gelu")))}


def quick_gelu(spec: ClipModel, configured: bool) -> bool:
    """Whether a named model's weights were trained with QuickGELU. Raises ModelError where its name says other."""
    tag = tag_of(spec)
    trained = configured if tag is None else bool(tag.get("quick_gelu", False))
    if configured and not trained:
        raise ModelError(
            f"models.clip.name: the weights {spec.pretrained} were not trained with QuickGELU, which {spec.name} has. "
            f'Set name = "{str(spec.name).removesuffix("-quickgelu")}".'
        )
    return trained


def clip_weights(spec: ClipModel) -> Path:
    """Local path of the weights of a CLIP model. Raises ModelError when they cannot be had."""
    if spec.name is None:
        return _existing(spec.weights, "models.clip.weights")
    if spec.pretrained is not None and Path(spec.pretrained).is_file():
        return Path(spec.pretrained)
    repository = clip_repository(spec)
    folder = snapshot(repository, lambda: clip_sizes(spec, repository))
    return next(folder / name for name in repository.choice if (folder / name).is_file())


def weight_bytes(spec: ClipModel | VaeModel) -> int:
    """How large the weights of an encoder are on the disk."""
    if isinstance(spec, ClipModel):
        return clip_weights(spec).stat().st_size
    files = directory_files(spec.model, "models.vae.model")
    return sum(path.stat().st_size for path in files if path.suffix in _WEIGHTS)


def clip_repository(spec: ClipModel) -> Repository:
    """The hub's repository of a named model's weights. Raises ModelError for a tag that open_clip does not know."""
    tag = tag_of(spec)
    if tag is None:
        from latent_assets.models.open_clip_parts import part

        tags = ", ".join(part("pretrained").list_pretrained_tags_by_model(spec.name)) or "none"
        raise ModelError(
            f"models.clip.pretrained: open_clip has no weights `{spec.pretrained}` for {spec.name}. It has: {tags}."
        )
    place = str(tag["hf_hub"])
    name, _, file = place.rpartition("/")
    return Repository("models.clip.pretrained", name, (), (file,) if file else (SAFETENSORS, BIN), ())


def tag_of(spec: ClipModel) -> dict[str, Any] | None:
    """What open_clip says of the weights of a tag; None for a tag it does not know, and for a file."""
    from latent_assets.models.open_clip_parts import part

    if Path(str(spec.pretrained)).is_file():
        return None
    name = str(spec.name).replace("/", "-")
    found: dict[str, Any] = part("pretrained").get_pretrained_cfg(name, spec.pretrained)
    return found or None


def clip_sizes(spec: ClipModel, repository: Repository) -> dict[str, float]:
    """The file of weights and about how large it is, in MB: four bytes for each parameter of the architecture."""
    import open_clip
    import torch

    try:
        with torch.device("meta"), quiet_loading():
            model = open_clip.create_model(str(spec.name), device="meta", pretrained_text=False, load_weights=False)
    except Exception:  # an architecture whose parts lie elsewhere: the file's name has to do
        return {}
    return {repository.choice[0]: sum(value.numel() for value in model.state_dict().values()) * 4 / 1e6}


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
    if any(path.match(pattern) for pattern in NEVER_LOADED):
        return False
    return path.suffix not in (".bin", ".pt") or not any(path.parent.glob("*.safetensors"))


def model_directory(model: str, key: str) -> Path:
    """Local directory of a model: a path, `package:NAME/PATH`, or the copy of a hub repository."""
    if model.startswith("package:"):
        return Path(resolve_path(model))
    return Path(model) if Path(model).is_absolute() else snapshot(Repository(key, model))


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
