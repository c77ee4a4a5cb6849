"""Words of captions: of languages without spaces, and those that say nothing of an image."""

import pytest

from latent_assets.atlas.labels.captions import BOILERPLATE, part, terms_of


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Red Fox in Zürich", {"Red", "Fox", "Zürich"}),
        ("红色的狐狸在雪地里奔跑", {"红色", "狐狸", "雪地", "奔跑"}),
        ("雪の中の赤いキツネ", {"雪", "赤い", "キツネ"}),
        ("ช้างในป่าใหญ่", {"ช้าง", "ใหญ่"}),
        ("рыжая лиса, фото скачать", {"рыжая", "лиса"}),
        ("Fox.JPG royalty-free stock photo 123456 4K", {"Fox"}),
        ("<b>Fox</b> https://example.org/cats?dogs=1 www.example.org/birds", {"Fox"}),
        ("IMG_2041.jpeg", set()),
        ("图片素材 写真 ภาพถ่าย", set()),
        ("a an of the with", set()),
        ("\u0000\ud7ff💥", set()),
        ("", set()),
        (None, set()),
    ],
)
def test_words_of_a_caption(caption: str | None, words: set[str]) -> None:
    found = terms_of([caption])
    named = {found.text[term] for term in found.found["term"]}
    assert words <= named
    assert not words or not {word.lower() for word in named} & BOILERPLATE
    assert bool(words) == bool(named)


def test_captions_are_parted_one_by_one() -> None:
    captions = ["one fox", None, "qzxbetweenxzq qzxbetweenxzqx", "", "狐狸"] * 700
    parted = list(part(captions))
    assert len(parted) == len(captions)
    assert parted[:2] == [["one", "fox"], []] and parted[-1] == ["狐狸"]
    assert parted[2] == ["qzxbetweenxzq", "qzxbetweenxzqx"], "what parts captions is in none of them"


def test_pairs_do_not_reach_over_punctuation_or_what_is_left_out() -> None:
    found = terms_of(["steam train, station of Rome (old)", "steam train. Station photo Rome"] * 3)
    pairs = {found.text[at] for at in found.found["term"] if len(found.words[at]) == 2}
    assert pairs == {"steam train"}


def test_words_are_written_as_most_captions_write_them() -> None:
    found = terms_of(["Samoa", "Samoa", "samoa", "USA", "usa", "USA’s"])
    assert set(found.text) == {"Samoa", "USA"}


def test_words_of_the_profile_are_left_out() -> None:
    assert set(terms_of(["Acme fox"], ["ACME"]).text) == {"fox"}
