"""Training the demo's CLIP: a small image tower learns where the sentence encoder puts a picture's names.

Here: the loss and the export in open_clip's format. Not here: loading (`shipped`), figures (`evaluate`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import PatchDropout
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from infra.training.loop import Loss, Schedule, train
from infra.training.pictures import Augmentation, Pictures, load_pictures
from infra.training.shipped import CLIP_CONFIG, load_open_clip, text_encoder_directory
from infra.training.texts import CATEGORIES, TextBank, build_text_bank

SCHEDULE = Schedule(steps=2400, batch=64, rate=1e-3, weight_decay=0.05, warmup=300)
AUGMENTATION = Augmentation(affine=0.6, scale=0.12, shift=0.06, degrees=8, colour=0.3, colour_strength=0.06)
PATCH_DROPOUT = 0.35
PATCH_DROPOUT_UNTIL = 0.6
FAMILY_SHARE = 0.25

# Second stage: pictures of one category are drawn together, so that neighbours share it.
TUNING = Schedule(steps=500, batch=64, rate=4e-4, weight_decay=0.05, warmup=50, ema=0.995, save_every=100)
CATEGORY_PULL = 0.8
# Last step: a linear reading of the category, found by ridge regression, is added to the image projection.
CATEGORY_GAIN = 0.2
RIDGE = 1e-2


class ClipTrunk(nn.Module):
    """What is trained and shipped: image tower, text projection (starts as identity), temperature."""

    def __init__(self) -> None:
        super().__init__()
        model, _, self.tokenizer = load_open_clip(CLIP_CONFIG, None, text_encoder_directory())
        self.visual = model.visual
        self.project = model.text.proj
        nn.init.eye_(self.project.weight)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.frozen_text = [model.text]

    def __deepcopy__(self, memo: dict[int, object]) -> ClipTrunk:
        copy = ClipTrunk()
        copy.load_state_dict(self.state_dict())
        return copy


def train_clip(out: Path, steps: int | None, resume: bool) -> Path:
    """Train both stages below `out/clip` and return the directory of the exported model.

    `steps` is the first stage's number of steps.
    """
    pictures = load_pictures(out / "data")
    schedule = Schedule(**{**vars(SCHEDULE), **({"steps": steps} if steps else {})})
    torch.manual_seed(schedule.seed)
    trunk = ClipTrunk()
    bank = build_text_bank(trunk.frozen_text[0], trunk.tokenizer)
    directory = out / "clip"

    def preview(average: Any, step: int) -> None:
        print(f"step {step}: caption recall@10 {caption_recall(average, pictures, bank):.3f}", flush=True)

    average = train(
        trunk,
        clip_loss(pictures, bank, schedule),
        schedule,
        directory,
        resume=resume,
        slow={"project": 0.1},
        preview=preview,
    )
    average = train(
        average.requires_grad_(),
        clip_loss(pictures, bank, TUNING, tuning=True),
        TUNING,
        directory / "tuning",
        resume=resume,
        slow={"project": 0.1},
        preview=preview,
    )
    add_category_reading(average, pictures, bank)
    return export_clip(average, directory / "export")


def clip_loss(pictures: Pictures, bank: TextBank, schedule: Schedule, tuning: bool = False) -> Loss:
    """Every picture against every caption, alias and group of the data set, plus regression to its meaning.

    When `tuning`, the place a picture is drawn to has a share of its category's direction, small categories are
    drawn more often, and no patches are dropped.
    """
    directions, category = bank.category_directions, bank.category
    meaning, weights = bank.meaning, torch.where(bank.toned, 0.6, 1.0)
    if tuning:
        meaning = functional.normalize(meaning + CATEGORY_PULL * directions[category], dim=-1)
        weights = torch.where(bank.toned, 0.4, 1.0) / torch.bincount(category)[category].sqrt()
    neighbours = functional.softmax(bank.captions @ bank.captions.T / 0.04, dim=-1)

    def loss(model: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        dropping = not tuning and step < PATCH_DROPOUT_UNTIL * schedule.steps
        model.visual.patch_dropout = PatchDropout(PATCH_DROPOUT) if dropping else nn.Identity()
        indices = _batch(bank, weights, schedule.batch, generator)
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model.visual(pictures.augmented(indices, AUGMENTATION, generator))
        vectors = functional.normalize(vectors.float(), dim=-1)
        captions, names, groups, target, axes = (
            functional.normalize(model.project(part), dim=-1)
            for part in (bank.captions, bank.aliases, bank.groups, meaning[indices], directions)
        )
        scale = model.logit_scale.exp().clamp(max=100)
        logits = scale * vectors @ captions.T
        wanted = 0.1 * neighbours[indices] + 0.9 * functional.one_hot(indices, len(captions))
        parts = {
            "caption": functional.cross_entropy(logits, wanted),
            "picture": functional.cross_entropy(logits[:, indices].T, torch.arange(len(indices))),
            "name": functional.cross_entropy(30 * vectors @ names.T, bank.alias_weights[indices]),
            "group": functional.cross_entropy(20 * vectors @ groups.T, bank.group_weights[indices]),
            "category": functional.cross_entropy(20 * vectors @ axes.T, category[indices]),
            "distance": (1 - (vectors * target).sum(dim=-1)).mean(),
        }
        shares = {"caption": 1.0, "picture": 0.3, "name": 0.3, "group": 0.3, "distance": 3.0}
        if tuning:
            shares["category"] = 0.5
        value = torch.stack([share * parts[name] for name, share in shares.items()]).sum()
        return value, {name: part.item() for name, part in parts.items()}

    return loss


@torch.no_grad()
def add_category_reading(trunk: Any, pictures: Pictures, bank: TextBank, passes: int = 3) -> None:
    """Strengthen what the image tower already knows of the category, without touching its other weights.

    Ridge regression reads the category from the pooled features (one plain and `passes` - 1 augmented passes,
    categories weighted by 1 / sqrt(size)); its answer is written along the category directions.
    """
    projection = trunk.visual.proj
    trunk.visual.proj, trunk.visual.patch_dropout = None, nn.Identity()
    features = torch.cat([_pooled(trunk, pictures, number) for number in range(passes)])
    category = bank.category.repeat(passes)
    weights = torch.bincount(category)[category].float().rsqrt().unsqueeze(1)
    ridge = RIDGE * weights.sum() * torch.eye(features.shape[1])
    answers = functional.one_hot(category, CATEGORIES).float()
    reading = torch.linalg.solve((features * weights).T @ features + ridge, (features * weights).T @ answers)
    directions = functional.normalize(trunk.project(bank.category_directions), dim=-1)
    length = (features @ projection).norm(dim=-1).mean()
    trunk.visual.proj = nn.Parameter(projection + CATEGORY_GAIN * length * reading @ directions)


@torch.no_grad()
def encode_pictures(trunk: Any, pictures: Pictures, batch: int = 256) -> Tensor:
    """Unit image vectors of the whole data set, float32 [n, 384]."""
    parts = torch.split(torch.arange(len(pictures.small)), batch)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = torch.cat([trunk.visual(pictures.plain(part)) for part in parts])
    return functional.normalize(vectors.float(), dim=-1)


@torch.no_grad()
def caption_recall(trunk: Any, pictures: Pictures, bank: TextBank, k: int = 10) -> float:
    """Share of captions whose own picture is among the first k by similarity."""
    trunk.visual.patch_dropout = nn.Identity()
    similarity = functional.normalize(trunk.project(bank.captions), dim=-1) @ encode_pictures(trunk, pictures).T
    own = similarity.diagonal().unsqueeze(1)
    return ((similarity > own).sum(dim=1) < k).float().mean().item()


def export_clip(average: Any, directory: Path) -> Path:
    """Write the averaged weights under open_clip's names, float16, without the sentence encoder's."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {f"visual.{name}": tensor for name, tensor in average.visual.state_dict().items()}
    state |= {"text.proj.weight": average.project.weight, "logit_scale": average.logit_scale}
    halves = {name: tensor.detach().half().contiguous() for name, tensor in state.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(CLIP_CONFIG, directory / CLIP_CONFIG.name)
    return directory


def _pooled(trunk: Any, pictures: Pictures, number: int) -> Tensor:
    """Pass `number` over the data set (0 is plain) through a tower without projection, float32 [n, 256]."""
    generator = torch.Generator().manual_seed(number)
    parts = []
    for part in torch.split(torch.arange(len(pictures.small)), 128):
        batch = pictures.augmented(part, AUGMENTATION, generator) if number else pictures.plain(part)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(trunk.visual(batch).float())
    return torch.cat(parts)


def _batch(bank: TextBank, weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Distinct pictures, part of them from one family of skin tones so that these are told apart."""
    drawn = torch.multinomial(weights, size, generator=generator)
    lead = torch.multinomial(bank.toned.float(), 1, generator=generator)
    family = (bank.family == bank.family[lead]).nonzero().flatten()
    order = torch.randperm(len(family), generator=generator)[: int(size * FAMILY_SHARE)]
    distinct: Tensor = torch.unique(torch.cat([family[order], drawn]))  # type: ignore[no-untyped-call]
    return distinct
