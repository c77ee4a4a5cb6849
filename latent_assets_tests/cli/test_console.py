"""Texts of strangers on a terminal: nothing in them is acted on, and nothing else of them is changed."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from latent_assets.cli import console
from latent_assets.cli.asking import _print_hits
from latent_assets.cli.errors import explaining
from latent_assets.cli.profiles import profile_show
from latent_assets.client import Hit
from latent_assets.errors import ProfileError
from latent_assets.profile import load_profile

# sets the title, moves the cursor, 8-bit CSI, delete, reverses what follows, a bell, a carriage return, a half pair
HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\x7fe\u202ef\u2066g\rh\x08i\0j\ud83dk\u2028l"
PLAIN = ":smile: [bold]x[/bold] [link=http://a.b]y[/link] 写真 😀 👩‍🚀 é"


def acted_on(text: str) -> list[str]:
    """Characters of a printed text that a terminal would act on."""
    marks = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029, 0x200E, 0x200F, 0x061C}
    return [c for c in text if (ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 or ord(c) in marks]


def hit(caption: str) -> Hit:
    return Hit("0" * 32, 0.5, "cosine similarity", caption, caption, f"http://a.b/{caption}", None, {})


def table(text: str) -> Table:
    made = Table("a", "b")
    made.add_row(text, Text(text))
    return made


PRINTED: dict[str, Callable[[str], None]] = {
    "an answer": lambda text: _print_hits([hit(text)], as_json=False),
    "an answer in JSON": lambda text: _print_hits([hit(text)], as_json=True),
    "a table": lambda text: console.out.print(table(text)),
    "a table on standard error": lambda text: console.err.print(table(text)),
    "a line": lambda text: console.out.print(text),
    "a line on standard error": lambda text: console.err.print(text, style="red"),
}


@pytest.mark.parametrize("kind", PRINTED)
def test_control_characters_never_reach_the_terminal(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 300)  # which COLUMNS decides while the consoles are made
    PRINTED[kind](HOSTILE)
    printed = "".join(capsys.readouterr())
    assert not acted_on(printed) and "title" in printed


@pytest.mark.parametrize("kind", PRINTED)
def test_markup_and_names_of_emoji_stay_what_they_are(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 300)  # which COLUMNS decides while the consoles are made
    PRINTED[kind](PLAIN)
    assert PLAIN in "".join(capsys.readouterr())


@pytest.mark.parametrize("error", [ProfileError, ZeroDivisionError])
def test_errors_say_what_they_say(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error(HOSTILE + PLAIN)

    with pytest.raises(SystemExit):
        explaining(fail)()
    printed = capsys.readouterr().err
    assert not acted_on(printed) and PLAIN in printed


@given(st.text(st.characters(), max_size=50))
def test_any_text_is_shown_without_controls_and_kept_in_json(text: str) -> None:
    assert not acted_on(console.shown(text))
    written = console.escaped(json.dumps(text, ensure_ascii=False))
    assert not acted_on(written) and json.loads(written) == text
    written.encode()


def test_a_profile_that_is_shown_loads_and_is_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["latent-assets"])
    title = HOSTILE.replace("\ud83d", "") + PLAIN + "\ttab  two spaces\n" + "word " * 100
    text = f"""
name = "odd"
title = {console.escaped(json.dumps(title, ensure_ascii=False))}
examples = [":smile:", "a\\tb", "{"x" * 300}"]
[source]
path = 'a [b] :dog: "c"/*.parquet'
[source.columns]
"url :x:" = "\\u009b"
[fetch]
per_host_rate = inf
[models.clip]
name = "ViT-B-32"
pretrained = "openai"
[projection]
spaces = ["clip"]
"""
    file, copy = tmp_path / "odd.toml", tmp_path / "elsewhere" / "copy.toml"
    file.write_text(text, encoding="utf-8")
    profile_show(str(file))
    shown = capsys.readouterr().out
    assert not acted_on(shown.replace("\t", "")) and ":smile:" in shown
    copy.parent.mkdir()
    copy.write_text(shown, encoding="utf-8")
    assert load_profile(copy) == load_profile(file) and load_profile(copy).title == title
    assert tomllib.loads(shown)["title"] == title


@pytest.mark.parametrize("key", ["root", "source.path", "models.clip.config"])
@pytest.mark.parametrize("path", [r"C:\Users\me", r"C:\data", r"C:\temp\new", r"C:\x"])
def test_a_backslash_in_double_quotes_is_explained(tmp_path: Path, key: str, path: str) -> None:
    """Some are no TOML, some are other characters: a tab in a path is never meant."""
    values = {"root": "r", "source.path": "s", "models.clip.config": "c", key: path}
    file = tmp_path / "windows.toml"
    file.write_text(
        f"""
name = "windows"
root = "{values["root"]}"
source.path = "{values["source.path"]}"
projection.spaces = ["clip"]
models.clip = {{config = "{values["models.clip.config"]}", weights = "w"}}
"""
    )
    with pytest.raises(ProfileError, match=r"write paths in single quotes, 'C:\\Users\\me'"):
        load_profile(file)
    file.write_text(file.read_text().replace(f'"{path}"', f"'{path}'"))
    assert path in str(load_profile(file))[:2000].replace("\\\\", "\\")
