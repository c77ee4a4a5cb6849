"""The VAE through diffusers: images to latents of Stable Diffusion's kind, and the map features made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from latent_assets.errors import ModelError
from latent_assets.models.device import best_device, dtype_on
from latent_assets.models.preprocessing import square
from latent_assets.models.weights import model_directory, pool_side, quiet_loading, vae_files
from latent_assets.profile import VaeModel

_PROJECTION_SEED = 20_260_101


@dataclass(frozen=True)
class VaeEncoder:
    """A loaded AutoencoderKL. Latents are the distribution's mean, times the model's own scaling factor."""

    model: AutoencoderKL
    size: int
    feature_dim: int
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of one image."""
        factor = 2 ** (len(self.model.config.block_out_channels) - 1)
        return int(self.model.config.latent_channels), self.size // factor, self.size // factor

    @property
    def columns(self) -> Mapping[str, int]:
        """`latent`, row-major C, h, w, and the candidates for a map feature made from it."""
        return {"latent": math.prod(self.latent_shape), "pooled": self.feature_dim, "random": self.feature_dim}

    @property
    def metadata(self) -> Mapping[str, str]:
        """`latent_shape`: C,h,w."""
        return {"latent_shape": ",".join(map(str, self.latent_shape))}

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
            mean = self.model.encode(x.to(self.dtype)).latent_dist.mean.float()
        shift = self.model.config.get("shift_factor") or 0.0
        scaled: torch.Tensor = (mean - shift) * float(self.model.config.scaling_factor)
        return scaled

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


def load_vae(spec: VaeModel, device: torch.device | None = None) -> VaeEncoder:
    """Load the VAE of a profile, once per process and weights. Raises ModelError when it cannot be loaded."""
    return _load(spec, device or best_device(), vae_files(spec).digest)


@lru_cache(maxsize=2)
def _load(spec: VaeModel, device: torch.device, digest: str) -> VaeEncoder:
    """`digest` is part of the cache's key: weights that changed on disk are another model."""
    dtype = dtype_on(device, spec.dtype, torch.bfloat16)
    model = _read(spec, dtype)
    # each half is used alone: the other's weights need not be in memory
    del model.decoder
    model = model.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
    return VaeEncoder(model, spec.size, spec.feature_dim, device, dtype)


def _read(spec: VaeModel, dtype: torch.dtype) -> AutoencoderKL:
    try:
        with quiet_loading():
            found: AutoencoderKL = AutoencoderKL.from_pretrained(
                model_directory(spec.model, "models.vae.model"), dtype=dtype
            )
            return found
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"models.vae.model: {spec.model} is not an AutoencoderKL: {error}") from error


@dataclass(frozen=True)
class VaeDecoder:
    """The other half of a loaded AutoencoderKL: latents as `VaeEncoder` gives them become pictures."""

    model: AutoencoderKL
    device: torch.device
    dtype: torch.dtype

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """RGB pictures of scaled latents float32 [n, C, h, w], one after the other: memory does not grow with n."""
        return [self._picture(torch.from_numpy(each[None])) for each in np.ascontiguousarray(latents, np.float32)]

    def _picture(self, latents: torch.Tensor) -> Image.Image:
        shift = self.model.config.get("shift_factor") or 0.0
        plain = latents.to(self.device) / float(self.model.config.scaling_factor) + shift
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
    dtype = dtype_on(device, "auto", torch.bfloat16)
    model = _read(spec, dtype)
    del model.encoder
    return VaeDecoder(model.eval().requires_grad_(False).to(device=device), device, dtype)
