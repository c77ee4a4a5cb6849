"""Judges the shipped models: `python -m infra.training.evaluate [--json] [--quick]`.

Here: the figures the model cards state and the tests demand, always from the shipped float16 weights. Not here:
training, and anything that needs the atlas.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from infra.training.shipped import load_clip, load_pipeline, load_vae
from latent_assets.openmoji.dataset import base_caption, emoji_table, render_png

QUERIES = Path(__file__).with_name("queries.toml")
NEIGHBOURS = 10
PROMPT_COUNT = 100
PROMPT_SEED = 17
# Nine pictures (hair styles and skin tones): too few for a majority among ten neighbours to mean anything.
TOO_SMALL_CATEGORY = "Component"


@dataclass(frozen=True)
class VaeFigures:
    """`psnr_mean`, `psnr_p05`: dB over all pictures (mean, 5th percentile) for values in [-1, 1]."""

    pictures: int
    psnr_mean: float
    psnr_p05: float
    latent_std_scaled: float


@dataclass(frozen=True)
class ClipFigures:
    """`recall_at_10`: captions whose own picture is among the ten nearest; `category_share`: mean share of a
    picture's ten nearest others in its category, over all pictures and as a mean of the categories' means;
    `queries_found`: of `queries`, with the words missed."""

    pictures: int
    recall_at_10: float
    category_share: float
    category_share_balanced: float
    queries: int
    queries_found: int
    missed: dict[str, list[str]]


@dataclass(frozen=True)
class DiffusionFigures:
    """`majority_right`: of `prompts`, those whose picture has more than five of its ten nearest data set pictures
    in the prompt's category; `real_majority_right`: the same count for the real pictures of those names, the
    most that can be expected; `seconds_per_image`: generated one at a time, mean of three."""

    prompts: int
    majority_right: int
    real_majority_right: int
    exact_in_ten: int
    seconds_per_image: float
    wrong: dict[str, str]


def evaluate_vae(limit: int | None = None) -> VaeFigures:
    """Reconstruct the pictures from their latent means; `limit` takes every n-th picture to keep about that many."""
    vae = load_vae()
    pictures = torch.stack([_minus_one_to_one(image) for image in _thinned(_pictures(), limit)])
    psnr, spread = [], []
    with torch.no_grad():
        for part in torch.split(pictures, 64):
            latents = vae.encode(part).latent_dist.mean
            error = (vae.decode(latents).sample.clamp(-1, 1) - part).pow(2).mean(dim=(1, 2, 3))
            psnr.append(10 * torch.log10(4 / error))
            spread.append(latents * vae.config.scaling_factor)
    figures = torch.cat(psnr)
    return VaeFigures(
        pictures=len(figures),
        psnr_mean=round(figures.mean().item(), 2),
        psnr_p05=round(figures.quantile(0.05).item(), 2),
        latent_std_scaled=round(torch.cat(spread).std().item(), 3),
    )


def evaluate_clip() -> ClipFigures:
    """Encode all pictures and captions with the shipped model and open_clip's own preprocessing."""
    table = emoji_table()
    captions, categories = table["caption"].to_list(), table["category"].to_list()
    vectors = _picture_vectors()
    similarity = _text_vectors(captions) @ vectors.T
    own = similarity.diagonal().unsqueeze(1)
    recall = ((similarity > own).sum(dim=1) < NEIGHBOURS).float().mean().item()
    between = (vectors @ vectors.T).fill_diagonal_(-2)
    nearest = between.topk(NEIGHBOURS).indices.tolist()
    shares = [
        sum(categories[j] == category for j in row) / NEIGHBOURS
        for category, row in zip(categories, nearest, strict=True)
    ]
    by_category: dict[str, list[float]] = {}
    for category, share in zip(categories, shares, strict=True):
        by_category.setdefault(category, []).append(share)
    queries = load_queries()
    found = (_text_vectors(list(queries)) @ vectors.T).topk(NEIGHBOURS).indices.tolist()
    missed = {
        query: [captions[j] for j in row]
        for (query, accepted), row in zip(queries.items(), found, strict=True)
        if not {base_caption(captions[j]) for j in row} & set(accepted)
    }
    return ClipFigures(
        pictures=len(captions),
        recall_at_10=round(recall, 4),
        category_share=round(sum(shares) / len(shares), 4),
        category_share_balanced=round(sum(sum(s) / len(s) for s in by_category.values()) / len(by_category), 4),
        queries=len(queries),
        queries_found=len(queries) - len(missed),
        missed=missed,
    )


