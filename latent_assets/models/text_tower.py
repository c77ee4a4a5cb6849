"""Texts to vectors with the text half of a CLIP alone, in NumPy: neither torch nor open_clip is imported.

A question from the shell is then answered in the time that opening the table takes. Computes the towers of CLIP's own
kind and BERT encoders; `text_tower` gives None for any other, which `clip` computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latent_assets.models.tokens import Tokenize, clip_tokens, hugging_face_tokens
from latent_assets.models.weights import clip_config, clip_files, clip_weights
from latent_assets.profile import ClipModel, resolve_path

Weights = Mapping[str, np.ndarray]
Activation = Callable[[np.ndarray], np.ndarray]

# keys of `text_cfg` that the towers here know; one more makes it another tower
_CLIP_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask"}
_BERT_KEYS = {"hf_model_name", "hf_tokenizer_name", "hf_pooler_type", "hf_proj_type", "context_length"}
_erf = np.frompyfunc(math.erf, 1, 1)  # a question has few words, and scipy's takes longer to import
_POOLERS = ("mean_pooler", "cls_last_hidden_state_pooler")


class TextEncoder(Protocol):
    """Whatever gives vectors of texts."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, d] of texts; longer ones are cut at the model's context length."""
        ...


@dataclass(frozen=True)
class TextTower:
    """A text tower: `tokenize` and `forward` (token ids int64 [n, length] to float32 [n, d])."""

    tokenize: Tokenize
    forward: Callable[[np.ndarray], np.ndarray]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """As `TextEncoder`."""
        vectors = self.forward(self.tokenize(texts))
        unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return unit


def load_text_encoder(spec: ClipModel) -> TextEncoder:
    """What makes vectors of texts for a profile's CLIP: its text tower alone, where that can be computed here.

    Raises ModelError as `clip.load_clip`.
    """
    tower = _text_tower(spec, clip_files(spec).digest)
    if tower is not None:
        return tower
    from latent_assets.models.clip import load_clip

    return load_clip(spec)


@lru_cache(maxsize=2)
def _text_tower(spec: ClipModel, digest: str) -> TextTower | None:
    """`digest` is part of the cache's key: weights that changed on disk are another model."""
    weights = clip_weights(spec)
    if weights.suffix != ".safetensors":
        return None
    config = clip_config(spec)
    text: dict[str, Any] = config["text_cfg"]
    if "hf_model_name" in text:
        return _bert(spec, text, weights) if text.keys() <= _BERT_KEYS and spec.text_encoder else None
    if not text.keys() <= _CLIP_KEYS or "multimodal_cfg" in config:
        return None
    found = _read(
        weights, ("text.", "token_embedding", "positional_embedding", "transformer.", "ln_final", "text_proj")
    )
    state = {name.removeprefix("text."): value for name, value in found.items()}
    activation = _quick_gelu if config.get("quick_gelu") else _gelu
    causal = not text.get("no_causal_mask", False)

    def forward(tokens: np.ndarray) -> np.ndarray:
        return _clip_forward(state, tokens, int(text["heads"]), activation, causal)

    return TextTower(clip_tokens(int(text.get("context_length", 77))), forward)


