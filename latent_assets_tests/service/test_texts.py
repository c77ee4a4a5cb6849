"""Texts that wait together are encoded together, each once, and a failure reaches everybody who waits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from latent_assets.service import texts
from latent_assets.service.texts import TextVectors


class Encoder:
    """Counts what it is asked; waits for `open` where it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.began = threading.Event()

    def __call__(self, asked: Sequence[str]) -> np.ndarray:
        self.batches.append(list(asked))
        self.began.set()
        assert self.open.wait(20)
        if any(text == "bad" for text in asked):
            raise ValueError("bad")
        return np.array([[len(text), ord(text[0])] for text in asked], np.float32)


def test_texts_that_wait_are_one_batch_and_each_has_its_own_vector() -> None:
    encoder = Encoder()
    vectors = TextVectors(encoder)
    encoder.open.clear()
    asked = [f"{chr(97 + number)}{'x' * number}" for number in range(12)]
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(vectors.vector, "first")
        assert encoder.began.wait(20)
        others = [pool.submit(vectors.vector, text) for text in asked for _ in range(2)]
        while len(vectors._waiting) < 1 + len(asked):
            threading.Event().wait(0.01)
        encoder.open.set()
        assert first.result(20).tolist() == [5, ord("f")]
        found = [future.result(20).tolist() for future in others]
    assert found == [[len(text), ord(text[0])] for text in asked for _ in range(2)]
    assert [sorted(batch) for batch in encoder.batches] == [["first"], sorted(asked)]


def test_a_text_is_encoded_once_and_only_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_KEPT", 3)
    encoder = Encoder()
    vectors = TextVectors(encoder)
    for text in ("a", "b", "c", "a", "d", "a", "b"):
        vectors.vector(text)
    assert encoder.batches == [["a"], ["b"], ["c"], ["d"], ["b"]]
    assert len(vectors._kept) == 3 and not vectors._waiting


def test_a_failure_is_told_to_all_who_wait_and_nobody_after() -> None:
    encoder = Encoder()
    vectors = TextVectors(encoder)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(vectors.vector, "bad") for _ in range(4)]:
            with pytest.raises(ValueError, match="bad"):
                future.result(20)
    assert vectors.vector("good").tolist() == [4, ord("g")] and not vectors._waiting