def evaluate_diffusion(count: int = PROMPT_COUNT) -> DiffusionFigures:
    """Generate `count` named emojis and see among which pictures of the data set they land by CLIP."""
    from infra.training.sheet import generate

    pipeline = load_pipeline()
    prompts = evaluation_prompts(count)
    images = generate(pipeline, [caption for caption, _ in prompts])
    table = emoji_table()
    captions, categories = table["caption"].to_list(), table["category"].to_list()
    vectors = _picture_vectors()
    nearest = (_image_vectors(images) @ vectors.T).topk(NEIGHBOURS).indices.tolist()
    position = {caption: index for index, caption in enumerate(captions)}
    rows = [position[caption] for caption, _ in prompts]
    real = (vectors[rows] @ vectors.T).topk(NEIGHBOURS).indices.tolist()
    right = [_majority(row, categories, category) for row, (_, category) in zip(nearest, prompts, strict=True)]
    began = time.perf_counter()
    for seed in range(3):
        generate(pipeline, [prompts[0][0]], seed=seed)
    seconds = (time.perf_counter() - began) / 3
    return DiffusionFigures(
        prompts=len(prompts),
        majority_right=sum(right),
        real_majority_right=sum(
            _majority(row, categories, category) for row, (_, category) in zip(real, prompts, strict=True)
        ),
        exact_in_ten=sum(index in row for index, row in zip(rows, nearest, strict=True)),
        seconds_per_image=round(seconds, 2),
        wrong={
            caption: captions[row[0]] for (caption, _), row, ok in zip(prompts, nearest, right, strict=True) if not ok
        },
    )


def load_queries() -> dict[str, list[str]]:
    """The everyday words and the captions accepted for each.

    Raises:
        ValueError: a query is itself a caption, or an accepted caption does not exist.
    """
    queries: dict[str, list[str]] = tomllib.loads(QUERIES.read_text("utf-8"))["queries"]
    captions = set(emoji_table()["caption"])
    lowered = {caption.lower() for caption in captions}
    captioned = [query for query in queries if query.lower() in lowered]
    unknown = [name for accepted in queries.values() for name in accepted if name not in captions]
    if captioned or unknown:
        raise ValueError(f"{QUERIES.name}: queries that are captions {captioned}, unknown captions {unknown}")
    return queries


def evaluation_prompts(count: int = PROMPT_COUNT) -> list[tuple[str, str]]:
    """`count` (caption, category) pairs, drawn evenly over the nine categories of more than ten pictures."""
    table = emoji_table()
    draw = random.Random(PROMPT_SEED)
    pools: dict[str, list[str]] = {}
    for caption, category in table.select("caption", "category").iter_rows():
        if category != TOO_SMALL_CATEGORY:
            pools.setdefault(category, []).append(caption)
    for pool in pools.values():
        draw.shuffle(pool)
    names = sorted(pools)
    return [(pools[names[i % len(names)]][i // len(names)], names[i % len(names)]) for i in range(count)]


def _majority(row: list[int], categories: list[str], category: str) -> bool:
    return sum(categories[j] == category for j in row) > NEIGHBOURS / 2


@lru_cache(maxsize=1)
def _pictures() -> tuple[Image.Image, ...]:
    codes = emoji_table()["hexcode"]
    return tuple(Image.open(BytesIO(render_png(code))).convert("RGB") for code in codes)


@lru_cache(maxsize=1)
def _clip() -> tuple[Any, Callable[[Image.Image], Tensor], Any]:
    return load_clip()


@lru_cache(maxsize=1)
def _picture_vectors() -> Tensor:
    return _image_vectors(list(_pictures()))


@torch.no_grad()
def _image_vectors(images: list[Image.Image]) -> Tensor:
    model, preprocess, _ = _clip()
    parts = torch.split(torch.stack([preprocess(image) for image in images]), 128)
    return torch.cat([model.encode_image(part, normalize=True) for part in parts])


@torch.no_grad()
def _text_vectors(texts: list[str]) -> Tensor:
    model, _, tokenizer = _clip()
    parts = []
    for start in range(0, len(texts), 256):
        tokens = tokenizer(texts[start : start + 256])
        longest = int((tokens != model.text.config.pad_token_id).sum(dim=1).max())
        parts.append(model.encode_text(tokens[:, :longest], normalize=True))
    return torch.cat(parts)


def _minus_one_to_one(image: Image.Image) -> Tensor:
    """Bicubic to 64 px, float32 [3, 64, 64] in [-1, 1]."""
    small = image.resize((64, 64), Image.Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return values.view(64, 64, 3).permute(2, 0, 1).float() / 127.5 - 1


def _thinned(images: tuple[Image.Image, ...], limit: int | None) -> tuple[Image.Image, ...]:
    return images if limit is None else images[:: max(1, len(images) // limit)]


def main() -> None:
    """Evaluate everything and print a table, or JSON; --quick thins the slow parts."""
    parser = argparse.ArgumentParser(prog="python -m infra.training.evaluate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="400 pictures for the vae, 18 generated pictures")
    arguments = parser.parse_args()
    figures = {
        "vae": asdict(evaluate_vae(400 if arguments.quick else None)),
        "clip": asdict(evaluate_clip()),
        "diffusion": asdict(evaluate_diffusion(18 if arguments.quick else PROMPT_COUNT)),
    }
    if arguments.json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    for model, values in figures.items():
        for name, value in values.items():
            if isinstance(value, dict):
                for word, answer in value.items():
                    shown = answer if isinstance(answer, str) else ", ".join(answer)
                    print(f"{model:<10} {name:<24} {word!r} -> {shown}")
            else:
                print(f"{model:<10} {name:<24} {value}")


if __name__ == "__main__":
    main()
