"""CLIP through open_clip: text and images to unit vectors of one space.

Loads a named model with its pretrained weights, or a config file with weights and a Hugging Face text
encoder kept elsewhere. Which rows are encoded, and where the vectors go, is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg
from PIL import Image
from safetensors.torch import load_file

from latent_assets.errors import ModelError
from latent_assets.models.device import best_device
from latent_assets.models.encoder import LARGE, SMALL_BATCH
from latent_assets.models.hub import TOKENIZER, WANTED, Repository, local_copy
from latent_assets.models.precision import arithmetic
from latent_assets.models.preprocessing import MODES, squared
from latent_assets.models.weights import clip_config, clip_files, clip_weights, quiet_loading, tag_of
from latent_assets.processes import temporary_folder
from latent_assets.profile import ClipModel, resolve_path

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SHOWN = ("mean", "std", "interpolation", "resize_mode")  # what a tag says of the images its weights were trained on


@dataclass(frozen=True)
class ClipEncoder:
    """A loaded CLIP. Vectors are float32 [width], unit length; pixels are uint8 [size, size, 3]."""

    model: torch.nn.Module
    load_tokenizer: Callable[[], Any]
    preprocess: PreprocessCfg
    width: int
    device: torch.device
    dtype: torch.dtype

    @property
    def columns(self) -> Mapping[str, int]:
        """`vector`: the image's unit vector."""
        return {"vector": self.width}

    @property
    def metadata(self) -> Mapping[str, str]:
        """Nothing beyond the width."""
        return {}

    @property
    def size(self) -> int:
        """Side of the square image that the model sees, in pixels."""
        size = self.preprocess.size
        return size if isinstance(size, int) else size[0]

    @cached_property
    def cpu_batch(self) -> int:
        """Images that a CPU encodes at once: a large model fills it with the 200 patches of one or a few."""
        visual: Any = self.model.visual
        if sum(value.numel() for value in visual.parameters()) < LARGE:
            return SMALL_BATCH
        patch = getattr(visual, "patch_size", None) or (16, 16)
        return max(1, min(SMALL_BATCH, 200 // max(1, (self.size // patch[0]) ** 2)))

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to the model's token ids. Raises ModelError where its vocabulary is not on this machine."""
        return self.load_tokenizer()

    def pixels(self, image: Image.Image) -> np.ndarray:
        """What open_clip's transform shows the model, before normalisation: uint8 [size, size, 3]."""
        shown = self.preprocess
        return squared(image, self.size, shown.resize_mode, _RESAMPLING[shown.interpolation], shown.fill_color)

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, size, size, 3] to unit vectors float32 [n, d] on the model's device, without waiting for it."""
        x = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        statistics = (self.preprocess.mean, self.preprocess.std)
        mean, std = (torch.tensor(value, device=self.device).view(1, 3, 1, 1) for value in statistics)
        with torch.inference_mode():
            vectors = self.model.encode_image(((x - mean) / std).to(self.dtype))  # type: ignore[operator]
            return torch.nn.functional.normalize(vectors.float(), dim=-1)

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`encode_pixels` as the column `vector`."""
        return {"vector": self.encode_pixels(pixels)}

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, d] of texts; longer ones are cut at the model's context length."""
        tokens = self._tokens(texts).to(self.device)
        with torch.inference_mode():
            vectors = self.model.encode_text(tokens)  # type: ignore[operator]
            return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()

    def _tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Of a Hugging Face encoder, which is told what is padding, without what pads all of them: a search of two
        words is a sixth of the context, and costs as little."""
        tokens: torch.Tensor = self.tokenizer(list(texts))
        tower = getattr(self.model, "text", None)
        if not isinstance(tower, HFTextEncoder) or not len(tokens):
            return tokens
        longest = int((tokens != tower.config.pad_token_id).sum(dim=1).max())
        return tokens[:, : max(1, longest)]


def load_clip(spec: ClipModel, device: torch.device | None = None) -> ClipEncoder:
    """Load the CLIP of a profile, once per process and weights.

    Raises ModelError when it cannot be found, or when weights and architecture disagree.
    """
    chosen = spec.model_copy(update={"dtype": arithmetic("clip", spec).dtype})
    return _load(chosen, device or best_device(), clip_files(spec).digest)


@lru_cache(maxsize=1)
def _load(spec: ClipModel, device: torch.device, digest: str) -> ClipEncoder:
    """`spec.dtype` is a format, not `auto`. `digest` is part of the key: weights that changed are another model."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    model, load_tokenizer = _named(spec) if spec.name else _configured(spec)
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)  # type: ignore[union-attr,arg-type]
    _check(preprocess, str(spec.name or spec.config))
    width = int(clip_config(spec)["embed_dim"])
    model = model.eval().requires_grad_(False).to(device=device, dtype=dtype)
    return ClipEncoder(model, load_tokenizer, preprocess, width, device, dtype)


