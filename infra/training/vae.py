"""Training the demo's autoencoder: 64 px pictures to 8 x 8 x 4 latents and back.

Here: its shape, its loss, its export as a diffusers `AutoencoderKL`. Not here: its figures (`evaluate`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from infra.training.loop import Loss, Schedule, train
from infra.training.pictures import Augmentation, Pictures, load_pictures, to_image

SCHEDULE = Schedule(steps=4300, batch=16, rate=1e-3, save_every=500)
AUGMENTATION = Augmentation(affine=0.3, flip=0.2, colour=0.2, jpeg=0.03)
KL_WEIGHT = 5e-6


def build_vae(**overrides: Any) -> AutoencoderKL:
    """An untrained AutoencoderKL of 6.0 M parameters: 64 px, factor 8, 4 latent channels."""
    settings: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [16, 32, 96, 192],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    return AutoencoderKL(**{**settings, **overrides})


def train_vae(out: Path, steps: int | None, resume: bool) -> Path:
    """Train below `out/vae` and return the directory of the exported model."""
    pictures = load_pictures(out / "data")
    schedule = Schedule(**{**vars(SCHEDULE), **({"steps": steps} if steps else {})})
    torch.manual_seed(schedule.seed)
    directory = out / "vae"

    def preview(average: Any, step: int) -> None:
        sample = pictures.plain(torch.arange(7, len(pictures.small), len(pictures.small) // 16)[:16])
        reconstruction_sheet(average, sample).save(directory / "preview.png")

    average = train(build_vae(), vae_loss(pictures, schedule), schedule, directory, resume=resume, preview=preview)
    return export_vae(average, pictures, directory / "export")


def vae_loss(pictures: Pictures, schedule: Schedule) -> Loss:
    """Per-picture RMSE (what PSNR measures) + L1 + L1 of the gradients (outlines) + a little KL."""

    def loss(model: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(len(pictures.small), (schedule.batch,), generator=generator)
        target = pictures.augmented(indices, AUGMENTATION, generator)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = model.quant_conv(model.encoder(target)).chunk(2, dim=1)
        mean, log_variance = mean.float(), log_variance.float().clamp(-20, 10)
        latents = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            output = model.decoder(model.post_quant_conv(latents))
        error = output.float() - target
        squared = error.pow(2).mean(dim=(1, 2, 3))
        outline = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        divergence = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
        value = (squared + 1e-5).sqrt().mean() + 0.3 * error.abs().mean() + 0.1 * outline
        figures = {"psnr": (10 * torch.log10(4 / squared)).mean().item(), "kl": divergence.item()}
        figures |= {"latent_std": mean.std().item(), "noise_std": (0.5 * log_variance).exp().mean().item()}
        return value + KL_WEIGHT * divergence, figures

    return loss


@torch.no_grad()
def encode_means(vae: Any, pictures: Tensor, batch: int = 128) -> Tensor:
    """Latent means (unscaled), float32 [n, 4, 8, 8], of float [n, 3, 64, 64] in [-1, 1]."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, batch)])


@torch.no_grad()
def reconstruction_sheet(vae: Any, sample: Tensor, columns: int = 8, zoom: int = 2) -> Image.Image:
    """A picture of original / reconstruction pairs, original above its reconstruction."""
    rebuilt = vae.decode(vae.encode(sample).latent_dist.mean).sample
    rows = -(-len(sample) // columns)
    sheet = Image.new("RGB", (columns * 68, rows * 136), "white")
    for index, (original, copy) in enumerate(zip(sample, rebuilt, strict=True)):
        left, top = index % columns * 68 + 2, index // columns * 136 + 2
        sheet.paste(to_image(original), (left, top))
        sheet.paste(to_image(copy), (left, top + 66))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.LANCZOS)


def export_vae(average: Any, pictures: Pictures, directory: Path) -> Path:
    """Write the averaged weights as float16 with `scaling_factor` = 1 / std of the data set's latents."""
    latents = encode_means(average, pictures.plain(torch.arange(len(pictures.small))))
    vae = build_vae(scaling_factor=round(1 / latents.std().item(), 5))
    vae.load_state_dict(average.state_dict())
    vae.half().save_pretrained(directory)
    return directory
