"""Vectors of what is searched for: texts that wait together are encoded together, and those asked last are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

_KEPT = 4_096  # texts
_AT_ONCE = 32

Encode = Callable[[Sequence[str]], np.ndarray]


class TextVectors:
    """The vectors float32 [d] of texts, by `encode`, which gives float32 [n, d] of n texts. Threads share one."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._waiting: OrderedDict[str, Future[np.ndarray]] = OrderedDict()
        self._changing, self._encoding = threading.Lock(), threading.Lock()

    def vector(self, text: str) -> np.ndarray:
        """The vector of a text. Raises what `encode` raises."""
        with self._changing:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
            found = self._waiting.setdefault(text, Future())
        while not found.done():
            # whoever comes first encodes for all who wait by then
            with self._encoding:
                if not found.done():
                    self._encode_waiting()
        return found.result()

    def _encode_waiting(self) -> None:
        with self._changing:
            batch = dict(list(self._waiting.items())[:_AT_ONCE])
        texts = list(batch)
        try:
            vectors = self._encode(texts)
        except Exception as error:
            self._settle(texts)
            for future in batch.values():
                future.set_exception(error)
            return
        with self._changing:
            self._kept.update(zip(texts, vectors, strict=True))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._settle(texts)
        for future, vector in zip(batch.values(), vectors, strict=True):
            future.set_result(vector)

    def _settle(self, texts: Sequence[str]) -> None:
        with self._changing:
            for text in texts:
                del self._waiting[text]
