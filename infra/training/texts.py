"""The texts the demo's CLIP learns from, embedded once by the frozen sentence encoder.

Here: captions, aliases and group phrases as vectors, and which picture each belongs to. Not here: the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latent_assets.openmoji.dataset import aliases, base_caption, emoji_table

CATEGORIES = 10


@dataclass(frozen=True)
class TextBank:
    """Everything said about the n pictures, as unit vectors of the sentence encoder (width 384).

    `captions` [n, 384] row i is picture i's. `aliases` [a, 384] and `groups` [g, 384] (subcategories, then
    categories) are shared; `alias_weights` [n, a] and `group_weights` [n, g] are rows that sum to 1, or to 0
    where a picture has none. `family` [n] numbers pictures that differ only in skin tone alike.
    """

    captions: Tensor
    aliases: Tensor
    groups: Tensor
    alias_weights: Tensor
    group_weights: Tensor
    family: Tensor
    toned: Tensor

    @property
    def meaning(self) -> Tensor:
        """Where a picture should land: mostly its caption, partly its other names; unit vectors [n, 384]."""
        return functional.normalize(
            0.65 * self.captions
            + 0.25 * functional.normalize(self.alias_weights @ self.aliases, dim=-1)
            + 0.10 * functional.normalize(self.group_weights @ self.groups, dim=-1),
            dim=-1,
        )

    @property
    def category(self) -> Tensor:
        """Number of each picture's category, [n]; categories are the last rows of `groups`."""
        return self.group_weights[:, -CATEGORIES:].argmax(dim=-1)

    @property
    def category_directions(self) -> Tensor:
        """Ten orthonormal directions, each as near its category's name as can be (Löwdin); [10, 384]."""
        names = self.groups[-CATEGORIES:]
        values, vectors = torch.linalg.eigh(names @ names.T)
        whitening: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        return whitening @ names


def alias_texts() -> list[list[str]]:
    """Per picture: its other names in plain words; a name that is some picture's caption is left out."""
    table = emoji_table()
    captions = {caption.lower() for caption in table["caption"]}
    found = []
    for char, caption in table.select("char", "caption").iter_rows():
        own = [name for name in aliases(char) if len(name) > 2 and name.lower() not in captions]
        base = base_caption(caption)
        found.append([*own, base] if base != caption else own)
    return found


def embed_texts(text_tower: Any, tokenizer: Any, texts: list[str], batch: int = 256) -> Tensor:
    """Unit sentence vectors [len(texts), 384] from open_clip's text tower, before its projection."""
    parts = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(texts[start : start + batch])
        mask = (tokens != text_tower.config.pad_token_id).long()
        with torch.no_grad():
            output = text_tower.transformer(input_ids=tokens, attention_mask=mask)
            parts.append(functional.normalize(text_tower.pooler(output, mask), dim=-1))
    return torch.cat(parts)


def build_text_bank(text_tower: Any, tokenizer: Any) -> TextBank:
    """Embed every text of the data set."""
    table = emoji_table()
    captions = table["caption"].to_list()
    per_picture = alias_texts()
    names = sorted({name for own in per_picture for name in own})
    subcategories = [_phrase(name) for name in table["subcategory"]]
    categories = [_phrase(name) for name in table["category"]]
    groups = [*sorted(set(subcategories)), *sorted(set(categories))]
    alias_weights = _weights(per_picture, names)
    group_weights = _weights(list(map(list, zip(subcategories, categories, strict=True))), groups)
    bases = [base_caption(caption) for caption in captions]
    numbers = {base: number for number, base in enumerate(dict.fromkeys(bases))}
    return TextBank(
        captions=embed_texts(text_tower, tokenizer, captions),
        aliases=embed_texts(text_tower, tokenizer, names),
        groups=embed_texts(text_tower, tokenizer, groups),
        alias_weights=alias_weights,
        group_weights=group_weights,
        family=torch.tensor([numbers[base] for base in bases]),
        toned=torch.tensor([base != caption for base, caption in zip(bases, captions, strict=True)]),
    )


def _phrase(group: str) -> str:
    return group.replace("&", "and").replace("-", " ").lower()


def _weights(per_picture: list[list[str]], vocabulary: list[str]) -> Tensor:
    column = {name: index for index, name in enumerate(vocabulary)}
    weights = torch.zeros(len(per_picture), len(vocabulary))
    for row, own in enumerate(per_picture):
        for name in own:
            weights[row, column[name]] = 1 / len(own)
    return weights
