"""From a pipeline's latents to pictures, and whose latent space they are in.

Latents of another family of models (SDXL, SD3, FLUX) are another space: other channels, other scale, other meaning. On
the maps of a release they have a place only after they were decoded and encoded again with the release's own models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

if TYPE_CHECKING:
    from latent_assets.models.vae import VaeEncoder

_PARALLEL = 0.9995  # cosine from which the arc is a line, and the sines would divide rounding errors
_CLOSE = 2e-3  # relative: the rounding of half precision, which one of two copies may have been saved in


def decodes(pipeline: Any) -> bool:
    """Whether this module can decode a pipeline's latents."""
    vae = getattr(pipeline, "vae", None)
    return vae is not None and type(vae).__name__ in ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderTiny")


def decode(pipeline: Any, latents: torch.Tensor, size: int) -> list[Image.Image]:
    """RGB pictures, size x size, of latents [n, ...] as the pipeline's scheduler has them: scaled, maybe packed.

    Decoded as the pipelines of diffusers decode their last latents; `latents` stay as they are.
    """
    vae = pipeline.vae
    upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast") and hasattr(pipeline, "upcast_vae")
    if upcast:  # SDXL's decoder overflows in half precision
        vae.to(torch.float32)
    try:
        with torch.inference_mode():
            plain = _unscaled(pipeline, _unpacked(pipeline, latents.float(), size))
            decoded = vae.decode(plain.to(vae.dtype), return_dict=False)[0]
    finally:
        if upcast:
            vae.to(torch.float16)
    pictures: list[Image.Image] = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return pictures


def _unpacked(pipeline: Any, latents: torch.Tensor, size: int) -> torch.Tensor:
    """Latents [n, channels, h, w]; transformers of FLUX's kind have them as tokens [n, h/2 * w/2, 4 * channels]."""
    if latents.ndim == 4:
        return latents
    if type(pipeline.vae).__name__ == "AutoencoderKLFlux2":
        side = size // (pipeline.vae_scale_factor * 2)
        return latents.permute(0, 2, 1).reshape(len(latents), -1, side, side)
    found: torch.Tensor = pipeline._unpack_latents(latents, size, size, pipeline.vae_scale_factor)
    return found


def _unscaled(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE itself has them."""
    vae: Any = pipeline.vae
    config: Any = vae.config
    if type(vae).__name__ == "AutoencoderKLFlux2":
        mean, variance = (value.view(1, -1, 1, 1).to(latents) for value in (vae.bn.running_mean, vae.bn.running_var))
        found: torch.Tensor = pipeline._unpatchify_latents(
            latents * torch.sqrt(variance + config.batch_norm_eps) + mean
        )
        return found
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, deviation = (
            torch.tensor(value).view(1, -1, 1, 1).to(latents) for value in (config.latents_mean, config.latents_std)
        )
        return latents * deviation / float(config.scaling_factor) + mean
    return latents / float(config.scaling_factor) + float(config.get("shift_factor") or 0.0)


def slerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """The point at `share` of the great circle from `start` to `end` (any shape, the same); lengths are mixed, too."""
    cosine = torch.nn.functional.cosine_similarity(start.flatten(), end.flatten(), dim=0)
    if float(cosine) > _PARALLEL:
        return torch.lerp(start, end, share)
    angle = torch.arccos(cosine.clamp(-1, 1))
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(angle)


def same_space(pipeline: Any, encoder: VaeEncoder) -> bool:
    """Whether a pipeline's latents are in the space of a release's VAE: their encoders are the same function.

    Decoders may differ, as those of Stable Diffusion 1.5 and of `sd-vae-ft-mse` do.
    """
    mine, other = getattr(pipeline, "vae", None), encoder.model
    if mine is None or type(mine) is not type(other) or mine.config.get("latents_mean") is not None:
        return False
    keys = ("scaling_factor", "shift_factor", "latent_channels", "block_out_channels")
    if any((mine.config.get(key) or None) != (other.config.get(key) or None) for key in keys):
        return False
    for part in ("encoder", "quant_conv"):
        left, right = getattr(mine, part, None), getattr(other, part, None)
        if (left is None) != (right is None):
            return False
        if left is not None and right is not None and not _equal(left.state_dict(), right.state_dict()):
            return False
    return True


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        values.shape == right[name].shape
        and torch.allclose(values.float().cpu(), right[name].float().cpu(), rtol=_CLOSE, atol=_CLOSE)
        for name, values in left.items()
    )
