"""The contact sheet of generated pictures with their prompts printed below.

Here: which prompts are shown and how. Not here: the figures (`evaluate`).
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

GUIDANCE = 3.0
STEPS = 20
SEED = 17
SHEET_PROMPTS = (
    *("red apple", "banana", "pizza", "birthday cake", "hot beverage"),
    *("dog face", "cat", "penguin", "butterfly", "sunflower"),
    *("grinning face", "crying face", "red heart", "man health worker", "Santa Claus"),
    *("automobile", "house", "soccer ball", "umbrella with rain drops", "flag of Japan"),
)


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int = SEED, batch: int = 25
) -> list[Image.Image]:
    """One 64 px picture per prompt; picture i depends on its prompt and on (seed, i) alone."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed * 1000 + start + i) for i in range(len(part))]
        output = pipeline(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators)
        images += output.images
    return images


def generated_sheet(
    pipeline: StableDiffusionPipeline, prompts: tuple[str, ...], columns: int = 5, zoom: int = 2
) -> Image.Image:
    """The prompts' pictures in a grid, each above its prompt."""
    side, caption = 64 * zoom, 16
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * (side + 16), rows * (side + caption + 12)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (prompt, image) in enumerate(zip(prompts, generate(pipeline, list(prompts)), strict=True)):
        left, top = index % columns * (side + 16) + 8, index // columns * (side + caption + 12) + 4
        sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        pen.text((left + side / 2, top + side + 2), prompt, fill="black", anchor="ma")
    return sheet
