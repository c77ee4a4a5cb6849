"""Where atlases are kept: said before anything is written, when nobody chose it; and what is pasted from the README."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from latent_assets import profile
from latent_assets.cli import options
from latent_assets.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "infra" / "docs" / "reading.md"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package where pip would put it: no checkout around it."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "latent_assets", site / "latent_assets", ignore=shutil.ignore_patterns("__pycache__"))
    return site


def run(site: Path, user: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("LATENT_ASSETS_HOME", "DAGSTER_HOME")}
    environment |= {"PYTHONPATH": str(site), "HOME": str(user), "COLUMNS": "300", **variables}
    command = [sys.executable, "-m", "latent_assets.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=user, capture_output=True, text=True, check=False)


def write_broken(user: Path, root: str = "") -> str:
    """A profile whose build fails at once: what is said before is what counts."""
    user.mkdir(exist_ok=True)
    text = f"""
name = "mine"
{f'root = "{root}"' if root else ""}
[source]
path = "nothing/*.parquet"
[models.clip]
config = "c.json"
weights = "w.safetensors"
[projection]
spaces = ["clip"]
"""
    (user / "mine.toml").write_text(text, encoding="utf-8")
    return "mine.toml"


@pytest.mark.parametrize("command", [["build"], ["automate", "status"], ["inbox", "take"]])
def test_the_home_that_nobody_chose_is_said_before_it_is_there(
    installed: Path, tmp_path: Path, command: list[str]
) -> None:
    user = tmp_path / "user"
    done = run(installed, user, *command, "-p", write_broken(user))
    first = done.stderr.splitlines()[0]
    assert str(user / ".latent-assets") in first and "$LATENT_ASSETS_HOME" in first and "`root`" in first, done.stderr
    assert first.startswith("The atlas and its Dagster instance are kept in")


def test_it_is_said_once_and_not_where_it_was_chosen(installed: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    mine = write_broken(user)
    elsewhere = {"LATENT_ASSETS_HOME": str(tmp_path / "chosen")}
    assert "kept in" not in run(installed, user, "build", "-p", mine, **elsewhere).stderr
    assert not (user / ".latent-assets").exists()
    of_root = write_broken(user, str(tmp_path / "root"))
    chosen = run(installed, user, "build", "-p", of_root, DAGSTER_HOME=str(tmp_path))
    assert "kept in" not in chosen.stderr, "nothing of it is below the home"
    told = run(installed, user, "build", "-p", of_root).stderr
    assert told.startswith("The atlas's Dagster instance is kept in")
    assert "kept in" not in run(installed, user, "build", "-p", of_root).stderr, "it is there"
    assert "kept in" not in run(installed, user, "profile", "list").stderr


def test_a_checkout_keeps_its_atlases_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("LATENT_ASSETS_HOME")
    assert profile.checkout() == ROOT and profile.home() == ROOT / ".latent-assets"
    options.announce_home([profile.load_profile("demo")])
    assert capsys.readouterr().err == ""


def commands() -> list[str]:
    """Every command that the pages show: lines of shell blocks, and spans that begin with a program."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            found += [line for line in block.splitlines() if line.strip()]
        prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose)
        found += [
            s.replace("\n", " ") for s in spans if re.match(r"(\S*/)?(latent-assets|python3?|pip|uv|pytest) \S", s)
        ]
    return found


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_of_the_pages_can_be_pasted(command: str) -> None:
    """Programs of the environment by their path, targets and files that are there, options that exist."""
    words = shlex.split(command, comments=True)
    program, *arguments = words
    if program == "make":
        assert subprocess.run(["make", "-n", "INSTALLED=", *arguments], cwd=ROOT, capture_output=True).returncode == 0
        return
    if program in ("npm", "pre-commit", "curl"):
        return  # of the reader's own project or machine
    assert program.startswith(".venv/bin/"), "a newcomer has no other one"
    name = program.removeprefix(".venv/bin/")
    for word in arguments:
        if re.fullmatch(r"(latent_assets|latent_assets_tests|infra|docs)/\S+", word):
            assert (ROOT / word).exists(), word
    if name == "latent-assets":
        parses(arguments)
    elif name == "python" and arguments[:2] != ["-m", "pytest"]:
        assert arguments[0] == "-m" and (ROOT / f"{arguments[1].replace('.', '/')}.py").exists()
    else:
        assert name in ("python", "uv")


def parses(arguments: list[str]) -> None:
    """Have the command line take these arguments; nothing is run. `[x]` may be there or not, `a|b` is a choice.

    Raises what the command line raises for wrong usage.
    """
    arguments = [word.strip("[]").partition("|")[0] for word in arguments]
    command: Any = typer.main.get_command(app)
    context = None
    while arguments and arguments[0] in getattr(command, "commands", ()):
        context = command.context_class(command, parent=context)
        command = command.commands[arguments.pop(0)]
    alone = getattr(command, "invoke_without_command", False) and arguments[:1] and arguments[0].startswith("-")
    assert not arguments or alone or not hasattr(command, "commands"), f"no command {arguments}"
    command.make_context(command.name, arguments, parent=context)


@pytest.mark.parametrize(
    "wrong", [["nosuch"], ["search", "--nosuch"], ["build", "x"], ["inbox", "nosuch"], ["ui", "--port", "x"]]
)
def test_a_command_that_is_wrong_would_be_noticed(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"o such|unexpected|valid integer|no command"):
        parses(wrong)


def test_the_pages_show_many_commands() -> None:
    assert len(commands()) > 20
