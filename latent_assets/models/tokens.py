"""Texts to token ids, without torch and open_clip: CLIP's byte pair encoding, and a Hugging Face `tokenizer.json`.

The cleaning is open_clip's. Which of them a model takes is decided in `text_tower`.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokenize = Callable[[Sequence[str]], np.ndarray]

_MERGES = 49_152 - 256 - 2
_SPECIAL = ("<start_of_text>", "<end_of_text>")
# words, single digits and runs of signs; the endings of English contractions by themselves
_PATTERN = r"(?i)<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokens(length: int) -> Tokenize:
    """CLIP's tokenizer: int64 [n, length], start and end included, filled up with 0; what is longer is cut."""
    tokenizer = _clip_tokenizer()
    start, end = (int(tokenizer.token_to_id(name) or 0) for name in _SPECIAL)

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), length), np.int64)
        for row, encoding in enumerate(tokenizer.encode_batch([_clean(text).lower() for text in texts])):
            ids: list[int] = [start, *encoding.ids, end][:length]
            ids[-1] = end
            found[row, : len(ids)] = ids
        return found

    return tokenize


@lru_cache(maxsize=1)
def _clip_tokenizer() -> Tokenizer:
    """The vocabulary lies in the package open_clip as the list of its merges."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers
    from tokenizers.models import BPE

    package = find_spec("open_clip")
    assert package is not None and package.submodule_search_locations
    file = Path(next(iter(package.submodule_search_locations))) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), *_SPECIAL]
    vocabulary: dict[str, int] = {}
    for word in words:
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in the order of GPT-2's vocabulary: bytes that are printable stand first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]


def hugging_face_tokens(folder: Path, length: int, pad: int) -> Tokenize:
    """The tokenizer of a directory: int64 [n, length], filled up with `pad`; what is longer is cut."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=pad)

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        return np.array([encoding.ids for encoding in tokenizer.encode_batch([_clean(text) for text in texts])])

    return tokenize


def _clean(text: str) -> str:
    """Broken characters mended, HTML's names resolved, one blank between words."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
