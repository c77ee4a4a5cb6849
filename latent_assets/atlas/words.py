"""Captions by their words: an inverted index in memory, ranked by BM25.

Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), with k1 = 1.2 and b = 0.75.
What is near in meaning is the business of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from lancedb.table import LanceTable

_K1, _B = 1.2, 0.75
_WORD = r"[\p{L}\p{M}\p{N}]+"
# scripts that do not part their words (Thai, Lao, Burmese, Khmer, Chinese, Japanese) are taken by characters
_UNPARTED = (
    r"([\x{0e00}-\x{0eff}\x{1000}-\x{109f}\x{1780}-\x{17ff}\x{3040}-\x{30ff}\x{3400}-\x{9fff}\x{f900}-\x{faff}])"
)
_SITE = r"^(?i:https?)://(?:[^/?#@]*@)?(?:www[.])?([^/?#:]+)"


class WordIndex:
    """Which rows of a release have a word in their caption, by position of the row.

    words: the vocabulary, with the range of each word in `rows` int32 [postings] and `counts` int32 [postings].
    lengths: int32 [rows], words of each caption. facts: `category` and `site` of each row, null where it has none.
    """

    def __init__(
        self,
        words: Mapping[str, tuple[int, int]],
        rows: np.ndarray,
        counts: np.ndarray,
        lengths: np.ndarray,
        facts: pl.DataFrame,
    ) -> None:
        self._words, self._rows, self._counts, self._lengths, self._facts = words, rows, counts, lengths, facts
        self._mean = float(lengths.mean()) if len(lengths) else 0.0

    @classmethod
    def of(cls, table: LanceTable) -> WordIndex:
        """Index the captions of a release: one pass over them, categories and addresses."""
        read = table.search().select(["caption", "category", "url", "source_url"]).limit(None).to_arrow()
        frame = pl.from_arrow(read)
        assert isinstance(frame, pl.DataFrame)
        return cls.of_rows(frame)

    @classmethod
    def of_rows(cls, rows: pl.DataFrame) -> WordIndex:
        """Index `caption`, with `category`, `url` and `source_url` (strings, null for none), in their order."""
        found = _words(rows["caption"])
        lengths = found.list.len().fill_null(0).cast(pl.Int32).to_numpy()
        postings = (
            pl.DataFrame({"word": found, "row": pl.int_range(len(rows), dtype=pl.Int32, eager=True)})
            .explode("word")
            .drop_nulls("word")
            .group_by("word", "row")
            .len("count")
            .sort("word", "row")
        )
        ranges = postings.group_by("word", maintain_order=True).len("count")
        ends = np.cumsum(ranges["count"].to_numpy()).tolist()
        starts = [0, *ends[:-1]] if ends else []
        vocabulary = dict(zip(ranges["word"].to_list(), zip(starts, ends, strict=True), strict=True))
        site = pl.coalesce("source_url", "url").str.extract(_SITE).str.to_lowercase()
        facts = rows.select(pl.col("category").cast(pl.Categorical), site.cast(pl.Categorical).alias("site"))
        counts = postings["count"].cast(pl.Int32).to_numpy()
        return cls(vocabulary, postings["row"].to_numpy(), counts, lengths, facts)

    def among(self, category: str | None, domain: str | None) -> np.ndarray | None:
        """bool [rows]: which are of a category, and from a domain or below it; None for all. See `table.row_filter`."""
        if category is None and domain is None:
            return None
        found = np.ones(len(self._lengths), bool)
        if category is not None:
            found &= (self._facts["category"].cast(pl.String) == category).fill_null(False).to_numpy()
        if domain is not None:
            site = self._facts["site"].cast(pl.String)
            below = (site == domain.lower()) | site.str.ends_with(f".{domain.lower()}")
            found &= below.fill_null(False).to_numpy()
        return found

    def search(self, text: str, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The `k` rows that say most of the words of `text`: positions int64 [n <= k], scores float64 [n], best first.

        Equal scores are ordered by position. among: bool [rows], which rows count at all.
        """
        scores = np.zeros(len(self._lengths))
        for word in dict.fromkeys(_words(pl.Series([text]))[0].to_list()):
            start, end = self._words.get(word, (0, 0))
            if start == end:
                continue
            rows, counts = self._rows[start:end], self._counts[start:end]
            rarity = np.log1p((len(self._lengths) - len(rows) + 0.5) / (len(rows) + 0.5))
            length = 1.0 - _B + _B * self._lengths[rows] / self._mean
            scores[rows] += rarity * counts * (_K1 + 1.0) / (counts + _K1 * length)
        if among is not None:
            scores[~among] = 0.0
        hits = np.flatnonzero(scores)
        best = hits[np.argsort(-scores[hits], kind="stable")[:k]]
        return best, scores[best]


def _words(texts: pl.Series) -> pl.Series:
    """The words of each text, in lower case; null for none."""
    parted = texts.cast(pl.String).str.normalize("NFKC").str.to_lowercase().str.replace_all(_UNPARTED, " $1 ")
    return parted.str.extract_all(_WORD)