def _read(file: Path, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, as float32; nothing else is read."""
    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        return {name: _tensor(weights, name) for name in weights.keys() if name.startswith(prefixes)}  # noqa: SIM118


def _tensor(weights: Any, name: str) -> np.ndarray:
    found: np.ndarray = weights.get_tensor(name)
    return found.astype(np.float32, copy=False)


# -- CLIP's own tower ----------------------------------------------------------------------------------


def _clip_forward(state: Weights, tokens: np.ndarray, heads: int, activation: Activation, causal: bool) -> np.ndarray:
    """Radford et al. 2021: a transformer with the normalisation before each part, read at the end token."""
    last = tokens.argmax(axis=1)  # the end token has the largest id
    if causal:  # nothing behind it is looked at
        tokens = tokens[:, : int(last.max()) + 1]
    length = tokens.shape[1]
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][:length]
    mask = np.triu(np.full((length, length), -np.inf, np.float32), 1) if causal else np.float32(0)
    layer = 0
    while (name := f"transformer.resblocks.{layer}") + ".ln_1.weight" in state:
        inner = _norm(x, state, f"{name}.ln_1", 1e-5)
        joined = inner @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        attended = _attention(np.split(joined, 3, axis=-1), heads, mask)
        x = x + _linear(attended, state, f"{name}.attn.out_proj")
        hidden = activation(_linear(_norm(x, state, f"{name}.ln_2", 1e-5), state, f"{name}.mlp.c_fc"))
        x = x + _linear(hidden, state, f"{name}.mlp.c_proj")
        layer += 1
    pooled = _norm(x[np.arange(len(x)), last], state, "ln_final", 1e-5)
    found: np.ndarray = pooled @ state["text_projection"]
    return found


# -- BERT ----------------------------------------------------------------------------------------------


def _bert(spec: ClipModel, text: Mapping[str, Any], weights: Path) -> TextTower | None:
    """A BERT encoder whose states are pooled and projected; None for another kind of encoder."""
    folder = Path(resolve_path(str(spec.text_encoder)))
    try:
        bert = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    pooler = text.get("hf_pooler_type", "mean_pooler")
    known = bert.get("model_type") == "bert" and bert.get("hidden_act") == "gelu" and pooler in _POOLERS
    if not known or not (folder / "tokenizer.json").is_file() or not (folder / "model.safetensors").is_file():
        return None
    own = _read(weights, ("text.",))
    state = _read(folder / "model.safetensors", ("embeddings.", "encoder.")) | {
        name.removeprefix("text.transformer."): value
        for name, value in own.items()
        if name.startswith("text.transformer.")
    }
    projection = [own[name] for name in sorted(own) if name.startswith("text.proj.")]
    pad, heads, epsilon = int(bert.get("pad_token_id", 0)), int(bert["num_attention_heads"]), bert["layer_norm_eps"]

    def forward(tokens: np.ndarray) -> np.ndarray:
        states, shown = _bert_states(state, tokens, heads, epsilon, pad)
        pooled = states[:, 0]
        if pooler == "mean_pooler":
            pooled = (states * shown[..., None]).sum(axis=1) / shown.sum(axis=1, keepdims=True)
        for number, matrix in enumerate(projection):
            pooled = (_gelu(pooled) if number else pooled) @ matrix.T
        return pooled

    return TextTower(hugging_face_tokens(folder, int(text.get("context_length", 77)), pad), forward)


def _bert_states(
    state: Weights, tokens: np.ndarray, heads: int, epsilon: float, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Devlin et al. 2019: the last layer's states float32 [n, length, d], and which of them are of words."""
    shown = (tokens != pad).astype(np.float32)
    longest = max(1, int(shown.sum(axis=1).max()))
    tokens, shown = tokens[:, :longest], shown[:, :longest]
    x = state["embeddings.word_embeddings.weight"][tokens]
    x = (
        x
        + state["embeddings.position_embeddings.weight"][:longest]
        + state["embeddings.token_type_embeddings.weight"][0]
    )
    x = _norm(x, state, "embeddings.LayerNorm", epsilon)
    mask = np.where(shown[:, None, None, :] > 0, np.float32(0), np.float32(-np.inf))
    layer = 0
    while (name := f"encoder.layer.{layer}") + ".output.dense.weight" in state:
        parts = [_linear(x, state, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        attended = _linear(_attention(parts, heads, mask), state, f"{name}.attention.output.dense")
        x = _norm(x + attended, state, f"{name}.attention.output.LayerNorm", epsilon)
        hidden = _gelu(_linear(x, state, f"{name}.intermediate.dense"))
        x = _norm(x + _linear(hidden, state, f"{name}.output.dense"), state, f"{name}.output.LayerNorm", epsilon)
        layer += 1
    return x, shown


# -- parts ---------------------------------------------------------------------------------------------


def _linear(x: np.ndarray, state: Weights, name: str) -> np.ndarray:
    found: np.ndarray = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    return found


def _norm(x: np.ndarray, state: Weights, name: str, epsilon: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    found: np.ndarray = centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]
    return found


def _attention(parts: Sequence[np.ndarray], heads: int, mask: Any) -> np.ndarray:
    """Scaled dot product of `heads` heads over queries, keys and values [n, length, d]; `mask` is added to scores."""
    query, key, value = parts
    n, length, width = query.shape

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(n, length, heads, width // heads).transpose(0, 2, 1, 3)

    scores = split(query) @ split(key).transpose(0, 1, 3, 2) / np.float32(math.sqrt(width // heads)) + mask
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    found: np.ndarray = (shares @ split(value)).transpose(0, 2, 1, 3).reshape(n, length, width)
    return found


def _gelu(x: np.ndarray) -> np.ndarray:
    error = np.asarray(_erf(x * np.float32(math.sqrt(0.5))), np.float32)
    found: np.ndarray = x * np.float32(0.5) * (1 + error)
    return found


def _quick_gelu(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x / (1 + np.exp(np.float32(-1.702) * x))
    return found
