"""The program itself: its commands, both ways of starting it, what it loads, and profiles as it prints them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer.main

from latent_assets import cli
from latent_assets.cli.app import app
from latent_assets.profile import load_profile, profile_toml, shipped_profiles

COMMANDS = [
    *("build", "status", "demo", "ui", "search", "neighbors", "generate", "info", "schema", "models", "inbox"),
    "profile",
]
HEAVY = {"dagster", "torch", "lance", "lancedb", "polars", "numpy", "pyarrow", "matplotlib", "aiohttp"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, on a terminal wide enough for its messages."""
    command = [sys.executable, "-m", "latent_assets.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def test_commands_come_in_the_order_of_use() -> None:
    group = typer.main.get_command(app)
    names = list(group.commands)  # type: ignore[attr-defined]
    assert [name for name in names if name in COMMANDS] == COMMANDS


def test_the_installed_program_is_this_one() -> None:
    (program,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "latent-assets")
    assert program.value == "latent_assets.cli:main" and program.load() is cli.main


@pytest.mark.parametrize("name", [*COMMANDS, "profile show", "profile list"])
def test_every_command_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["latent-assets", *name.split(), "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code and f"latent-assets {name}" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from latent_assets.cli import main; sys.argv = ['latent-assets', 'build', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "typer" in done.stderr
    assert not [name for name in HEAVY if f"'{name}'" in done.stderr]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch"], 2, "No such command"),
        (["search"], 2, "Missing argument"),
        (["search", "x", "-k", "0"], 2, "should be greater than or equal to 1"),
        (["profile", "show", "nosuch"], 2, "error: There is no profile `nosuch`"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments)
    assert done.returncode == code and said in " ".join(done.stderr.split()) and not done.stdout
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_names_its_kind_and_the_way_to_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from latent_assets.cli.errors import DEBUG_VARIABLE, explaining

    def fail() -> None:
        raise ZeroDivisionError("by [nought]")

    with pytest.raises(SystemExit) as stop:
        explaining(fail)()
    assert stop.value.code == 70
    assert capsys.readouterr().err == "error: unexpected ZeroDivisionError: by [nought] (more with --debug)\n"
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        explaining(fail)()


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_printed_profile_is_the_same_profile_again(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    file = tmp_path / "copy.toml"
    file.write_text(profile_toml(profile), encoding="utf-8")
    assert load_profile(file) == profile


def test_text_of_any_kind_survives_being_printed(tmp_path: Path) -> None:
    profile = load_profile("demo")
    odd = profile.model_copy(
        update={
            "title": 'a "quoted" \\ back\tslash\n\x7fé😀',
            "source": profile.source.model_copy(update={"columns": {"url": "a.b c", "caption": "ü"}}),
        }
    )
    file = tmp_path / "copy.toml"
    file.write_text(profile_toml(odd), encoding="utf-8")
    assert load_profile(file) == odd
    assert tomllib.loads(file.read_text(encoding="utf-8"))["source"]["columns"] == {"url": "a.b c", "caption": "ü"}


def test_profile_commands_print_json_and_toml() -> None:
    shown = run("profile", "show", "demo")
    assert shown.returncode == 0 and tomllib.loads(shown.stdout)["name"] == "demo"
    assert json.loads(run("profile", "show", "demo", "--json").stdout)["name"] == "demo"
    assert json.loads(run("profile", "list", "--json").stdout) == shipped_profiles()
