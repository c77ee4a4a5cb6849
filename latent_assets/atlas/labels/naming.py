"""Names of clusters: the terms by which their captions differ from those of the other clusters.

Class-based tf-idf (Grootendorst, BERTopic, arXiv:2203.05794, section 3.3): a term counts as often as captions of the
cluster have it, and for more the fewer captions of all clusters do. Captions that are the same count once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from latent_assets.atlas.labels.captions import Terms

WORDS = 3  # of a name
_CANDIDATES = 24
_LEAST_SHARE = 0.02  # of a cluster's captions that have a term of its name, and two of them
_PAIR_SHARE = 0.6  # of the cluster's captions with a word that must have it in a pair for the pair to stand for it
_PAIR_OTHER = 0.15  # of all captions with the other word of the pair that must have it there
_LIFT = 1.5  # how much more usual a term of a name is in the cluster than in all captions
_TOLD = 0.9  # of a cluster's captions, together, that have the words of a name: more words would tell less
_FEW = 40  # captions of a cluster that may be named by words which single ones have
_KNOWN = 0.25  # what a word counts that the name of the whole has already, and that is as usual in all of it


@dataclass(frozen=True)
class Tree:
    """Clusters without names. level: 1 (coarsest) to 3, parent: the cluster it is part of, -1 for none; by number."""

    level: Sequence[int]
    parent: Sequence[int]

    def ancestor(self, level: int) -> np.ndarray:
        """For each cluster the one of `level` that it is or is part of, -1 for none: int64 [m + 1].

        The last entry is that of rows in no cluster (number -1).
        """
        found = np.full(len(self.level) + 1, -1, np.int64)
        for number in range(len(self.level)):
            at = number
            while at >= 0 and self.level[at] > level:
                at = self.parent[at]
            found[number] = at if at >= 0 and self.level[at] == level else -1
        return found


def name_clusters(tree: Tree, rows: pl.DataFrame, terms: Terms, levels: int) -> list[tuple[str, ...]]:
    """The terms that name each cluster, the most telling first; () for one whose captions have none.

    rows: `cluster` (the finest, -1 for none) and `caption` (number of the caption in `terms`, null for none).
    """
    distinct = rows.drop_nulls("caption").unique(["cluster", "caption"])
    counted = (
        distinct.join(terms.found, on="caption")
        .group_by("cluster", "term")
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .sort("cluster", "term")
    )
    captions = distinct.group_by("cluster").len()
    number, term = counted["cluster"].to_numpy(), counted["term"].to_numpy()
    corpus = _Corpus.of(terms, term, counted["count"].to_numpy(), int(captions["len"].sum()))
    names: list[tuple[str, ...]] = [()] * len(tree.level)
    chosen: dict[int, list[int]] = {}
    wholes: dict[int, _Whole] = {}
    for level in range(1, levels + 1):
        up = tree.ancestor(level)
        found = (
            pl.DataFrame({"cluster": up[number], "term": term, "count": counted["count"]})
            .group_by("cluster", "term")
            .agg(pl.col("count").sum())
        )
        sizes = np.zeros(len(tree.level) + 1, np.int64)
        np.add.at(sizes, up[captions["cluster"].to_numpy()], captions["len"].to_numpy())
        ranked = _scored(found, corpus)
        for cluster, scored in ranked.items():
            whole = wholes.get(tree.parent[cluster])
            wholes[cluster] = _Whole(scored, int(sizes[cluster]))
            above = _words(terms, chosen.get(tree.parent[cluster], ()))
            chosen[cluster] = _chosen(scored, corpus, wholes[cluster].captions, whole, above)
        _tell_apart(chosen, ranked, corpus)
        for cluster in ranked:
            names[cluster] = tuple(terms.text[at] for at in chosen[cluster])
    return names


def _tell_apart(chosen: dict[int, list[int]], ranked: Mapping[int, _Scored], corpus: _Corpus) -> None:
    """Give clusters of a level that have the same name further words, such as only some of their captions have."""
    alike: dict[frozenset[int], list[int]] = {}
    for cluster in ranked:
        alike.setdefault(frozenset(chosen[cluster]), []).append(cluster)
    for clusters in alike.values():
        for cluster in clusters if len(clusters) > 1 else ():
            used = _words(corpus.terms, chosen[cluster])
            terms = ranked[cluster].terms.tolist()
            more = [at for at in terms if not any(_is_used(word, used) for word in corpus.terms.words[at])]
            chosen[cluster] = [*chosen[cluster], *_parted(more, (), ranked[cluster], corpus)][:WORDS]


@dataclass(frozen=True)
class _Corpus:
    """All captions: how many there are, and for each term how many have it; by cluster, each caption once there."""

    terms: Terms
    captions: int
    frequency: np.ndarray
    single: np.ndarray
    number: Mapping[str, int]

    @classmethod
    def of(cls, terms: Terms, term: np.ndarray, counts: np.ndarray, captions: int) -> _Corpus:
        frequency = np.zeros(len(terms.words), np.int64)
        np.add.at(frequency, term, counts)
        single = np.array([len(words) == 1 for words in terms.words], bool)
        return cls(terms, captions, frequency, single, {w[0]: at for at, w in enumerate(terms.words) if len(w) == 1})


def _words(terms: Terms, chosen: Sequence[int]) -> set[str]:
    return {word for at in chosen for word in terms.words[at]}


@dataclass(frozen=True)
class _Scored:
    """Terms of a cluster, best first. counts: captions that have each."""

    terms: np.ndarray
    scores: np.ndarray
    counts: Mapping[int, int]


def _scored(found: pl.DataFrame, corpus: _Corpus) -> dict[int, _Scored]:
    """Score the terms of each cluster by class-based tf-idf."""
    words = found.filter(pl.Series(corpus.single[found["term"].to_numpy()], dtype=pl.Boolean))
    mean = words.group_by("cluster").agg(pl.col("count").sum())["count"].mean() or 1.0
    scored = (
        found.filter(pl.col("cluster") >= 0)
        .with_columns(all=pl.Series(corpus.frequency)[found.filter(pl.col("cluster") >= 0)["term"]])
        .with_columns(score=pl.col("count") * (1.0 + mean / pl.col("all")).log())
        .sort(["cluster", "score", "count", "term"], descending=[False, True, True, False])
    )
    return {
        int(cluster): _Scored(
            group["term"].to_numpy(),
            group["score"].to_numpy(),
            dict(zip(group["term"].to_list(), group["count"].to_list(), strict=True)),
        )
        for (cluster,), group in scored.partition_by("cluster", as_dict=True, maintain_order=True).items()
    }


@dataclass(frozen=True)
class _Whole:
    """What a cluster is part of: its terms, and how many captions it has."""

    scored: _Scored
    captions: int


def _chosen(scored: _Scored, corpus: _Corpus, captions: int, whole: _Whole | None, above: set[str]) -> list[int]:
    """The terms of a name: no word twice, pairs for words that mostly stand in them, none that is as usual elsewhere.

    above: words of the name of `whole`; a part is not named as the whole is, and not by what is as usual in all of it.
    """
    words = corpus.terms.words

    def weight(at: int) -> float:
        if whole is None or not above & set(words[at]):
            return 1.0
        lift = scored.counts[at] / captions * whole.captions / whole.scored.counts[at]
        return 1.0 if lift >= _LIFT else _KNOWN

    weights = scored.scores * [weight(at) for at in scored.terms.tolist()]
    ranked = scored.terms[np.argsort(-weights, kind="stable")].tolist()
    least = max(2, round(_LEAST_SHARE * captions))
    usual = [at for at in ranked if scored.counts[at] >= least]
    telling = [at for at in usual if _lift(scored, corpus, at, captions) >= _LIFT]
    name = _parted(telling or usual or ranked, telling, scored, corpus)
    told = 0.0
    for length, at in enumerate(name, 1):
        told += scored.counts[at] / captions
        if told >= _TOLD and _words(corpus.terms, name[:length]) != above:
            name = name[:length]
            break
    if captions <= _FEW and _words(corpus.terms, name) == above:
        more = [at for at in ranked if not any(_is_used(word, above) for word in words[at])]
        name = [*name, *_parted(more, (), scored, corpus)][:WORDS]
    return name


def _lift(scored: _Scored, corpus: _Corpus, term: int, captions: int) -> float:
    """How many times as usual a term is in the cluster as in all captions."""
    return float(scored.counts[term] / captions * corpus.captions / corpus.frequency[term])


def _parted(ranked: Sequence[int], usual: Sequence[int], scored: _Scored, corpus: _Corpus) -> list[int]:
    """The first words of `ranked`, each with the word of `usual` that it mostly stands beside there."""
    words = corpus.terms.words
    single = {words[at][0] for at in usual if len(words[at]) == 1}
    pairs = [at for at in usual if len(words[at]) > 1 and set(words[at]) <= single]
    name: list[int] = []
    used: set[str] = set()
    for at in [at for at in ranked if len(words[at]) == 1][:_CANDIDATES]:
        (word,) = words[at]
        if _is_used(word, used):
            continue
        within = [pair for pair in pairs if word in words[pair] and _belongs(pair, word, corpus)]
        best = max(within, key=lambda pair: (scored.counts[pair], -pair), default=at)
        if scored.counts[best] < _PAIR_SHARE * scored.counts[at] or any(_is_used(each, used) for each in words[best]):
            best = at
        name.append(best)
        used |= set(words[best])
        if len(name) == WORDS:
            break
    return name


def _belongs(pair: int, word: str, corpus: _Corpus) -> bool:
    """Whether the other word of a pair is found in it often enough not to stand there by chance."""
    other = next(each for each in corpus.terms.words[pair] if each != word)
    return bool(corpus.frequency[pair] >= _PAIR_OTHER * corpus.frequency[corpus.number[other]])


def _is_used(word: str, used: set[str]) -> bool:
    """Whether a name has the word, or the same in singular or plural."""
    return any(word == other or _stem(word) == _stem(other) for other in used)


def _stem(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ves", "f"), ("men", "man"), ("es", ""), ("s", ""), ("e", "")):
        if len(word) > len(ending) + 2 and word.endswith(ending):
            return word[: -len(ending)] + instead
    return word