def _check(preprocess: PreprocessCfg, name: str) -> None:
    """Refuse what no pixels can be made for. Raises ModelError."""
    size = preprocess.size
    if not isinstance(size, int) and len(set(size)) > 1:
        raise ModelError(f"models.clip: {name} sees images of {size[0]}x{size[1]} pixels; only squares are shown here.")
    if preprocess.interpolation not in _RESAMPLING or preprocess.resize_mode not in MODES:
        raise ModelError(
            f"models.clip: {name} sees images resized by `{preprocess.interpolation}`, `{preprocess.resize_mode}`; "
            f"known here: {', '.join(_RESAMPLING)} and {', '.join(MODES)}."
        )


def _named(spec: ClipModel) -> tuple[torch.nn.Module, Callable[[], Any]]:
    assert spec.name is not None and spec.pretrained is not None
    weights = clip_weights(spec)  # a clear error when they cannot be had
    config, shown = clip_config(spec), tag_of(spec) or {}
    text = dict(config["text_cfg"])
    encoder = _hugging_face(text, "hf_model_name")
    further = {"text_cfg": {**text, "hf_model_name": encoder, "hf_model_pretrained": False}} if encoder else {}
    try:
        with quiet_loading():
            model = open_clip.create_model(
                spec.name,
                pretrained=str(weights),
                force_quick_gelu=bool(config["quick_gelu"]),
                force_preprocess_cfg={key: shown[key] for key in _SHOWN if shown.get(key) is not None},
                pretrained_text=False,
                **further,
            )
    except Exception as error:  # whatever open_clip, timm and transformers make of an architecture and its weights
        raise ModelError(
            f"models.clip: open_clip cannot load {spec.name} with the weights {spec.pretrained} "
            f"({type(error).__name__}: {error})."
        ) from error
    return model, lambda: _tokenizer(spec, text)


def _tokenizer(spec: ClipModel, text: dict[str, Any]) -> Any:
    """The tokenizer of a named model; one of the hub's from its copy on this machine, where there is one."""
    folder = _hugging_face(text, "hf_tokenizer_name")
    try:
        if folder is None:
            return open_clip.get_tokenizer(spec.name)
        settings = text.get("tokenizer_kwargs", {})
        return open_clip.tokenizer.HFTokenizer(folder, context_length=text.get("context_length", 77), **settings)
    except Exception as error:
        wanted = text.get("hf_tokenizer_name", "")
        raise ModelError(
            f"models.clip: the vocabulary of {spec.name} (`{wanted}`) is not on this machine, so texts cannot be "
            f"encoded ({type(error).__name__}). With network: `latent-assets models fetch -p PROFILE`."
        ) from error


def _hugging_face(text: dict[str, Any], key: str) -> str | None:
    """The folder of a repository that a text tower names, when it was fetched."""
    if key not in text:
        return None
    folder = local_copy(Repository("models.clip.name", str(text[key]), TOKENIZER if "tokenizer" in key else WANTED))
    return str(folder) if folder else None


def _configured(spec: ClipModel) -> tuple[torch.nn.Module, Callable[[], Any]]:
    config_file, weights_file = Path(resolve_path(str(spec.config))), Path(resolve_path(str(spec.weights)))
    encoder = resolve_path(spec.text_encoder) if spec.text_encoder else None
    model, tokenizer = build_open_clip(config_file, encoder)
    fill_weights(model, weights_file, config_file)
    return model, lambda: tokenizer


def build_open_clip(config_file: Path, text_encoder: str | None) -> tuple[Any, Any]:
    """An open_clip model in float32, as its factory builds it from an `open_clip_config.json`, and its tokenizer.

    A text tower that is a Hugging Face encoder is loaded from the directory `text_encoder`; everything else keeps
    its random start. Raises ModelError when the configuration needs an encoder and none is given.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    text = config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text:
        if text_encoder is None:
            raise ModelError(f"{config_file}: the text tower is a Hugging Face encoder: set models.clip.text_encoder.")
        text["hf_model_name"] = text["hf_tokenizer_name"] = text_encoder
    with temporary_folder() as folder, quiet_loading():
        Path(folder, "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    length = text.get("context_length", 77)
    if "hf_model_name" in text:
        return model, open_clip.tokenizer.HFTokenizer(text_encoder, context_length=length)
    return model, open_clip.SimpleTokenizer(context_length=length)


def fill_weights(model: torch.nn.Module, weights_file: Path, config_file: Path) -> None:
    """Load safetensors into a model of `build_open_clip`. Raises ModelError naming what is missing or too much.

    Only a Hugging Face encoder (`text.transformer.*` of a custom text tower) may be absent: it came with weights
    of its own.
    """
    state = {name: value.float() for name, value in load_file(weights_file).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    own = isinstance(getattr(model, "text", None), HFTextEncoder)
    absent = [name for name in missing if not (own and name.startswith("text.transformer."))]
    if absent or unexpected:
        raise ModelError(
            f"{weights_file} does not fit {config_file}: missing {absent[:3]}, unexpected {list(unexpected)[:3]}."
        )
