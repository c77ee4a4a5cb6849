"""The training parts that can be checked in seconds: resuming, augmentation, which texts belong to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infra.training.loop import Schedule, train
from infra.training.pictures import Augmentation, Pictures
from infra.training.texts import alias_texts
from latent_assets.openmoji.dataset import emoji_table

SCHEDULE = Schedule(steps=8, batch=4, rate=0.1, warmup=2, log_every=2, save_every=2)


def fit_a_line(model: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    inputs = torch.randn(SCHEDULE.batch, 3, generator=generator)
    error = (model(inputs) - inputs.sum(dim=1, keepdim=True)).pow(2).mean()
    return error, {"error": error.item()}


def fresh_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def test_an_interrupted_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(fresh_model(), fit_a_line, SCHEDULE, tmp_path / "whole", resume=False)

    def interrupted(model: Any, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == 5:
            raise KeyboardInterrupt
        return fit_a_line(model, step, generator)

    with pytest.raises(KeyboardInterrupt):
        train(fresh_model(), interrupted, SCHEDULE, tmp_path / "parts", resume=True)
    resumed = train(fresh_model(), fit_a_line, SCHEDULE, tmp_path / "parts", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_augmentation_keeps_shape_range_and_most_pictures() -> None:
    large = torch.randint(0, 256, (32, 3, 128, 128), dtype=torch.uint8)
    pictures = Pictures(small=large[:, :, ::2, ::2].contiguous(), large=large)
    indices = torch.arange(32)
    how = Augmentation(affine=0.4, flip=0.1, colour=0.1, jpeg=0.1)
    augmented = pictures.augmented(indices, how, torch.Generator().manual_seed(3))
    plain = pictures.plain(indices)
    assert augmented.shape == plain.shape == (32, 3, 64, 64)
    assert augmented.min() >= -1 and augmented.max() <= 1
    unchanged = (augmented == plain).flatten(1).all(dim=1).sum().item()
    assert 5 <= unchanged <= 27
    again = pictures.augmented(indices, how, torch.Generator().manual_seed(3))
    assert torch.equal(augmented, again)


def test_aliases_are_never_a_caption_and_variants_know_their_base() -> None:
    table = emoji_table()
    captions = {caption.lower() for caption in table["caption"]}
    found = dict(zip(table["caption"], alias_texts(), strict=True))
    tone_bases = {name for caption, own in found.items() if ", " in caption for name in own}
    plain = {name for caption, own in found.items() if ", " not in caption for name in own}
    assert not {name for name in plain if name.lower() in captions}
    assert "man cook" in found["man cook, dark skin tone"] and "man cook" in tone_bases
    assert "car" in found["automobile"]
