"""Training the demo's text-to-image model: a small conditional UNet on the autoencoder's 8 x 8 x 4 latents.

Here: its shape, its loss, its export for diffusers' StableDiffusionPipeline. Not here: figures (`evaluate`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from infra.training.loop import Loss, Schedule, train
from infra.training.pictures import load_pictures
from infra.training.sheet import SHEET_PROMPTS, generated_sheet
from infra.training.shipped import PROMPT_TOKENS, assemble_pipeline, text_encoder_directory
from infra.training.texts import alias_texts
from infra.training.vae import encode_means
from latent_assets.openmoji.dataset import emoji_table

SCHEDULE = Schedule(steps=9000, batch=64, rate=1e-3, ema=0.9995, save_every=500)
TONED_WEIGHT = 0.06
ALIAS_SHARE = 0.2
UNCONDITIONAL_SHARE = 0.1
SNR_LIMIT = 5.0


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet of 8.4 M parameters: convolutions at 8 x 8, text attention at 4 x 4."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 192),
        layers_per_block=1,
        cross_attention_dim=384,
        attention_head_dim=6,
        norm_num_groups=32,
        use_linear_projection=True,
        time_embedding_dim=256,
    )


def build_scheduler() -> DDIMScheduler:
    """Cosine noise, v-prediction; the same object adds noise in training and is shipped for sampling."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Examples:
    """Scaled latents float32 [n, 4, 8, 8]; prompt states float16 [p, tokens, 384]; prompts of each picture.

    Prompt i < n is picture i's caption; `other_prompts[i]` are the indices of its aliases. `weights` [n] say how
    often a picture is drawn. `empty` [tokens, 384] is the empty prompt.
    """

    latents: Tensor
    states: Tensor
    other_prompts: list[list[int]]
    weights: Tensor
    empty: Tensor


def train_diffusion(out: Path, steps: int | None, resume: bool) -> Path:
    """Train below `out/diffusion` on the autoencoder exported to `out/vae/export`; return the export."""
    schedule = Schedule(**{**vars(SCHEDULE), **({"steps": steps} if steps else {})})
    torch.manual_seed(schedule.seed)
    vae = AutoencoderKL.from_pretrained(out / "vae" / "export", dtype=torch.float32).eval()
    examples = build_examples(vae, out)
    directory = out / "diffusion"

    def preview(average: Any, step: int) -> None:
        pipeline = assemble_pipeline(export_diffusion(average, directory / "export"), vae)
        generated_sheet(pipeline, SHEET_PROMPTS).save(directory / "preview.png")

    loss = diffusion_loss(examples, schedule)
    average = train(build_unet(), loss, schedule, directory, resume=resume, preview=preview)
    return export_diffusion(average, directory / "export")


def build_examples(vae: AutoencoderKL, out: Path) -> Examples:
    """Encode every picture and every prompt once."""
    pictures = load_pictures(out / "data")
    latents = encode_means(vae, pictures.plain(torch.arange(len(pictures.small)))) * vae.config.scaling_factor
    captions = emoji_table()["caption"].to_list()
    per_picture = alias_texts()
    names = sorted({name for own in per_picture for name in own})
    index = {name: len(captions) + position for position, name in enumerate(names)}
    toned = torch.tensor([caption.endswith(" skin tone") and "," in caption for caption in captions])
    states = prompt_states([*captions, *names, ""])
    return Examples(
        latents=latents,
        states=states[:-1],
        other_prompts=[
            [] if tone else [index[name] for name in own] for own, tone in zip(per_picture, toned.tolist(), strict=True)
        ],
        weights=torch.where(toned, TONED_WEIGHT, 1.0),
        empty=states[-1],
    )


@torch.no_grad()
def prompt_states(prompts: list[str], batch: int = 256) -> Tensor:
    """What StableDiffusionPipeline feeds the UNet: last hidden states over all tokens, padding included."""
    directory = text_encoder_directory()
    tokenizer = AutoTokenizer.from_pretrained(directory, model_max_length=PROMPT_TOKENS)
    encoder = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    parts = []
    for start in range(0, len(prompts), batch):
        tokens = tokenizer(prompts[start : start + batch], padding="max_length", truncation=True, return_tensors="pt")
        states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        parts.append(states.half())
    return torch.cat(parts)


def diffusion_loss(examples: Examples, schedule: Schedule) -> Loss:
    """v-prediction with min-SNR weights (Hang et al. 2023, limit 5); one prompt in ten is left empty."""
    noise_scheduler = build_scheduler()
    signal = noise_scheduler.alphas_cumprod
    snr = signal / (1 - signal)
    importance = snr.clamp(max=SNR_LIMIT) / (snr + 1)
    importance = importance / importance.mean()

    def loss(model: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.multinomial(examples.weights, schedule.batch, generator=generator)
        states = _prompts(examples, indices, generator)
        latents = examples.latents[indices]
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(1000, (schedule.batch,), generator=generator)
        noisy = noise_scheduler.add_noise(latents, noise, times)
        target = noise_scheduler.get_velocity(latents, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, times, states, return_dict=False)[0]
        error = (predicted.float() - target).pow(2).mean(dim=(1, 2, 3))
        return (error * importance[times]).mean(), {"error": error.mean().item()}

    return loss


def _prompts(examples: Examples, indices: Tensor, generator: torch.Generator) -> Tensor:
    chosen = indices.clone()
    chance = torch.rand(len(indices), generator=generator)
    pick = torch.rand(len(indices), generator=generator)
    for row, index in enumerate(indices.tolist()):
        others = examples.other_prompts[index]
        if others and chance[row] < ALIAS_SHARE:
            chosen[row] = others[int(pick[row] * len(others))]
    states = examples.states[chosen].float()
    states[torch.rand(len(indices), generator=generator) < UNCONDITIONAL_SHARE] = examples.empty.float()
    return states


def export_diffusion(average: Any, directory: Path) -> Path:
    """Write unet/ (float16), scheduler/ and model_index.json; encoder, tokenizer and vae come from elsewhere."""
    unet = build_unet()
    unet.load_state_dict(average.state_dict())
    unet.half().save_pretrained(directory / "unet")
    build_scheduler().save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "BertTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return directory
