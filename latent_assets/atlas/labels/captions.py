"""Captions as terms: words and pairs of words, parted by the tokenizer that also parts them for search.

Words that say nothing of what is shown (`BOILERPLATE`, stop words, numbers, file types, addresses) are no terms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

_BATCH = 2_000  # captions parted by one call, which costs as much as a thousand of them
_BETWEEN, _BREAK = "qzxbetweenxzq", "qzxbreakxzq"  # between captions, and where punctuation parts one
_RARE_PAIR = 3  # captions that must have a pair of words for it to be a term
_LONGEST = 1_000  # characters of a caption that are looked at
_WORDS_KEPT = 40  # characters of a word; longer ones are no words

_NOISE = re.compile(
    r"<[^<>]{0,200}>|&[a-z#0-9]{1,8};|\b(?:https?://|www\.)\S+|\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif|eps|psd|"
    r"pdf|mp4)\b",
    re.IGNORECASE,
)
_MARKS = r"、。，；：！？（）【】「」『』・…"
_PUNCTUATION = re.compile(rf"""[,;:.!?"“”„«»\\]+(?=\s|$)|\s[-–—/]\s|[()\[\]{{}}|{_MARKS}]""")
_UNPARTED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_IDEOGRAPH = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u309f]{1,2}")

# the picture as a file or as merchandise
_FILES_AND_GOODS = """
image images img photo photos photograph photographs photography photographer foto fotos picture pictures pic pics bild
bilder imagen imagenes imágenes immagine immagini photographie stock stockfoto stockphoto vector vectors vektor
illustration illustrations clipart clip royalty free download downloads wallpaper wallpapers background backgrounds
thumbnail screenshot file files filename untitled hd uhd 4k 8k px pixel pixels resolution high-resolution jpg jpeg png
gif webp bmp tif tiff svg heic avif eps psd pdf raw dsc dscf dscn scan scanned http https www com net org html php
alamy shutterstock getty gettyimages istock istockphoto dreamstime depositphotos 123rf fotolia adobe adobestock
pinterest flickr instagram facebook etsy ebay amazon unsplash pixabay pexels wikimedia commons editorial watermark
copyright credit courtesy via view views buy sale price shop shipping click
图片 照片 图像 相片 摄影 素材 免抠 下载 高清 壁纸 圖片 圖像 攝影 下載 高清图 画像 写真 イラスト フリー ダウンロード 無料
ภาพ ภาพถ่าย รูป รูปภาพ รูปถ่าย ฟรี ดาวน์โหลด 사진 이미지 다운로드 무료
фото фотография фотографии изображение картинка картинки скачать
"""
BOILERPLATE = frozenset(_FILES_AND_GOODS.split())


@dataclass(frozen=True)
class Terms:
    """Terms of captions. found: `caption`, `term`: each term of each caption once. text: how each is written mostly.
    words: for each, the words that it is made of, in lower case."""

    found: pl.DataFrame
    text: list[str]
    words: list[tuple[str, ...]]


def part(captions: Sequence[str | None]) -> Iterator[list[str]]:
    """The words of each caption as they are written, in their order, also of languages that put no spaces between; ""
    where punctuation parts them."""
    import lance

    for at in range(0, len(captions), _BATCH):
        texts = [_cleaned(caption) for caption in captions[at : at + _BATCH]]
        between = _BETWEEN
        while any(between in text for text in texts):
            between += "x"
        texts = [_PUNCTUATION.sub(f" {_BREAK} ", text) for text in texts]
        tokens = lance.tokenize(
            f" {between} ".join(texts),
            base_tokenizer="icu",
            lower_case=False,
            stem=False,
            remove_stop_words=False,
            ascii_folding=False,
            max_token_length=None,
        )
        words: list[str] = []
        for token in tokens:
            if token.text == between:
                yield words
                words = []
            else:
                words.append("" if token.text == _BREAK else token.text)
        yield words


def _cleaned(caption: str | None) -> str:
    return _NOISE.sub(" ", unicodedata.normalize("NFKC", (caption or "")[:_LONGEST])).replace("_", " ")


def terms_of(captions: Sequence[str | None], boilerplate: Iterable[str] = ()) -> Terms:
    """The terms of captions, at most once each; pairs of words that stand side by side in three captions or more.

    boilerplate: words that are no terms, beside `BOILERPLATE`.
    """
    rows: list[int] = []
    words: list[str] = []
    for row, parted in enumerate(part(captions)):
        words += parted
        rows += [row] * len(parted)
    tokens = pl.DataFrame(
        {"caption": pl.Series(rows, dtype=pl.Int32), "form": pl.Series(words, dtype=pl.String)}
    ).with_columns(pl.col("form").str.replace(r"['’][sS]$", "").alias("form"))
    tokens = tokens.with_columns(pl.col("form").str.to_lowercase().alias("word"))
    known = tokens["word"].unique().sort()
    telling = pl.Series("word", sorted(_telling(known.to_list()) - {word.lower() for word in boilerplate}), pl.String)
    forms = (
        tokens.group_by("word", "form")
        .len()
        .sort(["word", "len", "form"], descending=[False, True, False])
        .unique("word", keep="first", maintain_order=True)
    )
    code = telling.to_frame().with_row_index("term").join(forms.select("word", "form"), on="word", how="left")
    coded = tokens.join(code.select("word", "term"), on="word", how="left", maintain_order="left")
    following = coded.select(
        "caption",
        first="term",
        second=pl.when(pl.col("caption") == pl.col("caption").shift(-1)).then(pl.col("term").shift(-1)),
    )
    pairs = following.drop_nulls().filter(pl.col("first") != pl.col("second")).unique()
    usual = pairs.group_by("first", "second").len().filter(pl.col("len") >= _RARE_PAIR).sort("first", "second")
    usual = usual.select("first", "second").with_row_index("term", offset=code.height)
    text, lower = code["form"].to_list(), code["word"].to_list()
    found = pl.concat(
        [
            coded.select("caption", "term").drop_nulls().unique(),
            pairs.join(usual, on=["first", "second"]).select("caption", "term"),
        ]
    )
    joined = [_joined(text[first], text[second]) for first, second in zip(usual["first"], usual["second"], strict=True)]
    both = [(lower[first], lower[second]) for first, second in zip(usual["first"], usual["second"], strict=True)]
    return Terms(found, [*text, *joined], [*((word,) for word in lower), *both])


def _joined(first: str, second: str) -> str:
    spaced = not (_UNPARTED.match(first[-1]) and _UNPARTED.match(second[0]))
    return f"{first} {second}" if spaced else f"{first}{second}"


def _telling(words: Sequence[str]) -> set[str]:
    """Those of `words`, in lower case, that can say what is shown."""
    import lance

    candidates = [word for word in words if _is_word(word) and word not in BOILERPLATE]
    plain = [word for word in candidates if word.isascii()]
    kept = {word for word in candidates if not word.isascii()}
    for at in range(0, len(plain), 10 * _BATCH):
        tokens = lance.tokenize(
            " ".join(plain[at : at + 10 * _BATCH]),
            base_tokenizer="icu",
            stem=False,
            remove_stop_words=True,
            ascii_folding=False,
            max_token_length=None,
        )
        kept |= {token.text for token in tokens}
    return kept & set(candidates)


def _is_word(word: str) -> bool:
    if len(word) > _WORDS_KEPT or not any(character.isalpha() for character in word):
        return False
    if len(word) == 1:
        return _IDEOGRAPH.fullmatch(word) is not None
    return _KANA.fullmatch(word) is None and sum(character.isdigit() for character in word) <= len(word) // 2
