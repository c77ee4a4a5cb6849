"""Who may import whom (pyproject.toml, `make check`): the rules are complete, hold, and can be broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DAGSTERS = {"cli", "definitions", "defs"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_whoever_is_in_a_layer_and_is_not_dagsters_must_not_know_it() -> None:
    flow, library = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {name for layer in flow["layers"] for name in re.findall(r"\w+", layer)}
    assert {name.removeprefix("latent_assets.") for name in library["source_modules"]} == layers - DAGSTERS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (None, "", set()),
        ("catalog/shards.py", "from dagster import AssetKey", {"The library does not know Dagster"}),
        ("atlas/schema.py", "def f() -> None:\n    import dagster._core", {"The library does not know Dagster"}),
        ("catalog/schema.py", "import latent_assets.images.ledger", {"Data walks down the list of rooms once"}),
        ("errors.py", "from latent_assets import storage", {"Data walks down the list of rooms once"}),
    ],
)
def test_the_rules_hold_and_can_be_broken(tmp_path: Path, module: str | None, line: str, broken: set[str]) -> None:
    shutil.copytree(ROOT / "latent_assets", tmp_path / "latent_assets", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if module:
        with (tmp_path / "latent_assets" / module).open("a") as file:
            file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert set(re.findall(r"^(.*) BROKEN$", done.stdout, re.MULTILINE)) == broken, done.stdout + done.stderr
    assert (done.returncode == 0) == (not broken) and done.stdout.count("KEPT") == 2 - len(broken)
