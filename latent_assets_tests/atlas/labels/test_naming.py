"""Names of clusters by class-based tf-idf."""

import math

import polars as pl

from latent_assets.atlas.labels.captions import terms_of
from latent_assets.atlas.labels.naming import Tree, name_clusters


def names(tree: Tree, captions: list[tuple[int, str]]) -> list[tuple[str, ...]]:
    """Names by clusters and captions: (cluster, caption) for each row."""
    distinct = sorted({caption for _, caption in captions})
    rows = pl.DataFrame(
        {"cluster": [at for at, _ in captions], "caption": [distinct.index(caption) for _, caption in captions]},
        schema={"cluster": pl.Int32, "caption": pl.Int32},
    )
    return name_clusters(tree, rows, terms_of(distinct), 3)


def test_a_name_is_what_other_captions_do_not_have() -> None:
    flat = Tree([1, 1], [-1, -1])
    foxes = [(0, f"animal fox {word}") for word in ("red", "grey", "white", "black")]
    boats = [(1, f"animal boat {word}") for word in ("red", "grey", "white", "black")]
    assert names(flat, foxes + boats) == [("fox",), ("boat",)]


def test_the_score_is_class_based_tf_idf() -> None:
    """Of two words that only a cluster has, and one that all have, in the order that the formula gives."""
    captions = [(0, f"apple pear{n}") for n in range(6)] + [(0, f"plum apple{n}") for n in range(4)]
    captions += [(1, f"plum grape{n}") for n in range(8)]
    words = 10 * 2, 8 * 2
    mean = sum(words) / 2
    apple, plum = 6 * math.log(1 + mean / 6), 4 * math.log(1 + mean / 12)
    assert apple > plum
    assert names(Tree([1, 1], [-1, -1]), captions)[0][0] == "apple"


def test_a_caption_that_is_repeated_counts_once() -> None:
    spam = [(0, "cheap watch")] * 500
    real = [(0, f"lighthouse at {place}") for place in ("dawn", "dusk", "noon", "sea")]
    other = [(1, f"{word} cake") for word in ("apple", "lemon", "plum", "pear")]
    assert names(Tree([1, 1], [-1, -1]), spam + real + other)[0][0] == "lighthouse"


def test_pairs_stand_for_words_that_are_mostly_in_them() -> None:
    steam = [(0, f"steam train in {place}") for place in ("Rome", "Oslo", "Bern", "Kyiv")]
    boats = [(1, f"boat in {place}") for place in ("Rome", "Oslo", "Bern", "Kyiv")]
    assert names(Tree([1, 1], [-1, -1]), steam + boats)[0] == ("steam train",)
    chinese = [(0, f"蒸汽火车{place}") for place in ("罗马", "奥斯陆", "伯尔尼", "基辅")]
    named = names(Tree([1, 1], [-1, -1]), chinese + boats)[0][0]
    assert " " not in named and "火车" in named


def test_a_part_is_not_named_as_the_whole() -> None:
    tree = Tree([1, 2, 2, 1], [-1, 0, 0, -1])
    flags = [(1, f"flag of {name}") for name in ("Chad Republic", "Niger Republic", "Congo Republic")]
    flags += [(2, f"flag of {name}") for name in ("Cook Islands", "Faroe Islands", "Solomon Islands")]
    cakes = [(3, f"{name} cake") for name in ("apple", "lemon", "plum")]
    whole, republics, islands, _ = names(tree, flags + cakes)
    assert whole == ("flag",)
    assert "Republic" in republics and "Islands" in islands


def test_clusters_of_the_same_words_are_told_apart() -> None:
    tree = Tree([1, 1], [-1, -1])
    captions = [(0, "flag of Chad"), (0, "flag of Niger"), (1, "flag of Peru"), (1, "flag of Cuba")]
    captions += [(-1, f"cake nr{number}") for number in range(8)]
    one, other = names(tree, captions)
    assert one[0] == other[0] == "flag"
    assert set(one[1:]) <= {"Chad", "Niger"} and set(other[1:]) <= {"Peru", "Cuba"} and one[1:] and other[1:]


def test_singular_and_plural_are_one_word() -> None:
    tree = Tree([1, 1], [-1, -1])
    captions = [(0, "berries and berry"), (0, "berry cherry"), (0, "berries cherry"), (1, "boat one"), (1, "boat two")]
    assert names(tree, captions)[0][0].startswith("berr") and len(names(tree, captions)[0]) <= 2


def test_captions_without_words_name_nothing() -> None:
    assert names(Tree([1], [-1]), [(0, "photo 123"), (0, "image")]) == [()]
    assert (
        name_clusters(Tree([], []), pl.DataFrame(schema={"cluster": pl.Int32, "caption": pl.Int32}), terms_of([]), 3)
        == []
    )
