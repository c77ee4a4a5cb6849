"""What infra/ imports of the package is there: nothing else runs the benchmarks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from latent_assets_tests import infra

ROOT = Path(infra.__file__).parents[2]
FILES = sorted((ROOT / "infra").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_name_is_there(file: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("latent_assets"):
            module = importlib.import_module(node.module or "")
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    try:
                        importlib.import_module(f"{node.module}.{name}")
                    except ModuleNotFoundError:
                        missing.append(f"{node.module}.{name}")
    assert not missing
