"""The reference made from the docstrings: it builds without a warning and holds what an app needs."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from latent_assets import client

ROOT = Path(__file__).parent.parent


def command(target: Path) -> list[str]:
    """What `make docs` runs, with this Python and another directory."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "docs", "INSTALLED=", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    words = [word for word in shlex.split(shown) if "=" not in word]
    return [sys.executable, "-m", "pdoc", *(str(target) if word == "build/docs" else word for word in words[1:])]


@pytest.mark.slow
def test_the_reference_builds_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "PDOC_ALLOW_EXEC": "1"}
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    page = (tmp_path / "latent_assets" / "client.html").read_text(encoding="utf-8")
    found = set(re.findall(r' id="([\w.]+)"', page))
    methods = {f"Atlas.{name}" for name, _ in inspect.getmembers(client.Atlas) if not name.startswith("_")}
    assert {"Atlas.open", "Atlas.search_text", "Atlas.neighbors", "Atlas.to_polars"} <= methods
    assert found >= methods | {name for name in client.__all__ if inspect.isclass(getattr(client, name))}
    rooms = {path.parent.name for path in (ROOT / "latent_assets").glob("*/__init__.py")} - {"cli", "defs"}
    pages = {path.stem for path in (tmp_path / "latent_assets").glob("*.html")}
    assert rooms <= pages and "cli" not in pages


def test_all_names_what_is_public() -> None:
    defined = {
        name for name, value in vars(client).items()
        if inspect.isclass(value) and value.__module__ == client.__name__ and not name.startswith("_")
    }  # fmt: skip
    assert defined <= set(client.__all__) and all(hasattr(client, name) for name in client.__all__)
