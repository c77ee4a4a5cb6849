"""The VAE through diffusers: images to latents and back, and the map features made of them.

Any autoencoder of single images that diffusers has: AutoencoderKL (Stable Diffusion, SDXL, SD3, FLUX), AutoencoderDC,
AutoencoderTiny, VQModel. Others are refused with the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from latent_assets.errors import ModelError
from latent_assets.models.device import best_device
from latent_assets.models.encoder import LARGE, SMALL_BATCH
from latent_assets.models.precision import arithmetic
from latent_assets.models.preprocessing import square
from latent_assets.models.weights import model_directory, pool_side, quiet_loading, vae_files
from latent_assets.profile import VaeModel

_PROJECTION_SEED = 20_260_101
_KEY = "models.vae.model"


@dataclass(frozen=True)
class VaeEncoder:
    """A loaded autoencoder. Latents are the distribution's mean, as the diffusion models of its family see them."""

    model: Any
    config: Mapping[str, Any]
    size: int
    latent_shape: tuple[int, int, int]  # channels, height and width of the latents of one image
    feature_dim: int
    device: torch.device
    dtype: torch.dtype

    @property
    def columns(self) -> Mapping[str, int]:
        """`latent`, row-major C, h, w, and the candidates for a map feature made from it."""
        return {"latent": math.prod(self.latent_shape), "pooled": self.feature_dim, "random": self.feature_dim}

    @property
    def metadata(self) -> Mapping[str, str]:
        """`latent_shape`: C,h,w."""
        return {"latent_shape": ",".join(map(str, self.latent_shape))}

    @cached_property
    def cpu_batch(self) -> int:
        """Images that a CPU encodes at once: one fills it, if the model is large."""
        return 1 if sum(value.numel() for value in self.model.parameters()) >= LARGE else SMALL_BATCH

    @cached_property
    def _projection(self) -> torch.Tensor:
        """Gaussian random projection float32 [C*h*w, k], the same on every machine (Johnson-Lindenstrauss)."""
        length = math.prod(self.latent_shape)
        matrix = np.random.Generator(np.random.Philox(_PROJECTION_SEED)).standard_normal((length, self.feature_dim))
        return torch.from_numpy(matrix.astype(np.float32) / math.sqrt(self.feature_dim)).to(self.device)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Centre crop uint8 [size, size, 3]."""
        return square(image, self.size, Image.Resampling.LANCZOS)

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, size, size, 3] to scaled latents float32 [n, C, h, w] on the model's device."""
        x = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.inference_mode():
            latents = _latents(self.model.encode(x.to(self.dtype))).float()
            shift, factor = _scale(self.config, latents.device)
            return (latents - shift) * factor

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The columns of uint8 [n, size, size, 3]."""
        latents = self.encode_pixels(pixels)
        pooled, random = self.features(latents)
        return {"latent": latents.flatten(1), "pooled": pooled, "random": random}

    def features(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two candidates for a map feature, each float32 [n, k]: pooled latents and a random projection."""
        side = pool_side(self.latent_shape[0], self.latent_shape[1], self.feature_dim)
        pooled = torch.nn.functional.adaptive_avg_pool2d(latents, side).flatten(1)
        return pooled, latents.flatten(1) @ self._projection


