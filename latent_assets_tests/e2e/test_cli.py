"""The command line on a built atlas: what it prints, what it exits with, and that errors are one paragraph."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latent_assets import cli
from latent_assets.pipeline.stages import stages_of
from latent_assets_tests.conftest import Built

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(built.home))
    monkeypatch.setenv("LATENT_ASSETS_PROFILE", str(built.file))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latent-assets", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def as_json(result: tuple[int, str, str]) -> Any:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def test_search_finds_rows_and_prints_where_they_come_from(run: Run, built: Built) -> None:
    hits = as_json(run("search", "a red circle", "-k", "5", "--json"))
    assert len(hits) == 5 and len({hit["id"] for hit in hits}) == 5
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert set(hits[0]["xyz"]) == {"clip", "vae", "joint"} and hits[0]["measure"] == "cosine similarity"
    code, text, _ = run("search", "a red circle", "-k", "5")
    assert code == 0 and all(hit["id"] in text and hit["url"] in text for hit in hits)


def test_neighbors_in_both_spaces(run: Run) -> None:
    first = as_json(run("search", "x", "-k", "1", "--json"))[0]["id"]
    for space, measure in (("clip", "cosine similarity"), ("vae", "L2 distance")):
        hits = as_json(run("neighbors", first, "--space", space, "-k", "3", "--json"))
        assert len(hits) == 3 and all(hit["id"] != first and hit["measure"] == measure for hit in hits)


def test_info_names_place_rows_spaces_and_digests(run: Run, built: Built) -> None:
    info = as_json(run("info", "--json"))
    assert info["lance_uri"] == f"{built.profile.root}/lance" and info["rows"] == 60
    assert info["spaces"] == ["clip", "vae", "joint"]
    assert all(len(info["models"][name]["digest"]) == 32 for name in ("clip", "vae"))
    assert as_json(run("models", "--json"))["clip"]["digest"] == info["models"]["clip"]["digest"]
    code, text, _ = run("info")
    lines = text.splitlines()
    assert code == 0 and lines[1].split() == ["rows", "60"], "what is in it comes first"
    assert max(n for n, line in enumerate(lines) if line.startswith(("rows", "spaces", "model", "quality"))) < min(
        n for n, line in enumerate(lines) if line.startswith(("fingerprint", "projection"))
    )


def test_status_says_what_is_there(run: Run) -> None:
    status = as_json(run("status", "--json"))
    assert status["current"] is True
    assert [row["rows"] for row in status["stages"]["image_shards"]] == [20, 20, 20]
    code, text, _ = run("status")
    assert code == 0 and "atlas_table" in text and "60 rows read, 60 in the catalog" in text


def test_a_second_build_says_that_nothing_changed(run: Run, built: Built) -> None:
    code, text, progress = run("build")
    assert code == 0 and "nothing changed, nothing to do" in text and "search" in text
    assert progress.count("✓") == len(stages_of(built.profile)) and "1 unchanged" in progress
    result = as_json(run("build", "--json"))
    assert set(result["done"].values()) == {0} and result["failed"] == {}


def test_the_readmes_first_questions_are_answered_as_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    block = next(block for block in blocks if "latent-assets search" in block)
    asked = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(asked) >= 5 and all(words[0] == ".venv/bin/latent-assets" for words in asked)
    row = as_json(run("search", "x", "-k", "1", "--json"))[0]["id"]
    for words in asked:
        code, text, error = run(*(row if word == "ID" else word for word in words[1:]))
        assert code == 0 and text, (words, error)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["search", "   "], 2, "empty"),
        (["neighbors", "no-such-id"], 2, "no-such-id"),
        (["neighbors", "0" * 32], 6, "0" * 32),
        (["neighbors", "0' OR '1'='1"], 2, "32"),
        (["search", "x", "--profile", "nosuch"], 2, "no profile `nosuch`"),
        (["build", "--profile", "/nowhere/x.toml"], 2, "/nowhere/x.toml"),
    ],
)
def test_errors_are_one_clear_paragraph(run: Run, arguments: list[str], code: int, said: str) -> None:
    found, text, error = run(*arguments)
    assert found == code and said in error and "Traceback" not in text + error


def test_an_atlas_that_is_not_built_says_how_to(run: Run, tmp_path: Path, built: Built) -> None:
    other = tmp_path / "other.toml"
    other.write_text(built.file.read_text().replace(built.profile.root, str(tmp_path / "empty")))
    code, _, error = run("search", "x", "--profile", str(other))
    assert code == 6 and "latent-assets build" in error
    assert run("status", "--profile", str(other))[0] == 0


def test_debug_shows_the_traceback(built: Built) -> None:
    command = [sys.executable, "-m", "latent_assets.cli", "--debug", "info", "--profile", "nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_profile_show_is_a_profile_again(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("profile", "show", "demo")
    assert code == 0
    copy = tmp_path / "copy.toml"
    copy.write_text(text)
    again = run("profile", "show", str(copy))
    assert again[0] == 0 and again[1] == text
    assert "demo" in run("profile", "list")[1]
