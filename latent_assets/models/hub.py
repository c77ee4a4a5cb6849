"""Published models: where they lie on this machine, and what to do where they do not.

A repository `OWNER/NAME` is looked for below `models_folder()`, then in the hub's own cache. Downloading is the
business of `fetch`, digests of `weights`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from latent_assets.errors import ModelError
from latent_assets.profile import home

MODELS_VARIABLE = "LATENT_ASSETS_MODELS"
SAFETENSORS, BIN = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
PARTIAL = ".partial"  # ends the name of a file that is not there yet as a whole

# what loading a directory of diffusers or transformers may read, and duplicates of it that nobody loads
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "config.json", "*.txt", "*.model")
NEVER_LOADED = ("*.fp16.*", "*non_ema*", "*-pruned*", "v1-5-*")
_WEIGHTS = (".safetensors", ".bin", ".pt")

# files of repositories that profiles of the package name, in MB: what to look for where nobody can be asked
_FILES: dict[str, dict[str, float]] = {
    "stabilityai/sd-vae-ft-mse": {"config.json": 0.001, "diffusion_pytorch_model.safetensors": 335},
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        "model_index.json": 0.001,
        "scheduler/scheduler_config.json": 0.001,
        "text_encoder/config.json": 0.001,
        "text_encoder/model.safetensors": 492,
        "tokenizer/merges.txt": 0.5,
        "tokenizer/special_tokens_map.json": 0.001,
        "tokenizer/tokenizer_config.json": 0.001,
        "tokenizer/vocab.json": 1.1,
        "unet/config.json": 0.001,
        "unet/diffusion_pytorch_model.safetensors": 3438,
        "vae/config.json": 0.001,
        "vae/diffusion_pytorch_model.safetensors": 335,
    },
}


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, and which of its files are wanted: `patterns`, the first `choice` that is there, and
    nothing of `never`. key: the key of the profile that names it."""

    key: str
    name: str
    patterns: tuple[str, ...] = WANTED
    choice: tuple[str, ...] = ()
    never: tuple[str, ...] = NEVER_LOADED

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Which of the repository's files are to be there."""
        kept = [n for n in names if any(fnmatch(n, p) for p in self.patterns)]
        kept += [n for n in self.choice if n in names][:1]
        return sorted({n for n in kept if not any(fnmatch(n, p) for p in self.never)})


def models_folder() -> Path:
    """Where published models are kept: $LATENT_ASSETS_MODELS, else `models` in the home directory of atlases."""
    value = os.environ.get(MODELS_VARIABLE)
    return Path(value).expanduser().absolute() if value else home() / "models"


def local_copy(repository: Repository) -> Path | None:
    """The folder of a repository below `models_folder`, when it holds weights and nothing half downloaded."""
    folder = models_folder() / repository.name
    if not folder.is_dir():
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    if any(path.name.endswith(PARTIAL) for path in files):
        return None
    if repository.choice:
        return folder if any((folder / name).is_file() for name in repository.choice) else None
    return folder if any(path.suffix in _WEIGHTS for path in files) or not _has_weights(repository) else None


def _has_weights(repository: Repository) -> bool:
    return any(pattern.endswith(_WEIGHTS) for pattern in repository.patterns)


def snapshot(repository: Repository, sizes: Callable[[], Mapping[str, float]] = dict) -> Path:
    """Local folder of a repository; downloaded to the hub's cache when it is nowhere and the network allows it.

    Raises ModelError that says which files to put where; `sizes` gives them in MB by name, where that is known.
    """
    if (found := local_copy(repository)) is not None:
        return found
    from huggingface_hub import HfApi, snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    never = list(repository.never)
    try:
        # of weights in two formats only the better is asked for
        wanted = [*repository.patterns, *repository.choice]
        if repository.choice and not offline:
            wanted = repository.wanted(HfApi().list_repo_files(repository.name))
        found = Path(
            snapshot_download(repository.name, allow_patterns=wanted, ignore_patterns=never, local_files_only=offline)
        )
        if repository.choice and not any((found / name).is_file() for name in repository.choice):
            raise FileNotFoundError(f"the repository holds none of {', '.join(repository.choice)}")
        return found
    except Exception as error:  # hub clients raise many kinds: network, quota, disk
        raise ModelError(_absent(repository, error, _FILES.get(repository.name) or sizes())) from error


def _absent(repository: Repository, error: Exception, sizes: Mapping[str, float]) -> str:
    """What to do: the files, their sizes, the folder and the variable."""
    folder = models_folder() / repository.name
    if sizes:
        files = ", ".join(f"{name} ({_size(size)})" for name, size in sizes.items())
    elif repository.choice:
        files = " or ".join(repository.choice)
    else:
        files = "its *.json and *.safetensors"
    return (
        f"{repository.key}: `{repository.name}` is not on this machine and could not be downloaded "
        f"({type(error).__name__}). With network: `latent-assets models fetch -p PROFILE`. Without: from "
        f"https://huggingface.co/{repository.name} put {files} into {folder}, or into {repository.name}/ below a "
        f"folder of yours and set ${MODELS_VARIABLE} to that folder."
    )


def _size(megabytes: float) -> str:
    if megabytes >= 1000:
        return f"{megabytes / 1000:.1f} GB"
    return f"{megabytes:.0f} MB" if megabytes >= 1 else f"{max(1, round(megabytes * 1000))} kB"