def _scale(config: Mapping[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and factor, of every channel or of all: (latents - shift) * factor is what the family's pipelines hand to
    the diffusion model."""
    shift = torch.tensor(float(config.get("shift_factor") or 0.0), device=device)
    factor = torch.tensor(float(config.get("scaling_factor") or 1.0), device=device)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean and deviation:
        mean, deviation = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (mean, deviation))
        shift, factor = mean + deviation * shift, factor / deviation
    return shift, factor


def _latents(output: Any) -> torch.Tensor:
    """The latents of whatever an autoencoder of diffusers gives: a distribution's mean where it gives one."""
    for name in ("latent_dist", "latents", "latent"):
        if (found := getattr(output, name, None)) is not None:
            mean: torch.Tensor = found.mean if name == "latent_dist" else found
            return mean
    raise ModelError(f"{_KEY}: its encoder gives {type(output).__name__}, in which there are no latents.")


def load_vae(spec: VaeModel, device: torch.device | None = None) -> VaeEncoder:
    """Load the VAE of a profile, once per process and weights.

    Raises ModelError when it cannot be loaded or is no autoencoder of single images, ProfileError when `size` or
    `feature_dim` do not fit it.
    """
    chosen = spec.model_copy(update={"dtype": arithmetic("vae", spec).dtype})
    return _load(chosen, device or best_device(), vae_files(spec).digest)


@lru_cache(maxsize=1)
def _load(spec: VaeModel, device: torch.device, digest: str) -> VaeEncoder:
    """`spec.dtype` is a format, not `auto`. `digest` is part of the key: weights that changed are another model."""
    folder = model_directory(spec.model, _KEY)
    kind = autoencoder_class(folder, spec.model)
    shape = latent_shape(kind, folder, spec)
    pool_side(shape[0], shape[1], spec.feature_dim)
    dtype: torch.dtype = getattr(torch, spec.dtype)
    model = _read(kind, folder, spec, dtype)
    if model.config.get("force_upcast") and dtype == torch.float16:
        raise ModelError(f'{_KEY}: {spec.model} overflows in float16: set models.vae.dtype to "bfloat16" or "float32".')
    # each half is used alone: the other's weights need not be in memory
    for part in ("decoder", "post_quant_conv"):
        if hasattr(model, part):
            delattr(model, part)
    # channels last, but for bfloat16 on a CPU: its convolutions gain less by it than its normalisations lose
    plain = device.type == "cpu" and dtype == torch.bfloat16
    memory_format = torch.contiguous_format if plain else torch.channels_last
    model = model.eval().requires_grad_(False).to(device=device, memory_format=memory_format)
    return VaeEncoder(model, dict(model.config), spec.size, shape, spec.feature_dim, device, dtype)


def _read(kind: Any, folder: Path, spec: VaeModel, dtype: torch.dtype) -> Any:
    try:
        with quiet_loading():
            return kind.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{_KEY}: {spec.model} is not a {kind.__name__}: {error}") from error


@dataclass(frozen=True)
class VaeDecoder:
    """The other half of a loaded autoencoder: latents as `VaeEncoder` gives them become pictures."""

    model: Any
    config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """RGB pictures of scaled latents float32 [n, C, h, w], one after the other: memory does not grow with n."""
        return [self._picture(torch.from_numpy(each[None])) for each in np.ascontiguousarray(latents, np.float32)]

    def _picture(self, latents: torch.Tensor) -> Image.Image:
        shift, factor = _scale(self.config, self.device)
        plain = latents.to(self.device) / factor + shift
        with torch.inference_mode():
            decoded = self.model.decode(plain.to(self.dtype), return_dict=False)[0][0].float()
        pixels = decoded.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def load_vae_decoder(spec: VaeModel, device: torch.device | None = None) -> VaeDecoder:
    """Load the decoder of a profile's VAE, once per process and weights. Raises ModelError when it cannot be loaded."""
    return _load_decoder(spec, device or best_device(), vae_files(spec).digest)


@lru_cache(maxsize=1)
def _load_decoder(spec: VaeModel, device: torch.device, digest: str) -> VaeDecoder:
    """`digest` is part of the cache's key, as in `_load`. Decoders overflow in float16: not the profile's dtype."""
    folder = model_directory(spec.model, _KEY)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = _read(autoencoder_class(folder, spec.model), folder, spec, dtype)
    for part in ("encoder", "quant_conv"):
        if hasattr(model, part):
            delattr(model, part)
    return VaeDecoder(model.eval().requires_grad_(False).to(device=device), dict(model.config), device, dtype)


def autoencoder_class(folder: Path, name: str) -> Any:
    """The class of diffusers that a directory's configuration names. Raises ModelError for none, or of no use here."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = str(values.get("_class_name", "AutoencoderKL"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{_KEY}: {name} has no configuration of an autoencoder ({error}).") from error
    kind = getattr(diffusers, named, None)
    if kind is None:
        raise ModelError(f"{_KEY}: {name} is a {named}, which diffusers {diffusers.__version__} does not have.")
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module) and hasattr(kind, "encode")):
        raise ModelError(f"{_KEY}: {name} is a {named}, which does not encode images. Set the pipeline's `vae`.")
    return kind


def latent_shape(kind: Any, folder: Path, spec: VaeModel) -> tuple[int, int, int]:
    """Shape [C, h, w] of an image's latents, found by encoding one without weights (on torch's device `meta`).

    Raises ModelError when an image of the profile's size cannot be encoded, with the reason.
    """
    try:
        with torch.device("meta"), quiet_loading(), torch.inference_mode():
            model = kind.from_config(kind.load_config(folder)).eval()
            shape = tuple(_latents(model.encode(torch.zeros(1, 3, spec.size, spec.size))).shape)
    except ModelError:
        raise
    except Exception as error:  # whatever an architecture makes of what it cannot take
        raise ModelError(
            f"{_KEY}: {spec.model} ({kind.__name__}) does not encode images of {spec.size}x{spec.size} pixels "
            f"({type(error).__name__}: {str(error)[:200]}): it is for videos, sounds or other sizes."
        ) from error
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ModelError(f"{_KEY}: latents of {spec.model} ({kind.__name__}) have the shape {shape[1:]}, not C, h, w.")
    return shape[1], shape[2], shape[3]
